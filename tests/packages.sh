#!/bin/sh
# Installs the Debian packages that are missing: for building, the lab and the tests; with `bench` for the
# bench's peers. Says nothing when all are there.
set -eu

wanted='gcc libc6-dev make git ca-certificates
    nftables iproute2 procps util-linux sudo tcpdump
    curl openssl nginx postgresql redis-server redis-tools
    netcat-openbsd python3 golang-go
    openssh-client openssh-server dropbear-bin python3-asyncssh rsync oathtool python3-paramiko tinyproxy microsocks
    dbus-daemon libnotify-bin python3-jeepney'
[ "${1-}" = bench ] && wanted='redsocks sshuttle iptables'

missing=
for package in $wanted; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || status=
    [ "$status" = installed ] || missing="$missing $package"
done

if ! command -v cargo >/dev/null; then
    echo "cargo is missing: install Rust 1.90 or newer, for example from https://rustup.rs" >&2
    [ -n "$missing" ] || exit 1
fi
[ -n "$missing" ] || exit 0

sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
echo "installing$missing"

# The lab starts servers of its own; those of the packages shall not start beside them, nor after the next boot.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' | $sudo tee $policy >/dev/null
    $sudo chmod 755 $policy
    trap '$sudo rm -f $policy' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get -qq update
installed() { dpkg-query -W -f '${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p' | sort -u; }
before=$(installed)
# shellcheck disable=SC2086
$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends $missing
if command -v systemctl >/dev/null; then
    new=$(installed | grep -Fxv "$before" || true)
    # shellcheck disable=SC2086
    units=$(dpkg -L $new | sed -nE 's#^(/usr)?/lib/systemd/system/([^/@]*\.(service|socket))$#\2#p')
    # shellcheck disable=SC2086
    [ -z "$units" ] || $sudo systemctl --quiet disable $units >/dev/null 2>&1 ||
        echo "some of these could not be disabled: $units" >&2
fi
command -v cargo >/dev/null
