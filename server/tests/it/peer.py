"""An SSH client that says whatever it is told to, on a library that is not the gateway's.

A script that acts with it runs each of its functions whose first argument is called `peer`, each in a
connection of its own, and gives a line of JSON for it: its name, whether the gateway ended the
connection (else it still answers), and how many messages of which number came before that.
Numbers are those of RFC 4250 section 4.1.2.
"""
import json
import socket
import struct
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import paramiko

PATIENCE = 15
DISCONNECT = 1


def u32(*numbers):
    return struct.pack(f">{len(numbers)}I", *numbers)


def string(text):
    text = text.encode() if isinstance(text, str) else text
    return u32(len(text)) + text


class Silent(Exception):
    """Neither answered nor ended."""


class Peer:
    """Has exchanged keys. Messages of `noted` numbers are noted and go nowhere."""

    def __init__(self, port, noted):
        self.came, self.news = [], threading.Condition()
        self.transport = paramiko.Transport(socket.create_connection(("127.0.0.1", port)))
        read = self.transport.packetizer.read_message

        def noting():
            while True:
                kind, message = read()
                if kind in noted:
                    with self.news:
                        self.came.append(bytes([kind]) + message.asbytes())
                        self.news.notify_all()
                if kind not in noted or kind == DISCONNECT:
                    return kind, message

        self.transport.packetizer.read_message = noting
        self.transport.start_client(timeout=PATIENCE)

    def end(self):
        """Waits until the gateway has ended the connection."""
        self.wait(lambda _: False)

    def send(self, kind, *parts):
        message = paramiko.Message()
        message.add_bytes(bytes([kind]) + b"".join(parts))
        self.transport.packetizer.send_message(message)

    def wait(self, fits, start=0):
        """The first message that fits, of those from `start` on; none when the connection ended."""
        until = time.monotonic() + PATIENCE
        with self.news:
            while time.monotonic() < until:
                for message in self.came[start:]:
                    if fits(message):
                        return message
                if not self.transport.is_active():
                    return None
                self.news.wait(0.02)
        raise Silent


def act(acts, begin, at_once):
    """Runs those of `acts` in which the first argument is a peer, `at_once` of them at a time; each has one that `begin` gives."""

    def run(misbehave):
        peer = begin()
        try:
            misbehave(peer)
        except (OSError, EOFError, paramiko.SSHException, TypeError):
            pass  # Ended before all was said.
        ended = peer.ended()
        came = Counter(message[0] for message in peer.came)
        peer.transport.close()
        return {"name": misbehave.__name__, "ended": ended, "came": came}

    acts = [f for f in acts.values() if getattr(f, "__code__", None) is not None]
    acts = [f for f in acts if f.__code__.co_varnames[:1] == ("peer",)]
    with ThreadPoolExecutor(at_once) as threads:
        for said in threads.map(run, acts):
            print(json.dumps(said), flush=True)


def arguments():
    """A port, a private key, a user."""
    return int(sys.argv[1]), paramiko.Ed25519Key.from_private_key_file(sys.argv[2]), sys.argv[3]
