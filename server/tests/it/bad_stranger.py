"""A peer that has exchanged keys and says what it should not before it is logged in: bad_stranger.py PORT KEY USER

The key is one that would log the user in.
"""
import os
import random
import struct
import sys
import threading
import time

import paramiko

import peer as ssh
from peer import string, u32

DISCONNECT, UNIMPLEMENTED, SERVICE_REQUEST, SERVICE_ACCEPT, KEXINIT, NEWKEYS = 1, 3, 5, 6, 20, 21
REQUEST, FAILURE, SUCCESS, BANNER, PK_OK, INFO_RESPONSE = 50, 51, 52, 53, 60, 61
CONNECTION, AUTHENTICATION = string("ssh-connection"), string("ssh-userauth")
PORT, KEY, USER = ssh.arguments()
ED25519, RSA, P256 = "ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256"
CERTIFICATE = "ssh-ed25519-cert-v01@openssh.com"
ENORMOUS = 200 * 1024


class Stranger(ssh.Peer):
    """Not logged in; what comes for the login is noted."""

    def __init__(self):
        super().__init__(PORT, [DISCONNECT, UNIMPLEMENTED, SERVICE_ACCEPT, *range(50, 256)])
        self.is_served = False

    def say(self, kind, *parts):
        """The answer; none when the connection has ended."""
        before = len(self.came)
        try:
            self.send(kind, *parts)
        except (OSError, EOFError):
            return None
        return self.wait(lambda _: True, before)

    def serve(self):
        self.is_served = True
        return self.say(SERVICE_REQUEST, AUTHENTICATION)

    def ended(self):
        """Or does it still answer? A service is accepted, and nobody is let in for nothing."""
        if any(message[0] == SUCCESS for message in self.came):
            return False
        answer = self.say(REQUEST, request("none")) if self.is_served else self.serve()
        return answer is None or answer[0] == DISCONNECT

    def each(self, kind, contents):
        """See `each_of`."""
        self.each_of([(kind, content) for content in contents])

    def each_of(self, messages, say=None):
        """Says each of them in a connection of its own; what comes of it counts as if it had come here."""
        failed = []

        def one(*message):
            try:
                stranger = Stranger()
                stranger.serve()
                (say or Stranger.say)(stranger, *message)
                stranger.ended()
                self.came.extend(stranger.came)
                stranger.transport.close()
            except (OSError, EOFError, paramiko.SSHException):
                pass  # Ended before all was said.
            except ssh.Silent:
                failed.append(message)

        threads = [threading.Thread(target=one, args=message) for message in messages]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise ssh.Silent(failed)


def request(method, more=b"", user=USER, service=CONNECTION):
    return string(user) + service + string(method) + more


def shown(algorithm, blob, signature=None):
    """RFC 4252 section 7: asked about, or with what should prove it."""
    end = b"" if signature is None else string(signature)
    return request("publickey", bytes([signature is not None]) + string(algorithm) + string(blob) + end)


def signed(stranger, algorithm=ED25519, session=None, user=USER):
    """By the key, as RFC 4252 section 7 wants it."""
    what = request("publickey", b"\1" + string(algorithm) + string(KEY.asbytes()), user)
    session = session or stranger.transport.session_id
    return KEY.sign_ssh_data(string(session) + bytes([REQUEST]) + what).asbytes()


def both_ways(pairs):
    """Asked about, and with a signature of noise."""
    for algorithm, blob in pairs:
        yield shown(algorithm, blob)
        yield shown(algorithm, blob, string(algorithm) + string(os.urandom(64)))


def a_login_that_is_cut_short(peer):
    whole = shown(ED25519, KEY.asbytes(), string(ED25519) + string(bytes(64)))
    peer.each(REQUEST, [whole[:length] for length in range(0, len(whole), 9)])


def lengths_beyond_their_login(peer):
    user, method = string(USER) + CONNECTION, string("publickey") + b"\1"
    beyond = [u32(length) + b"x" for length in (100, 0x7FFFFFFF, 0xFFFFFFFF)]
    starts = [b"", string(USER), user, user + method, user + method + string(ED25519),
              user + method + string(ED25519) + string(KEY.asbytes())]
    peer.each(REQUEST, [start + end for start in starts for end in beyond])


def keys_of_noise(peer):
    point = b"\4" + b"\xff" * 64
    number = string(b"\0" + b"\xff" * 2048)
    blobs = [(ED25519, b""), (ED25519, os.urandom(32768))]
    blobs += [(ED25519, string(ED25519) + string(os.urandom(length))) for length in (0, 31, 33, 32768)]
    blobs += [(P256, string(P256) + string("nistp256") + string(p)) for p in (b"", b"\0", point, point[:64])]
    blobs += [(P256, string(P256) + string("nistp521") + string(point))]
    blobs += [("rsa-sha2-512", string(RSA) + e + n) for e in (string(b""), string(b"\1"), number)
              for n in (string(b""), string(b"\1"), number)]
    blobs += [("sk-ssh-ed25519@openssh.com", string("sk-ssh-ed25519@openssh.com") + string(bytes(32)))]
    blobs += [("ssh-dss", string("ssh-dss") + number * 4), ("x" * 10000, string("x" * 10000)), ("", b"")]
    peer.each(REQUEST, both_ways(blobs))


def certificates_of_noise(peer):
    public = KEY.asbytes()
    point = public[-36:]
    start = string(CERTIFICATE) + string(bytes(32)) + point + bytes(8) + u32(1) + string("id")
    times = bytes(8) + b"\xff" * 8
    rest = string(string(USER)) + times + string(b"") + string(b"") + string(b"")
    signature = string(string(ED25519) + string(os.urandom(64)))
    whole = start + rest + string(public) + signature
    bad = [whole[:length] for length in range(40, len(whole), 25)]
    # Signed by another certificate, by nobody, by itself twice; lists that are no lists; enormous ones.
    bad += [start + rest + string(whole) + signature, start + rest + string(b"") + string(b"")]
    bad += [whole + whole, start + string(b"\0\0\0\xffx") + rest[4:] + string(public) + signature]
    bad += [start + string(string("x") * 6000) + times + string(string("o") * 2000) * 2 + string(b"")
            + string(public) + signature, start + os.urandom(32768), string(CERTIFICATE)]
    peer.each(REQUEST, both_ways((CERTIFICATE, blob) for blob in bad))


def signatures_that_are_none(peer):
    of_noise = [b"", string(ED25519), string(ED25519) + string(b""), os.urandom(32768)]
    of_noise += [string(ED25519) + string(os.urandom(length)) for length in (63, 64, 65)]
    peer.each(REQUEST, [shown(ED25519, KEY.asbytes(), signature) for signature in of_noise])


def a_signature_by_another_name(peer):
    peer.serve()
    good = signed(peer)
    for name in (RSA, "rsa-sha2-512", P256, "none", ""):
        peer.say(REQUEST, shown(ED25519, KEY.asbytes(), string(name) + good[4 + len(ED25519):]))


def a_signature_for_something_else(peer):
    peer.serve()
    for signature in (signed(peer, session=bytes(32)), signed(peer, user="root"), signed(peer, "ssh-ed448")):
        peer.say(REQUEST, shown(ED25519, KEY.asbytes(), signature))


def the_signature_that_is_wanted(peer):
    """No misbehaviour: so the others are refused for what is wrong with them."""
    peer.serve()
    peer.say(REQUEST, shown(ED25519, KEY.asbytes(), signed(peer)))


def a_key_by_another_name(peer):
    peer.serve()
    for name in (RSA, "rsa-sha2-256", P256, CERTIFICATE):
        peer.say(REQUEST, shown(name, KEY.asbytes(), signed(peer, name)))


def answers_to_no_question(peer):
    contents = [u32(0), u32(1) + string("yes"), u32(0xFFFFFFFF), u32(0xFFFFFFFF) + string("x") * 5000, b"", b"\0"]
    peer.each(INFO_RESPONSE, contents)


def methods_that_no_one_knows(peer):
    methods = ["", "x" * 10000, "hostbased", "gssapi-with-mic", "publickey\0", "PUBLICKEY", b"\xff\xfe"]
    peer.each(REQUEST, [request(method, string("x") * 4) for method in methods])


def a_password_in_the_wrong_place(peer):
    passwords = [b"\0" + string("x"), b"\1" + string("x") + string("y"), b"\0" + string("x" * 100000), b""]
    peer.each(REQUEST, [request("password", password) for password in passwords])


def a_service_that_no_one_knows(peer):
    peer.say(SERVICE_REQUEST, string("no-such-service"))


def what_comes_after_the_login_as_a_service(peer):
    peer.say(SERVICE_REQUEST, CONNECTION)


def a_login_for_a_service_that_no_one_knows(peer):
    peer.serve()
    peer.say(REQUEST, request("none", service=string("no-such-service")))


def a_login_before_its_service(peer):
    peer.send(REQUEST, shown(ED25519, KEY.asbytes(), signed(peer)))


def a_service_that_is_asked_for_again(peer):
    for _ in range(3):
        peer.serve()


def a_channel_before_the_login(peer):
    peer.serve()
    peer.say(90, string("session"), u32(0, 1 << 20, 32768))


def forwarded_ports_before_the_login(peer):
    peer.serve()
    where = string("127.0.0.1") + u32(PORT)
    for number in range(100):
        peer.send(90, string("direct-tcpip"), u32(number, 1 << 20, 32768), where, where)


def a_place_to_listen_at_before_the_login(peer):
    peer.serve()
    peer.say(80, string("tcpip-forward"), b"\1", string(""), u32(0))


def data_before_the_login(peer):
    peer.serve()
    peer.say(94, u32(0), string(bytes(1000)))


def what_only_a_server_says(peer):
    peer.each_of([(FAILURE, string("publickey") + b"\0"), (SUCCESS,), (BANNER, string("hello") + string("")),
                  (PK_OK, string(ED25519) + string(KEY.asbytes())), (SERVICE_ACCEPT, AUTHENTICATION)])


def new_keys_before_the_login(peer):
    peer.serve()
    peer.send(NEWKEYS)


def a_flood_of_key_exchanges(peer):
    lists = ["curve25519-sha256", ED25519] + ["aes128-ctr"] * 2 + ["hmac-sha2-256"] * 2 + ["none"] * 2 + [""] * 2
    for _ in range(1000):
        peer.send(KEXINIT, os.urandom(16), *map(string, lists), bytes(5))


def a_name_that_is_no_name(peer):
    names = ["", "x" * ENORMOUS, b"\xff\xfe", "alice\0", "../alice", "alice/../bob", "%u", "-alice", " alice", "\n"]
    keys = b"\0" + string(ED25519) + string(KEY.asbytes())
    peer.each(REQUEST, [request("publickey", keys, name) for name in names])


def a_flood_of_logins(peer):
    peer.serve()
    for _ in range(1000):
        peer.send(REQUEST, request("none"))
    peer.end()


def a_flood_of_keys(peer):
    peer.serve()
    for number in range(1000):
        peer.send(REQUEST, shown(ED25519, string(ED25519) + string(struct.pack(">8I", *[number] * 8))))
    peer.end()


def a_packet_that_is_too_long(peer):
    peer.serve()
    peer.send(2, string(bytes(1 << 20)))


def messages_that_no_one_knows(peer):
    peer.serve()
    for kind in range(192, 256):
        peer.send(kind, bytes(100))


def changed(chance, content):
    """Cut, lengthened, or with other bytes or lengths in some places."""
    content = bytearray(content)
    for _ in range(chance.randrange(4)):
        start, length = chance.randrange(len(content) + 1), chance.randrange(6)
        content[start:start + length] = chance.choice([b"", b"\xff", u32(0), u32(0xFFFFFFFF), chance.randbytes(9)])
    if chance.random() < 0.2:
        del content[chance.randrange(len(content) + 1):]
    return bytes(content)


def anything(peer):
    """Changes of what can be said, by a seed; ADIT_FUZZ_SECONDS goes on with others."""
    noise = string(ED25519) + string(bytes(64))
    blobs = [(ED25519, KEY.asbytes()), (RSA, string(RSA) + string(b"\1\0\1") + string(bytes([200] * 256))),
             (CERTIFICATE, string(CERTIFICATE) + string(bytes(32)) + KEY.asbytes()[-36:] + bytes(200))]
    good = [(REQUEST, shown(*blob, signature)) for blob in blobs for signature in (None, noise)]
    good += [(REQUEST, request("none")), (REQUEST, request("keyboard-interactive", string("") * 2))]
    good += [(INFO_RESPONSE, u32(1) + string("x")), (SERVICE_REQUEST, AUTHENTICATION), (2, string("x" * 20))]
    until = time.monotonic() + float(os.environ.get("ADIT_FUZZ_SECONDS", "0"))
    while True:
        seed = int.from_bytes(os.urandom(8), "big")
        chance = random.Random(seed)
        some = [chance.choice(good) for _ in range(40)]
        some = [(kind if chance.random() < 0.9 else chance.randrange(256), changed(chance, content)) for kind, content in some]
        try:
            peer.each_of(some, Stranger.send)
        except ssh.Silent:
            print("seed", seed, file=sys.stderr)
            raise
        if time.monotonic() > until:
            return


ssh.act(dict(globals()), Stranger, 40)
