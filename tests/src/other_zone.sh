# Wires a second zone to the client, whose addresses inside are those of the first. Run inside the lab's sandbox.

for host in other-gateway other-server; do
    ip netns add "$host"
    ip -n "$host" link set lo up
    ip netns exec "$host" sysctl -qw net.ipv4.ip_unprivileged_port_start=0
done
ip link add other netns client type veth peer name outside netns other-gateway
ip link add inside netns other-gateway type veth peer name zone netns other-server

up() { # NAMESPACE DEVICE ADDRESS
    ip -n "$1" link set "$2" addrgenmode none
    ip -n "$1" addr add "$3" dev "$2"
    ip -n "$1" link set "$2" up
}
up client other 203.0.113.2/24
up other-gateway outside 203.0.113.1/24
up other-gateway inside 198.51.100.1/24
up other-server zone 198.51.100.10/24
