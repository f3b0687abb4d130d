"""A link to a worker that serves only `Handle`: one call a packet. The simple path, in the same lanes and pools.

Packets of a lane go one at a time, since calls overtake each other. Its health is the standard gRPC health service,
asked once a heartbeat; any answer, UNIMPLEMENTED too, shows that the worker lives.
"""

from __future__ import annotations

import asyncio
import logging

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2

from gatecrew.v1 import worker_pb2

from ..counters import Counters
from ..dispatcher import Dispatcher
from ..routing.lane import Pending
from ..routing.link import Link, LinkState
from ..session import Session
from .stream import add_context

log = logging.getLogger("gatecrew.gateway")

MAX_IN_FLIGHT = 100  # calls at once; a server's usual stream limit


class UnaryLink:
    def __init__(
        self,
        channel: grpc.aio.Channel,
        service: str,
        worker_id: str,
        commands: frozenset[int] | None,
        service_address: str,
        dispatcher: Dispatcher,
        counters: Counters,
    ) -> None:
        self._metadata = (("gatecrew-gateway", service_address),)  # where the worker can push, bind and kick
        self._handle = channel.unary_unary(
            "/gatecrew.v1.LogicWorker/Handle",
            request_serializer=worker_pb2.Request.SerializeToString,
            response_deserializer=worker_pb2.Reply.FromString,
        )
        self._check_health = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        self._dispatcher = dispatcher
        self._counters = counters
        self._worker_id = worker_id
        self._loop = asyncio.get_running_loop()
        self._calls: set[asyncio.Task[None]] = set()
        self._beating: asyncio.Task[None] | None = None
        self._over: asyncio.Event = asyncio.Event()
        self.link = Link(dispatcher.pool(service), worker_id, MAX_IN_FLIGHT, self._wake, one_at_a_time=True)
        self.commands = sorted(commands or ())
        self._served = commands
        self.incarnation = ""
        self.heard_at = self._loop.time()
        self.unary = True

    async def run(self) -> None:
        """Serve until the worker is lost."""
        try:
            self._dispatcher.joined(self.link, self._served, session_events=False)
            await self._over.wait()
        finally:
            self._lose(crashed=False)
            tasks = self._calls | ({self._beating} if self._beating else set())
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    def _wake(self) -> None:
        self._loop.call_soon(self._start_calls)

    def _start_calls(self) -> None:
        batch = self.link.take(self._loop.time())
        for packet in batch:
            task = self._loop.create_task(self._call(packet))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
        # Nothing to gather for: the next packet may go at once.
        self.link.written()
        self.link.heard()

    async def _call(self, packet: Pending) -> None:
        session = packet.lane.session
        remaining = max(0.001, packet.deadline - self._loop.time())
        request = worker_pb2.Request(
            id=packet.id,
            session=session.id,
            command=packet.command,
            kind=packet.kind,  # type: ignore[arg-type]  # the contract's Kind by value
            attempt=packet.attempt,
            remaining_ms=max(1, int(remaining * 1000)),
            body=packet.body,
        )
        add_context(request.context, session)
        try:
            # The deadline is the dispatcher's; the call's own only frees the worker, a little later.
            reply = await self._handle(request, timeout=remaining + 0.5, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                self._lose(crashed=True)
                return
            reply = worker_pb2.Reply(status=error.code().value[0], message=error.details() or "")
        reply.id = packet.id  # not every ten-line worker copies it
        self._heard()
        touched: list[Session] = []
        self._dispatcher.answered(self.link, (reply,), touched)
        for session in touched:
            session.flush()
        self.link.heard()

    def beat(self) -> None:
        if self._beating is None or self._beating.done():
            self._beating = self._loop.create_task(self._health())

    async def _health(self) -> None:
        try:
            answer = await self._check_health(health_pb2.HealthCheckRequest(), timeout=60)
            if answer.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                self._dispatcher.draining(self.link)
            elif self.link.state is LinkState.DRAINING:
                self._dispatcher.recovered(self.link)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                self._lose(crashed=True)
                return
        self._heard()

    def _heard(self) -> None:
        self.heard_at = self._loop.time()
        self.link.sent_when_it_spoke = self.link.sent

    def forget(self, session_id: int) -> None:
        """Every call carries its context; there is nothing to forget."""

    def frozen(self, blame: bool) -> None:
        """Give the worker up: it has been silent for too long. `blame`: see Dispatcher.lost."""
        self._counters.workers_frozen += 1
        self._lose(crashed=True, blame=blame)

    def _lose(self, crashed: bool, blame: bool = True) -> None:
        if self.link.state is not LinkState.LOST:
            for task in self._calls:
                task.cancel()  # fencing: what a frozen worker answers later is not read
            self._dispatcher.lost(self.link, crashed and self.link.state is not LinkState.DRAINING, blame)
            self._over.set()
