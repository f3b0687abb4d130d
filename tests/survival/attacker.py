"""A hostile client, in a process of its own: held for as long as it lives.

python -m survival.attacker KIND HOST:PORT [NUMBER]

prints `attacking` when it has begun, and every second `sent N` with the number of packets or connections so far; until
SIGTERM. KIND is one of ATTACKS. `spin` is the control: as busy as the others, and sends nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator

from survival.client import NOTIFY, PING, PONG, REQUEST, pack
from survival.commands import ECHO

UNSERVED = 999  # a command that no worker serves
BATCH = 1000  # packets of one write

Attack = Callable[[str, int], Iterator[int]]  # yields after each step how much it has sent


def connect(address: str, source: str = "127.0.0.1") -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10, source_address=(source, 0))


def allow_descriptors() -> None:
    """As many as this process may have."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def flood(packet: bytes, first: bytes = b"") -> Attack:
    """One socket that sends the same packet as fast as it is read, and reads what comes back."""

    def attack(address: str, number: int) -> Iterator[int]:
        sent = 0
        while True:
            with connect(address) as client:
                client.sendall(first)
                client.setblocking(False)
                data = packet * BATCH
                left = memoryview(data)
                try:
                    while True:
                        readable, writable, _ = select.select([client], [client], [], 0.5)
                        if readable and not client.recv(1 << 20) and not first:
                            break
                        if writable:
                            left = left[client.send(left) :]
                            if not left:
                                sent += BATCH
                                left = memoryview(data)
                        yield sent
                except OSError:  # we have been cut: begin again
                    yield sent

    return attack


def connects(address: str, per_s: int) -> Iterator[int]:
    """So many connections a second, which are kept for as long as the gateway keeps them, and send nothing."""
    kept: list[socket.socket] = []
    due = time.monotonic()
    for count in itertools.count(1):
        client = socket.socket()
        client.setblocking(False)
        host, _, port = address.rpartition(":")
        client.connect_ex((host, int(port)))
        kept.append(client)
        if len(kept) > 15_000:
            kept.pop(0).close()
        due += 1 / per_s
        time.sleep(max(0.0, due - time.monotonic()))
        yield count


def silent(address: str, count: int) -> Iterator[int]:
    """So many silent connections at once."""
    allow_descriptors()
    kept = [connect(address) for _ in range(count)]
    while True:
        yield len(kept)
        time.sleep(0.1)


def halves(address: str, count: int) -> Iterator[int]:
    """So many that all at once send all but the last byte of a packet of 65 000, and no more."""
    allow_descriptors()
    data = pack(REQUEST, ECHO, 1, bytes(65_000))[:-1]
    kept = [connect(address) for _ in range(count)]
    for client in kept:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * len(data))
        client.setblocking(False)
        with contextlib.suppress(OSError):  # cut already
            client.send(data)
    while True:
        yield len(kept)
        time.sleep(0.1)


def deaf(address: str, count: int) -> Iterator[int]:
    """So many that ask for answers of 60 000 bytes each, end their side, and read nothing."""
    kept = [connect(address) for _ in range(count)]
    for client in kept:
        body = b"deaf 1 s n\n" + bytes(60_000)
        for seq in range(1, 61):
            client.sendall(pack(REQUEST, ECHO, seq, body))
        client.shutdown(socket.SHUT_WR)
    while True:
        time.sleep(0.1)
        yield len(kept)


def spin(address: str, number: int) -> Iterator[int]:
    """As busy as a flood."""
    while True:
        _ = pack(PING, 0, 1) * BATCH
        yield 0


ATTACKS: dict[str, Attack] = {
    "pings": flood(pack(PING, 0, 1)),
    "pongs": flood(pack(PONG, 0, 1)),
    "notifies": flood(pack(NOTIFY, UNSERVED, 0)),
    "empty requests": flood(pack(REQUEST, ECHO, 1, b"empty 1 s n")),
    "refused requests": flood(pack(REQUEST, UNSERVED, 1)),
    "wire errors": flood(bytes(1000), first=b"\xff" * 4),
    "connects": connects,
    "silent": silent,
    "halves": halves,
    "deaf": deaf,
    "spin": spin,
}


def main(kind: str, address: str, number: str = "0") -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    said_at = time.monotonic()
    for step, sent in enumerate(ATTACKS[kind](address, int(number))):
        if not step:
            print("attacking", flush=True)
        if time.monotonic() - said_at >= 1:
            said_at = time.monotonic()
            print("sent", sent, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
