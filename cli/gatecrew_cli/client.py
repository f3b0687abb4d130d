"""A client of the wire (docs/wire.md): requests, notifies, pushes over one TCP connection.

For the command line, examples and tests. It does not reconnect and does not retry: when the connection ends, every open
request ends with ClientClosed, and what to do next is the caller's decision.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import NamedTuple, Self

from gatecrew_gateway.codec import (
    FROM_GATEWAY,
    Decoder,
    Kind,
    Packet,
    Status,
    WireError,
    decode_error,
    decode_goaway,
    encode,
)
from gatecrew_gateway.config import MAX_PACKET, PACKET_OVERHEAD

READ_SIZE = 64 * 1024  # bytes
CLOSE_S = 1.0  # for what is still unsent when the client closes; then the connection is cut
LAST_SEQ = 0xFFFFFFFF


class ReplyError(Exception):
    """The gateway or the worker refused a request. `status` is a gRPC status code, by value."""

    def __init__(self, status: int, reason: str) -> None:
        try:
            name = Status(status).name
        except ValueError:  # a worker may answer with a number that gRPC has not
            name = f"status {status}"
        super().__init__(f"{name}: {reason}" if reason else name)
        self.status = status
        self.reason = reason


class ClientClosed(ConnectionError):
    """The connection has ended. Whether an open request was handled is not known."""


class Goaway(NamedTuple):
    """What the gateway said before it closed."""

    reconnect_after_ms: int
    reason: str


class Client:
    """One connection to a gateway; use it with ``async with`` or call `close`.

    >>> async with await Client.connect("127.0.0.1", 7000) as client:
    ...     reply = await client.request(1, b"hello")
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, max_pushes: int) -> None:
        """Use `connect`."""
        self.goaway: Goaway | None = None
        self.closed: str | None = None  # why the connection has ended; None while it is open
        self.dropped_pushes = 0  # lost because nobody took them from `pushes` in time
        self._reader = reader
        self._writer = writer
        self._decoder = Decoder(MAX_PACKET, FROM_GATEWAY)
        self._last_seq = 0
        # A request's outcome is a result even where it is an exception: nobody may be left to take it.
        self._open: dict[int, asyncio.Future[bytes | ReplyError | ClientClosed]] = {}
        self._pushes: deque[Packet] = deque(maxlen=max_pushes)
        self._pushed = asyncio.Event()
        self._refused: ReplyError | None = None  # an error about the connection itself
        self._task = asyncio.create_task(self._read(), name="gatecrew client reader")

    @classmethod
    async def connect(cls, host: str, port: int, *, timeout_s: float = 5.0, max_pushes: int = 1000) -> Self:
        """Connect to a gateway's listener.

        Args:
            timeout_s: seconds to wait for the connection.
            max_pushes: pushes kept until `pushes` takes them; when one more comes the oldest is dropped and counted in
                `dropped_pushes`. Replies never wait behind pushes.

        Raises:
            OSError: it can't be reached; TimeoutError, which is one too, if it took too long.
        """
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port)
        return cls(reader, writer, max_pushes)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def request(self, command: int, body: bytes = b"", *, timeout_s: float = 5.0) -> bytes:
        """Ask, and wait at most `timeout_s` seconds for the answer. Many requests may be open at once.

        Raises:
            ReplyError: the answer is an error.
            TimeoutError: no answer in time; one that comes later is dropped.
            ClientClosed: the connection had ended or ended now.
            ValueError: the command or the body does not fit into a packet.
        """
        seq = self._next_seq()
        answer: asyncio.Future[bytes | ReplyError | ClientClosed] = asyncio.get_running_loop().create_future()
        self._open[seq] = answer
        try:
            async with asyncio.timeout(timeout_s):
                await self._send(Kind.REQUEST, command, seq, body)
                outcome = await answer
        finally:
            self._open.pop(seq, None)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def notify(self, command: int, body: bytes = b"") -> None:
        """Tell without asking for an answer. Waits only while the connection takes no more bytes.

        Raises:
            ClientClosed: the connection had ended. If it ends now, nothing tells whether the notify arrived.
            ValueError: the command or the body does not fit into a packet.
        """
        await self._send(Kind.NOTIFY, command, 0, body)

    async def pushes(self) -> AsyncIterator[Packet]:
        """The pushes as they come, those kept so far first; ends with the connection.

        Of several iterations at once, each push goes to one.
        """
        while True:
            while self._pushes:
                yield self._pushes.popleft()
            if self.closed is not None:
                return
            self._pushed.clear()
            await self._pushed.wait()

    async def close(self) -> None:
        """Close the connection; open requests end with ClientClosed. May be called again."""
        self._end("closed by this side")
        self._task.cancel()
        transport = self._writer.transport
        cut = asyncio.get_running_loop().call_later(CLOSE_S, transport.abort)
        try:
            await asyncio.wait([self._task])
            with contextlib.suppress(OSError):  # how it was lost no longer matters
                # Shielded: wait_closed awaits a future of the stream itself, which must outlive a cancelled close.
                await asyncio.shield(self._writer.wait_closed())
        finally:
            cut.cancel()
            transport.abort()

    def _next_seq(self) -> int:
        """One that no open request has. 0 is left to what is not about a request."""
        while True:
            self._last_seq = self._last_seq % LAST_SEQ + 1
            if self._last_seq not in self._open:
                return self._last_seq

    async def _send(self, kind: Kind, command: int, seq: int, body: bytes) -> None:
        if not 0 <= command <= 0xFFFF:
            raise ValueError(f"command {command} must be from 0 to 65535")
        if len(body) > MAX_PACKET - PACKET_OVERHEAD:
            raise ValueError(f"body of {len(body)} bytes: no listener takes more than {MAX_PACKET - PACKET_OVERHEAD}")
        if self.closed is not None:
            raise ClientClosed(self.closed)
        self._writer.write(encode(kind, command, seq, body))
        # A lost connection is the reader's to report: the gateway's reason may still be among the unread bytes.
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(READ_SIZE):
                packets, broken = self._decoder.decode(data)
                for packet in packets:
                    self._take(Packet(*packet))
                if broken is not None:
                    raise broken
        except WireError as broken:
            self._end(f"the gateway sent what is no packet: {broken.reason}")
        except OSError as lost:
            self._end(f"the connection was lost: {lost}")
        else:
            self._end("the gateway closed the connection")

    def _take(self, packet: Packet) -> None:
        match packet.kind:
            case Kind.REPLY:
                self._settle(packet.seq, packet.body)
            case Kind.PUSH:
                if len(self._pushes) == self._pushes.maxlen:
                    self.dropped_pushes += 1
                self._pushes.append(packet)
                self._pushed.set()
            case Kind.ERROR:
                error = ReplyError(*decode_error(packet.body))
                if packet.seq:
                    self._settle(packet.seq, error)
                else:
                    self._refused = error
            case Kind.PING:
                # Not drained: a reader that waits for the gateway to read could wait for ever.
                self._writer.write(encode(Kind.PONG, packet.command, packet.seq, packet.body))
            case Kind.GOAWAY:
                self.goaway = Goaway(*decode_goaway(packet.body))

    def _settle(self, seq: int, outcome: bytes | ReplyError) -> None:
        answer = self._open.get(seq)
        if answer is not None and not answer.done():
            answer.set_result(outcome)

    def _end(self, reason: str) -> None:
        if self.closed is not None:
            return
        if self._refused is not None:
            reason = str(self._refused)
        elif self.goaway is not None:
            reason = f"goaway: {self.goaway.reason}"
        self.closed = reason
        self._writer.close()
        for answer in self._open.values():
            if not answer.done():
                answer.set_result(ClientClosed(reason))
        self._pushed.set()
