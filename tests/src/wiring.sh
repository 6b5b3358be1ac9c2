# Wires the lab's three hosts. Run inside its sandbox with ROUTING set to none, wire or open.

for host in client gateway server; do
    ip netns add "$host"
done

ip link add gate netns client type veth peer name outside netns gateway
ip link add inside netns gateway type veth peer name zone netns server

# Link-local addresses would come and go by themselves while a test compares the kernel's state. The gateway
# gets its own below: without them it can't ask for the neighbour that a forwarded packet goes to.
ip -n client link set gate addrgenmode none
ip -n gateway link set outside addrgenmode none
ip -n gateway link set inside addrgenmode none
ip -n server link set zone addrgenmode none

host() { # NAME: `ip -batch` for one host, read from standard input
    ip netns exec "$1" ip -batch -
}

host client <<END
    link set lo up
    link set gate up
    addr add 192.0.2.2/24 dev gate
    addr add 2001:db8:1::2/64 dev gate nodad
END
host gateway <<END
    link set lo up
    link set outside up
    link set inside up
    addr add 192.0.2.1/24 dev outside
    addr add 2001:db8:1::1/64 dev outside nodad
    addr add 198.51.100.1/24 dev inside
    addr add 2001:db8:2::1/64 dev inside nodad
    addr add fe80::1/64 dev outside nodad
    addr add fe80::1/64 dev inside nodad
END
{
    echo "link set lo up"
    echo "link set zone up"
    for last in 10 11 12 13 14 15 16 17 18 19 20; do
        echo "addr add 198.51.100.$last/24 dev zone"
    done
    echo "addr add 2001:db8:2::10/64 dev zone nodad"
    echo "route add default via 198.51.100.1"
    echo "route add default via 2001:db8:2::1"
} | host server

case $ROUTING in
wire | open)
    {
        echo "route add default via 192.0.2.1"
        echo "route add default via 2001:db8:1::1"
    } | host client
    ;;
esac
forward=0
[ "$ROUTING" = open ] && forward=1

# A gateway that dials one server over and over must not run out of ports in TIME-WAIT.
# The gateway's service account listens at port 443.
for host in client gateway server; do
    ip netns exec "$host" sysctl -qw \
        net.ipv4.tcp_tw_reuse=1 \
        net.ipv4.ip_local_port_range="10000 65000" \
        net.ipv4.ip_unprivileged_port_start=0
done
ip netns exec gateway sysctl -qw net.ipv4.ip_forward=$forward net.ipv6.conf.all.forwarding=$forward
