"""A peer that logs in and then says what it should not: bad_peer.py PORT KEY USER"""
import os
import struct

import paramiko

import peer as ssh
from peer import string, u32

PING = 0x70696E67
GLOBAL, OPEN, CONFIRMATION, OPEN_FAILURE, ADJUST, DATA, EXTENDED, EOF, CLOSE, REQUEST = (
    80, 90, 91, 92, 93, 94, 95, 96, 97, 98)


class Guest(ssh.Peer):
    """Logged in; what comes for channels is noted."""

    def __init__(self, port, key, user):
        super().__init__(port, range(80, 256))
        self.transport.auth_publickey(user, key)

    def open(self, number=1, kind="session", window=1 << 20, most=32768, more=b""):
        self.send(OPEN, string(kind), u32(number, window, most), more)

    def session(self, **how):
        """The gateway's number of a session channel."""
        self.open(**how)
        answer = self.wait(lambda m: m[0] == CONFIRMATION)
        return struct.unpack(">I", answer[5:9])[0]

    def link(self, **how):
        channel = self.session(**how)
        self.request(channel, "subsystem", string("adit-link"))
        self.wait(lambda m: m[0] == 99)
        return channel

    def request(self, channel, name, more=b"", reply=True):
        self.send(REQUEST, u32(channel), string(name), bytes([reply]), more)

    def ended(self):
        """Or does it still answer? RFC 4254 section 5.1 has an answer for a kind that is not known."""
        try:
            self.open(PING, "ping@adit.example")
        except (OSError, EOFError, paramiko.SSHException):
            pass
        return self.wait(lambda m: m[:5] == bytes([OPEN_FAILURE]) + u32(PING)) is None


def data(channel, content):
    return u32(channel), string(content)


def beyond_the_window_of_a_link(peer):
    channel = peer.link()
    for _ in range(2048):
        peer.send(DATA, *data(channel, bytes(32768)))
    peer.wait(lambda m: m[0] == CLOSE)


def beyond_the_window_before_a_link(peer):
    channel = peer.session()
    for _ in range(2048):
        peer.send(DATA, *data(channel, bytes(32768)))


def data_for_no_channel(peer):
    for kind in (DATA, EOF, CLOSE):
        peer.send(kind, u32(4242), string("x") if kind == DATA else b"")
    peer.send(ADJUST, u32(4242, 1))
    peer.request(4242, "shell")


def data_after_the_end(peer):
    channel = peer.link()
    peer.send(EOF, u32(channel))
    peer.send(DATA, *data(channel, b"x" * 1000))


def data_after_the_close(peer):
    channel = peer.link()
    peer.send(CLOSE, u32(channel))
    peer.send(DATA, *data(channel, b"x" * 1000))


def closed_twice(peer):
    channel = peer.link()
    for _ in range(3):
        peer.send(EOF, u32(channel))
        peer.send(CLOSE, u32(channel))


def a_flood_of_channels(peer):
    for number in range(1000):
        peer.open(number)


def a_flood_of_forwarded_ports(peer):
    where = string("127.0.0.1") + u32(1) + string("127.0.0.1") + u32(1)
    for number in range(5000):
        peer.open(number, "direct-tcpip", more=where)


def kinds_of_channels_that_no_one_knows(peer):
    for number, kind in enumerate(("", "x" * 10000, "session\0", "auth-agent@openssh.com", "tun@openssh.com")):
        peer.open(number, kind)


def requests_that_no_one_knows(peer):
    channel = peer.link()
    for name in ("", "x" * 10000, "eow@openssh.com", "no-such-request"):
        peer.request(channel, name)
        peer.request(channel, name, reply=False)


def global_requests_that_no_one_knows(peer):
    for name in ("", "x" * 10000, "keepalive@openssh.com", "hostkeys-prove-00@openssh.com"):
        peer.send(GLOBAL, string(name), b"\1")
        peer.send(GLOBAL, string(name), b"\0")


def a_packet_that_is_too_long(peer):
    peer.send(2, string(bytes(1 << 20)))


def data_without_any(peer):
    channel = peer.link()
    for _ in range(1000):
        peer.send(DATA, *data(channel, b""))
        peer.send(EXTENDED, u32(channel, 1), string(b""))


def a_window_beyond_what_fits(peer):
    channel = peer.link()
    for _ in range(10):
        peer.send(ADJUST, u32(channel, 0xFFFFFFFF))


def a_channel_that_takes_packets_of_nothing(peer):
    peer.link(window=0xFFFFFFFF, most=0)


def a_channel_without_a_window(peer):
    peer.link(window=0)


def shells_without_a_window(peer):
    channel = peer.session(window=0)
    for _ in range(100):
        peer.request(channel, "shell")
    peer.wait(lambda m: m[0] == 100)


def a_confirmation_of_nothing(peer):
    peer.send(CONFIRMATION, u32(77, 77, 1 << 20, 32768))


def a_failure_of_nothing(peer):
    peer.send(OPEN_FAILURE, u32(77, 1), string(""), string(""))


def a_link_that_is_confirmed_again(peer):
    channel = peer.link()
    peer.send(CONFIRMATION, u32(channel, 99, 0, 0))
    peer.send(OPEN_FAILURE, u32(channel, 1), string(""), string(""))


def a_flood_of_key_exchanges(peer):
    lists = ["curve25519-sha256", "ssh-ed25519"] + ["aes128-ctr"] * 2 + ["hmac-sha2-256"] * 2
    lists += ["none"] * 2 + [""] * 2
    for _ in range(1000):
        peer.send(20, os.urandom(16), *map(string, lists), bytes(5))


def new_keys_out_of_turn(peer):
    peer.send(21)


def a_login_after_the_login(peer):
    # RFC 4252 section 5.3: silently ignored.
    peer.send(50, string("root"), string("ssh-connection"), string("none"))
    peer.send(61, u32(0))


def a_service_after_the_login(peer):
    peer.send(5, string("ssh-userauth"))


def a_link_begun_twice(peer):
    channel = peer.link()
    peer.request(channel, "subsystem", string("adit-link"))
    peer.wait(lambda m: m[0] == 100)


def a_link_that_is_noise(peer):
    channel = peer.link()
    peer.send(DATA, *data(channel, os.urandom(30000)))
    peer.wait(lambda m: m[0] == CLOSE)


def a_link_of_the_longest_frames(peer):
    channel = peer.link()
    peer.send(DATA, *data(channel, b"\xff" * 30000))
    peer.wait(lambda m: m[0] == CLOSE)


def extended_data_in_a_link(peer):
    channel = peer.link()
    peer.send(EXTENDED, u32(channel, 1), string(bytes(1000)))
    peer.send(EXTENDED, u32(channel, 0xFFFFFFFF), string(bytes(1000)))


def lengths_beyond_their_packet(peer):
    peer.send(OPEN, u32(0xFFFFFFFF), b"session")


def messages_that_no_one_knows(peer):
    for kind in range(192, 256):
        peer.send(kind, bytes(100))


def a_terminal_without_end(peer):
    channel = peer.session()
    modes = b"\1\0\0\0\0" * 500
    peer.request(channel, "pty-req", string("x" * 1000) + u32(0xFFFFFFFF, 0, 0, 0) + string(modes))


def places_to_listen_at(peer):
    for port in range(2000):
        peer.send(GLOBAL, string("tcpip-forward"), b"\1", string("x" * 100), u32(0xFFFF0000 + port))


arguments = ssh.arguments()
ssh.act(dict(globals()), lambda: Guest(*arguments), 1)
