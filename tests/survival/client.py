"""One connection of a test: a blocking socket, and packets by hand."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from processes import PATIENCE_S

HEADER = struct.Struct(">IBBHI")
REQUEST, REPLY, NOTIFY, PUSH, ERROR, PING, PONG, GOAWAY = range(8)


class Packet(NamedTuple):
    kind: int
    command: int
    seq: int
    body: bytes

    @property
    def status(self) -> int:
        """Of an error."""
        return int.from_bytes(self.body[:2], "big")

    @property
    def reason(self) -> str:
        return self.body[2:].decode()


def pack(kind: int, command: int, seq: int, body: bytes = b"") -> bytes:
    return HEADER.pack(8 + len(body), kind, 0, command, seq) + body


class Client:
    """`receive_buffer`: of the kernel, in bytes."""

    def __init__(self, address: str, receive_buffer: int | None = None) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.socket()
        self.socket.settimeout(PATIENCE_S)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect((host, int(port)))
        self._stream = self.socket.makefile("rb")

    def send(self, kind: int, command: int, seq: int, body: bytes = b"") -> None:
        self.socket.sendall(pack(kind, command, seq, body))

    def read(self) -> Packet | None:
        """The next packet; None at the end of the stream."""
        header = self._stream.read(HEADER.size)
        if not header:
            return None
        length, kind, _, command, seq = HEADER.unpack(header)
        return Packet(kind, command, seq, self._stream.read(length - 8))

    def rest(self) -> list[Packet]:
        """All packets until the gateway closes."""
        return list(iter(self.read, None))

    def ask(self, command: int, body: bytes = b"") -> Packet:
        """Send a request; return its answer. Only for a connection that has nothing else open."""
        self.send(REQUEST, command, 1, body)
        answer = self.read()
        assert answer is not None
        return answer

    def reset(self) -> None:
        """Leave with RST instead of FIN, as a crashed machine or a full buffer does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self._stream.close()
        self.socket.close()


@contextlib.contextmanager
def connected(address: str, receive_buffer: int | None = None) -> Iterator[Client]:
    client = Client(address, receive_buffer)
    try:
        yield client
    finally:
        client.close()
