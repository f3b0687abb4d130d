"""What waits to be written to one gateway.

Replies and actions gather in one message, in the order in which the program made them, until the link's only writer
takes it: while a write is on its way the next message grows. Two writes at once would end the call.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from gatecrew.v1 import worker_pb2

from .waiters import Waiters

MAX_PACKET = 1 << 20  # bytes, the wire's limit for what follows the length field
MAX_BODY = MAX_PACKET - 8  # bytes
MESSAGE_BYTES = 1 << 20  # a message is full here; the body that fills it makes it 2 MiB at most, gRPC's limit is 4
ITEM_BYTES = 256  # what a reply or action counts beside its body: at most 4096 in a message
FULL_BYTES = 8 << 20  # who can wait, waits
STUCK_S = 5.0  # a write that takes longer belongs to a gateway that does not read


class Outbox:
    """Owned by one link; used on its loop only. `bytes_waiting` counts what no write has taken over yet."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._sealed: deque[tuple[worker_pb2.WorkerMessage, int]] = deque()  # full messages and their sizes
        self._sealed_bytes = 0  # of those, and of the one being written
        self._writing_since = 0.0  # loop time; 0 while nothing is being written
        self._writer_waiter: asyncio.Future[None] | None = None
        self._room_waiters = Waiters(loop)
        self._empty_waiters = Waiters(loop)
        self._closed = False  # nothing will be written any more
        self._open()

    def _open(self) -> None:
        self._message = worker_pb2.WorkerMessage()
        self._add_reply = self._message.replies.add
        self._bytes = 0

    def reply(self, request_id: int, body: bytes) -> None:
        self._add_reply(id=request_id, body=body)
        self._grow(len(body))

    def refuse(self, request_id: int, status: int, message: str, not_started: bool = False) -> None:
        self._add_reply(id=request_id, status=status, message=message, not_started=not_started)
        self._grow(len(message))

    def act(self, action: worker_pb2.Action) -> None:
        placed = self._message.actions.add()
        placed.CopyFrom(action)
        placed.after_replies = len(self._message.replies)
        self._grow(action.ByteSize())

    def heartbeat(self, number: int, in_flight: int, oldest_ms: int) -> None:
        """Answer a heartbeat in the next message that is written, ahead of what waits."""
        message = self._sealed[0][0] if self._sealed else self._message
        message.heartbeat.number = number
        message.heartbeat.in_flight = in_flight
        message.heartbeat.oldest_ms = oldest_ms
        if not self._sealed:
            self._grow(0)

    def draining(self) -> None:
        self._message.draining = True
        self._grow(0)

    def _grow(self, size: int) -> None:
        self._bytes += ITEM_BYTES + size
        if self._bytes >= MESSAGE_BYTES:
            self._sealed.append((self._message, self._bytes))
            self._sealed_bytes += self._bytes
            self._open()
        if self._writer_waiter is not None:
            self._writer_waiter.set_result(None)
            self._writer_waiter = None

    @property
    def bytes_waiting(self) -> int:
        return self._sealed_bytes + self._bytes

    @property
    def is_full(self) -> bool:
        return self._sealed_bytes + self._bytes >= FULL_BYTES

    @property
    def is_stuck(self) -> bool:
        """Full, and the gateway has not read for STUCK_S: waiting for room is pointless."""
        return self.is_full and self._writing_since > 0 and self._loop.time() - self._writing_since > STUCK_S

    async def write_all(self, write: Callable[[worker_pb2.WorkerMessage], Awaitable[None]]) -> None:
        """Write what gathers, for ever: the link's writer."""
        while True:
            if not self._bytes and not self._sealed:
                self._writer_waiter = self._loop.create_future()
                await self._writer_waiter
            if self._sealed:
                message, size = self._sealed.popleft()
            else:
                message, size = self._message, self._bytes
                self._sealed_bytes += size
                self._open()
            self._writing_since = self._loop.time()
            await write(message)
            self._writing_since = 0.0
            self._sealed_bytes -= size
            if self._room_waiters and not self.is_full:
                self._room_waiters.wake()
            if self._empty_waiters and not self.bytes_waiting:
                self._empty_waiters.wake()

    async def room(self) -> None:
        """Wait until it is not full."""
        while self.is_full and not self._closed:
            await self._room_waiters.wait()

    async def empty(self) -> None:
        """Wait until everything is written."""
        while self.bytes_waiting and not self._closed:
            await self._empty_waiters.wait()

    def close(self) -> tuple[int, int]:
        """The link is gone: let everyone go who waits. Returns how many replies and actions are lost."""
        lost = [message for message, _ in self._sealed] + [self._message]
        self._closed = True
        self._sealed.clear()
        self._sealed_bytes = 0
        self._writer_waiter = None
        self._open()
        self._room_waiters.wake()
        self._empty_waiters.wake()
        return sum(len(message.replies) for message in lost), sum(len(message.actions) for message in lost)
