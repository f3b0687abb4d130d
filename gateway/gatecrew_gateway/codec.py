"""Packets of the client wire: bytes to packets and back. Pure: no sockets, no clock. The spec is docs/wire.md.

    0        4      5       6         8      12
    | length | kind | flags | command | seq  | body ... |

Cost matters here: one tuple and one slice a packet, nothing else.
"""

import sys
from enum import IntEnum
from itertools import repeat
from struct import Struct
from typing import NamedTuple

from .config import MAX_PACKET, PACKET_OVERHEAD


class Kind(IntEnum):
    REQUEST = 0
    REPLY = 1
    NOTIFY = 2
    PUSH = 3
    ERROR = 4
    PING = 5
    PONG = 6
    GOAWAY = 7


class Status(IntEnum):
    """The gRPC status codes, https://grpc.io/docs/guides/status-codes/."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Packet(NamedTuple):
    """One packet; `kind` is a Kind by value."""

    kind: int
    command: int
    seq: int
    body: bytes


class WireError(Exception):
    """The peer broke the rules of the wire. Nothing after it can be trusted.

    `seq` is the broken packet's where its header could be read, else 0.
    """

    def __init__(self, status: Status, reason: str, seq: int = 0) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.seq = seq


# How the wire may grow without breaking who is older (docs/wire.md): a peer ignores what is marked so.
FIRST_IGNORED_KIND = 0x80
IGNORED_FLAGS = 0xF0

HEADER = Struct(">IBBHI")
_pack = HEADER.pack
_unpack = HEADER.unpack_from
_HEADER_SIZE = HEADER.size
_STATUS = Struct(">H")
_GOAWAY = Struct(">I")

FROM_CLIENT = frozenset({Kind.REQUEST, Kind.NOTIFY, Kind.PING, Kind.PONG})
FROM_GATEWAY = frozenset({Kind.REPLY, Kind.PUSH, Kind.ERROR, Kind.PING, Kind.PONG, Kind.GOAWAY})


class Decoder:
    """Splits a byte stream into packets. One for each direction of each connection; keeps only an unfinished tail."""

    __slots__ = ("_allowed", "_at", "_max_packet", "_missing", "_most", "_rest", "_tail", "ended_ignored")

    def __init__(
        self, max_packet: int = MAX_PACKET, allowed: frozenset[Kind] = FROM_CLIENT, most: int = sys.maxsize
    ) -> None:
        """`most`: packets of one `decode`."""
        self._max_packet = max_packet
        self._allowed = allowed
        self._most = most
        self._tail: bytearray | None = None  # start of a packet whose rest has not come
        self.ended_ignored = False  # whether the last piece ended a packet that was to be ignored
        self._missing = 0  # bytes; fewer can't complete anything, so they are only kept (linear for tiny segments)
        self._rest = b""  # what came behind the last packet that was allowed, from `_at` on; then the tail is empty
        self._at = 0

    @property
    def held(self) -> int:
        """Bytes that are kept."""
        return 0 if self._tail is None else len(self._tail) + len(self._rest)

    @property
    def unfinished(self) -> bool:
        """Whether there are bytes that are in no packet yet."""
        return self._tail is not None

    @property
    def has_more(self) -> bool:
        """Whether there may be whole packets among them: `decode(b"")` gives the next ones."""
        return bool(self._rest)

    def decode(self, data: bytes) -> tuple[list[tuple[int, int, int, bytes]], WireError | None]:
        """Take the next bytes; return the packets they complete, as (kind, command, seq, body), and what broke, if
        anything did. The packets before the broken one are good. After an error the decoder is of no more use. What a
        later version of the wire may send, and this one is to ignore, is left out.

        A length over the limit is refused from the first four bytes, before anything is kept for it.
        """
        start = 0
        if self._tail is not None:
            self.ended_ignored = False
            if self._rest:
                data = self._rest + data
                start = self._at
                self._rest = b""
            else:
                self._tail += data
                if len(data) < self._missing:
                    self._missing -= len(data)
                    return [], None
                data = bytes(self._tail)
            self._tail = None
        packets: list[tuple[int, int, int, bytes]] = []
        append = packets.append
        allowed = self._allowed
        max_packet = self._max_packet
        size = len(data)
        missing = 0
        for _ in repeat(None, self._most):
            if size - start < _HEADER_SIZE:
                break
            length, kind, flags, command, seq = _unpack(data, start)
            if not PACKET_OVERHEAD <= length <= max_packet:
                return packets, self._bad_length(length)
            end = start + 4 + length
            if flags or kind not in allowed:
                if flags & ~IGNORED_FLAGS or (kind not in allowed and kind < FIRST_IGNORED_KIND):
                    return packets, self._bad_header(kind, flags, seq)
                if kind >= FIRST_IGNORED_KIND and end <= size:
                    self.ended_ignored = True
                    start = end
                    continue
            if end > size:
                missing = end - size
                break
            append((kind, command, seq, data[start + _HEADER_SIZE : end]))
            start = end
        else:
            if start < size:
                self._rest = data
                self._at = start
                self._tail = bytearray()
            return packets, None
        if start < size:
            left = size - start
            if 4 <= left < _HEADER_SIZE:
                length = int.from_bytes(data[start : start + 4], "big")
                if not PACKET_OVERHEAD <= length <= max_packet:
                    return packets, self._bad_length(length)
            self._tail = bytearray(data[start:])
            self._missing = missing or (4 if left < 4 else _HEADER_SIZE) - left
        return packets, None

    def _bad_length(self, length: int) -> WireError:
        if length < PACKET_OVERHEAD:
            return WireError(
                Status.INVALID_ARGUMENT,
                f"length {length} is less than {PACKET_OVERHEAD}: it counts every byte after itself, header included",
            )
        return WireError(
            Status.RESOURCE_EXHAUSTED, f"length {length} is over this listener's max_packet {self._max_packet}"
        )

    def _bad_header(self, kind: int, flags: int, seq: int) -> WireError:
        if flags & ~IGNORED_FLAGS:
            return WireError(Status.INVALID_ARGUMENT, f"flags {flags:#04x}: no flag is defined, send 0", seq)
        names = ", ".join(f"{k.value} {k.name.lower()}" for k in sorted(self._allowed))
        return WireError(Status.INVALID_ARGUMENT, f"kind {kind} may not be sent here; allowed: {names}", seq)


def encode(kind: int, command: int, seq: int, body: bytes) -> bytes:
    """One packet as bytes."""
    return _pack(PACKET_OVERHEAD + len(body), kind, 0, command, seq) + body


def encode_error(command: int, seq: int, status: int, reason: str) -> bytes:
    return encode(Kind.ERROR, command, seq, _STATUS.pack(status) + reason.encode())


def encode_goaway(reconnect_after_ms: int, reason: str) -> bytes:
    return encode(Kind.GOAWAY, 0, 0, _GOAWAY.pack(reconnect_after_ms) + reason.encode())


def decode_error(body: bytes) -> tuple[int, str]:
    """Body of an error packet: (status, reason). Raises WireError if it has no status."""
    if len(body) < _STATUS.size:
        raise WireError(Status.INVALID_ARGUMENT, f"an error's body begins with {_STATUS.size} bytes of status")
    return _STATUS.unpack_from(body)[0], body[_STATUS.size :].decode("utf-8", "replace")


def decode_goaway(body: bytes) -> tuple[int, str]:
    """Body of a goaway packet: (milliseconds to wait, reason). Raises WireError if it has no milliseconds."""
    if len(body) < _GOAWAY.size:
        raise WireError(Status.INVALID_ARGUMENT, f"a goaway's body begins with {_GOAWAY.size} bytes of milliseconds")
    return _GOAWAY.unpack_from(body)[0], body[_GOAWAY.size :].decode("utf-8", "replace")
