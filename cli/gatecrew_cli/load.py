"""Load on a gateway: so many clients that each keep so many requests open, for so many seconds.

Closed loop: a client sends the next request when an answer comes. So the rate is what the other side can do, and the
latency is what it takes at that rate. It runs on one core, in a process of its own, and costs about as much per request
as the gateway does: on a full machine it takes its share.

A gateway that drains says goaway: its clients send nothing new, take what is still open, and come back when they are
told to.
"""

import asyncio
import time
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from gatecrew_gateway.codec import FROM_GATEWAY, Decoder, Kind, decode_error, decode_goaway, encode
from gatecrew_gateway.config import MAX_PACKET

from .client import ReplyError

CONNECTING_AT_ONCE = 100  # so that a thousand clients do not overrun the backlog of the listener
RETRY_S = 0.2  # between attempts to come back to a gateway that does not listen yet


@dataclass(frozen=True, slots=True)
class Load:
    """What is put on."""

    clients: int = 50
    open: int = 1  # requests that each client keeps unanswered
    seconds: float = 5.0
    command: int = 1
    body_size: int = 64  # bytes


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What came of it. Latencies are in seconds, of answered requests, sorted."""

    seconds: float
    latencies: "array[float]"
    errors: Counter[str]  # by status, and connections that were lost
    goaways: int  # connections that the gateway asked to leave
    reconnects: int  # of those, how many came back

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile(self, percent: float) -> float:
        """Seconds; nan where nothing was answered."""
        if not self.latencies:
            return float("nan")
        return self.latencies[min(len(self.latencies) - 1, int(len(self.latencies) * percent / 100))]


class _Client(asyncio.Protocol):
    """One connection. `sent_at` holds the open requests, by seq.

    When it has ended after a goaway, `left` is called with the seconds to wait before coming back.
    """

    def __init__(
        self, load: Load, latencies: "array[float]", errors: Counter[str], left: Callable[[float], None]
    ) -> None:
        self._load = load
        self._body = bytes(load.body_size)
        self._latencies = latencies
        self._errors = errors
        self._left = left
        self._come_back_after_s: float | None = None  # None: no goaway yet
        self._decoder = Decoder(MAX_PACKET, FROM_GATEWAY)
        self._seq = 0
        self._sent_at: dict[int, float] = {}
        self._stopped = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def begin(self) -> None:
        if not self._stopped and self._come_back_after_s is None:
            self._send(self._load.open)

    def stop(self) -> None:
        """Send nothing more, count nothing more."""
        self._stopped = True
        if self._transport is not None:
            self._transport.abort()

    def _send(self, count: int) -> None:
        assert self._transport is not None
        packets = []
        now = time.perf_counter()
        for _ in range(count):
            self._seq = (self._seq + 1) & 0xFFFFFFFF
            self._sent_at[self._seq] = now
            packets.append(encode(Kind.REQUEST, self._load.command, self._seq, self._body))
        self._transport.write(b"".join(packets))

    def data_received(self, data: bytes) -> None:
        if self._stopped:
            return
        now = time.perf_counter()
        packets, broken = self._decoder.decode(data)
        answered = 0
        for kind, _, seq, body in packets:
            if kind == Kind.GOAWAY:
                self._come_back_after_s = decode_goaway(body)[0] / 1000
            sent_at = self._sent_at.pop(seq, None)
            if sent_at is None:
                continue  # a push or a goaway
            answered += 1
            if kind == Kind.REPLY:
                self._latencies.append(now - sent_at)
            elif kind == Kind.ERROR:
                self._errors[str(ReplyError(decode_error(body)[0], ""))] += 1
        if broken is not None:
            self._errors["broken packet"] += 1
            self.stop()
        elif self._come_back_after_s is not None:
            if not self._sent_at and self._transport is not None:
                self._transport.close()
        elif answered:
            self._send(answered)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._stopped:
            return
        self._stopped = True
        if self._come_back_after_s is None:
            self._errors["connection lost"] += 1
            return
        if self._sent_at:
            self._errors["unanswered after goaway"] += len(self._sent_at)
        self._left(self._come_back_after_s)


async def put_on(load: Load, host: str, port: int) -> LoadResult:
    """Connect, load, and measure.

    Raises:
        OSError: the gateway can't be reached.
    """
    loop = asyncio.get_running_loop()
    latencies = array("d")
    errors: Counter[str] = Counter()
    clients: set[_Client] = set()
    returning: list[asyncio.Task[None]] = []
    reconnects = 0

    async def connect() -> _Client:
        _, client = await loop.create_connection(lambda: _Client(load, latencies, errors, left), host, port)
        clients.add(client)
        return client

    async def come_back(after_s: float) -> None:
        nonlocal reconnects
        while True:
            await asyncio.sleep(after_s)
            try:
                client = await connect()
            except OSError:
                after_s = RETRY_S
            else:
                reconnects += 1
                client.begin()
                return

    def left(after_s: float) -> None:
        returning.append(asyncio.create_task(come_back(after_s)))

    try:
        while len(clients) < load.clients:
            some = min(CONNECTING_AT_ONCE, load.clients - len(clients))
            await asyncio.gather(*(connect() for _ in range(some)))
        began_at = time.perf_counter()
        for client in clients:
            client.begin()
        await asyncio.sleep(load.seconds)
        seconds = time.perf_counter() - began_at
    finally:
        for task in returning:
            task.cancel()
        await asyncio.gather(*returning, return_exceptions=True)
        for client in clients:
            client.stop()
    return LoadResult(seconds, array("d", sorted(latencies)), errors, len(returning), reconnects)
