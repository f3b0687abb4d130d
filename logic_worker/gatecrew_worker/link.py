"""One gateway's stream: hello, then batches both ways, until either side ends it.

One reader and one writer for the stream's whole life: cancelling a read or a write ends the call, and so do two writes
at once. A status, too, cannot be sent while a write is under way: gRPC then never ends the stream. Whatever goes wrong
in a handler stays with its request; an exception here would take the stream, and with it every session of the gateway.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from gatecrew.v1 import worker_pb2

from .answer import Question
from .dispatch import Dispatcher, Shared
from .outbox import Outbox
from .session import Session
from .unread import Unread

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[worker_pb2.GatewayMessage, worker_pb2.WorkerMessage]

log = logging.getLogger("gatecrew.worker")

DOUBT_S = 0.2  # a cancellation that has arrived takes effect within this time


class Link:
    """The stream of one gateway process. `gateway_id` and the rest of its hello are empty until that has come."""

    def __init__(self, shared: Shared, hello: worker_pb2.WorkerHello) -> None:
        self.gateway_id = ""
        self.session_prefix = 0
        self.service_address = ""
        self.sessions: dict[int, Session] = {}
        self.outbox = Outbox(shared.loop)
        self.dispatcher = Dispatcher(shared, self.outbox, self.sessions)
        self.over = asyncio.Event()
        self._shared = shared
        self._hello = hello
        self._receipts: dict[int, asyncio.Future[int]] = {}
        self._questions: dict[int, Question] = {}
        self._unread = Unread(shared.watch.watched_at)
        self._end = shared.loop.create_future()  # set: our side closes

    async def serve(self, context: Context) -> None:
        """Run the stream to its end."""
        tasks: list[asyncio.Task[None]] = []
        try:
            await context.write(worker_pb2.WorkerMessage(hello=self._hello))
            tasks.append(self._shared.loop.create_task(self._read(context), name="link reader"))
            tasks.append(self._shared.loop.create_task(self.outbox.write_all(context.write), name="link writer"))
            await asyncio.wait((*tasks, self._end), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.over.set()
            self._lose()
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, grpc.aio.BaseError):
                    log.info("link to gateway %s: %r", self.gateway_id, result)
                elif isinstance(result, Exception):  # a bug; the gateway's next link may fare better
                    log.error("link to gateway %s", self.gateway_id, exc_info=result)

    def end(self) -> None:
        """Close our side if everything is written. A stream that is stuck ends with the server."""
        if not self.outbox.bytes_waiting and not self._end.done():
            self._end.set_result(None)

    async def _read(self, context: Context) -> None:
        first = await context.read()
        if not isinstance(first, worker_pb2.GatewayMessage):
            return
        if not first.HasField("hello"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message has no hello")
        self.gateway_id = first.hello.gateway_id
        self.session_prefix = first.hello.session_prefix
        self.service_address = first.hello.service_address
        self._shared.links.add(self)
        log.info("linked to gateway %s", self.gateway_id)
        message: object = first
        self.dispatcher.heard()
        arrived_at = self._unread.arrived_at(first.sent_ms, math.inf)
        while isinstance(message, worker_pb2.GatewayMessage):  # else: the end of the stream
            await self._take_in(message, arrived_at)
            if self.outbox.is_full:
                await self.outbox.room()
            asked_at = time.monotonic()
            message = await context.read()
            if isinstance(message, worker_pb2.GatewayMessage):
                arrived_at = self._unread.arrived_at(message.sent_ms, asked_at)
            if self.dispatcher.lease_is_over:
                # The cancellation, if there is one, is behind what we read now: let it overtake.
                await asyncio.sleep(DOUBT_S)
            self.dispatcher.heard()
        # Half closed: it asks nothing more, and may still want its answers. Its silence says nothing from now on.
        self.dispatcher.heard_at = math.inf
        await self.dispatcher.idle()
        await self.outbox.empty()

    async def _take_in(self, message: worker_pb2.GatewayMessage, arrived_at: float) -> None:
        if message.HasField("heartbeat"):
            self.outbox.heartbeat(message.heartbeat.number, *self.dispatcher.heartbeat())
        sessions = self.sessions
        for context in message.sessions:
            session = sessions.get(context.session)
            if session is None:
                session = sessions[context.session] = Session(context.session, self._shared.links)
            session._update(context)
        if message.requests:
            await self.dispatcher.take(message.requests, arrived_at)
        for session_id in message.forgotten_sessions:
            sessions.pop(session_id, None)
        for result in message.push_results:
            receipt = self._receipts.pop(result.receipt, None)
            if receipt is not None and not receipt.done():
                receipt.set_result(result.delivered)
        for answer in message.query_results:
            question = self._questions.pop(answer.receipt, None)
            if question is not None:
                question.answered(answer)
        if message.cancelled_requests:
            self.dispatcher.cancel_requests(message.cancelled_requests)

    def expect(self, receipt: int) -> asyncio.Future[int]:
        """The number of sessions that a push with this receipt reaches here; 0 if the link ends first."""
        future = self._receipts[receipt] = self._shared.loop.create_future()
        return future

    def asked(self, number: int, question: Question) -> None:
        """The gateway will be asked this; or the link ends first."""
        self._questions[number] = question

    def unanswered(self, number: int) -> bool:
        """Wait no longer; returns whether it had not been answered."""
        question = self._questions.pop(number, None)
        if question is not None:
            question.answered(None)
        return question is not None

    def _lose(self) -> None:
        if self in self._shared.links.live:
            self._shared.links.remove(self)
            log.info("link to gateway %s ended", self.gateway_id)
        self.dispatcher.lose()
        replies, actions = self.outbox.close()
        self._shared.links.counters.replies_lost += replies
        self._shared.links.counters.actions_lost += actions
        for receipt in self._receipts.values():
            if not receipt.done():
                receipt.set_result(0)
        self._receipts.clear()
        for number in tuple(self._questions):
            self.unanswered(number)

    def __repr__(self) -> str:
        open_count, oldest_ms = self.dispatcher.heartbeat()
        return f"<Link {self.gateway_id} sessions={len(self.sessions)} open={open_count} oldest={oldest_ms} ms>"
