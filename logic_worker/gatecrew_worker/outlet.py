"""Where a dispatcher's replies go: a link's Outbox, the caller of Handle, or nowhere."""

from __future__ import annotations

import asyncio
from typing import Protocol

from gatecrew.v1 import worker_pb2

from .links import Counters


class Outlet(Protocol):
    """Takes one reply for every request."""

    def reply(self, request_id: int, body: bytes) -> None: ...

    def refuse(self, request_id: int, status: int, message: str, not_started: bool = False) -> None: ...


class OneReply:
    """The outlet of a Handle call."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.reply_waiter: asyncio.Future[worker_pb2.Reply] = loop.create_future()

    def reply(self, request_id: int, body: bytes) -> None:
        self._send(worker_pb2.Reply(id=request_id, body=body))

    def refuse(self, request_id: int, status: int, message: str, not_started: bool = False) -> None:
        self._send(worker_pb2.Reply(id=request_id, status=status, message=message, not_started=not_started))

    def _send(self, reply: worker_pb2.Reply) -> None:
        if not self.reply_waiter.done():  # else: the caller has gone
            self.reply_waiter.set_result(reply)


class Lost:
    """The outlet of a link that has ended, or of a Handle call."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def reply(self, request_id: int, body: bytes) -> None:
        self._counters.replies_lost += 1

    def refuse(self, request_id: int, status: int, message: str, not_started: bool = False) -> None:
        self._counters.replies_lost += 1
