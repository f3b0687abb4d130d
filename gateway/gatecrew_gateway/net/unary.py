"""A link to a worker that serves only `Handle`: one call a packet. The simple path, in the same lanes and pools.

Packets of a lane go one at a time, since calls overtake each other. Its health is the standard gRPC health service,
asked once a heartbeat; any answer, UNIMPLEMENTED too, shows that the worker lives.
"""

from __future__ import annotations

import asyncio
import logging

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from gatecrew.v1 import worker_pb2

from ..counters import Counters
from ..dispatcher import Dispatcher
from ..routing.lane import Pending
from ..routing.link import Link, LinkState
from ..session import Session
from .probe import Refused, check, is_servers_own
from .stream import COMPLAIN_EVERY_S, LEAVE_WITHIN_S, add_context

log = logging.getLogger("gatecrew.gateway")

MAX_IN_FLIGHT = 100  # calls at once; a server's usual stream limit


class UnaryLink:
    """`metadata`: of every call."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        service: str,
        worker_id: str,
        commands: frozenset[int] | None,
        metadata: tuple[tuple[str, str], ...],
        dispatcher: Dispatcher,
        counters: Counters,
    ) -> None:
        self._metadata = metadata
        self._handle: grpc.aio.UnaryUnaryMultiCallable[worker_pb2.Request, bytes] = channel.unary_unary(
            "/gatecrew.v1.LogicWorker/Handle",
            request_serializer=worker_pb2.Request.SerializeToString,
            response_deserializer=None,  # parsed here, since gRPC would log a traceback for each that does not parse
        )
        self._check_health: grpc.aio.UnaryUnaryMultiCallable[health_pb2.HealthCheckRequest, bytes] = (
            channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=None,
            )
        )
        self._dispatcher = dispatcher
        self._counters = counters
        self._worker_id = worker_id
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, asyncio.Task[None]] = {}  # by the packet's id
        self._beating: asyncio.Task[None] | None = None
        self._over: asyncio.Event = asyncio.Event()
        self.link = Link(dispatcher.pool(service), worker_id, MAX_IN_FLIGHT, self._wake, one_at_a_time=True)
        self.commands = sorted(commands or ())
        self._served = commands
        self.incarnation = ""
        self.heard_at = self._loop.time()
        self.unary = True
        self._channel = channel
        self._leaving_at = 0.0  # loop time; 0: it may stay
        self._complain_at = 0.0  # loop time
        self._unbegun: list[Pending] = []  # answered as if the server had no Handle
        self._checking: asyncio.Task[None] | None = None
        self._refusal: Refused | None = None

    async def run(self) -> None:
        """Serve until the worker is lost.

        Raises:
            Refused: what answers is no worker any more.
        """
        try:
            self._dispatcher.joined(self.link, self._served, session_events=False)
            await self._over.wait()
        finally:
            self._lose(crashed=False)
            tasks: set[asyncio.Task[None]] = {*self._calls.values(), *filter(None, (self._beating, self._checking))}
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
        if self._refusal is not None:
            raise self._refusal

    def _wake(self) -> None:
        self._loop.call_soon(self._start_calls)

    def _start_calls(self) -> None:
        for id in self.link.cancelled:
            if id in self._calls:
                self._calls[id].cancel()
        self.link.cancelled.clear()
        batch = self.link.take(self._loop.time())
        for packet in batch:
            task = self._calls[packet.id] = self._loop.create_task(self._call(packet))
            task.add_done_callback(lambda _, id=packet.id: self._ended(id))  # type: ignore[misc]
        # Nothing to gather for: the next packet may go at once.
        self.link.written()
        self.link.heard()

    def _ended(self, id: int) -> None:
        del self._calls[id]
        self.link.answered_late(id)  # if it was cancelled

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
            reply = worker_pb2.Reply.FromString(
                await self._handle(request, timeout=remaining + 0.5, metadata=self._metadata)
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                self._lose(crashed=True)
                return
            details = error.details() or ""
            if (
                error.code() is grpc.StatusCode.UNIMPLEMENTED
                and is_servers_own(details)
                and await self._is_gone(packet)
            ):
                return
            reply = worker_pb2.Reply(status=error.code().value[0], message=details)
        except DecodeError:
            self._complain("a reply of its does not parse")
            reply = worker_pb2.Reply(status=grpc.StatusCode.INTERNAL.value[0], message="the reply does not parse")
        reply.id = packet.id  # not every ten-line worker copies it
        self._heard()
        touched: list[Session] = []
        self._dispatcher.answered(self.link, (reply,), touched)
        for session in touched:
            session.flush()
        self.link.heard()

    async def _is_gone(self, packet: Pending) -> bool:
        """Whether what answers here is no worker any more: the channel connects again by itself, to whatever has the
        address now. Then the link is lost, and the packet, which nobody began, moves.
        """
        self._unbegun.append(packet)
        if self._checking is None:
            self._checking = self._loop.create_task(check(self._channel, self._metadata))
        checking = self._checking
        try:
            await asyncio.shield(checking)
        except Refused as error:
            self._refusal = error
            if self.link.state is not LinkState.LOST:
                self.link.unwrite(self._unbegun)
                self._lose(crashed=False)
            return True
        except grpc.aio.AioRpcError:
            pass  # its own answer, or its silence, tells
        finally:
            if packet in self._unbegun:
                self._unbegun.remove(packet)
            if self._checking is checking and checking.done():
                self._checking = None
        return False

    def _complain(self, problem: str) -> None:
        now = self._loop.time()
        if now >= self._complain_at:
            self._complain_at = now + COMPLAIN_EVERY_S
            log.warning("worker %s: %s", self._worker_id, problem)

    def beat(self) -> None:
        if self._beating is None or self._beating.done():
            self._beating = self._loop.create_task(self._health())

    async def _health(self) -> None:
        try:
            answer = health_pb2.HealthCheckResponse.FromString(
                await self._check_health(health_pb2.HealthCheckRequest(), timeout=60)
            )
            if answer.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                self._dispatcher.draining(self.link)
            elif self.link.state is LinkState.DRAINING and not self.is_leaving:
                self._dispatcher.recovered(self.link)
        except DecodeError:
            pass  # an answer
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                self._lose(crashed=True)
                return
        self._heard()

    def _heard(self) -> None:
        self.heard_at = self._loop.time()
        self.link.sent_when_it_spoke = self.link.sent

    @property
    def is_leaving(self) -> bool:
        return self._leaving_at > 0

    def is_closing(self, now: float) -> bool:
        return False

    def leave(self) -> None:
        """Nothing new goes here; the link ends when nothing is open. Call it again until it has ended."""
        now = self._loop.time()
        self._leaving_at = self._leaving_at or now
        self._dispatcher.draining(self.link)
        if not self.link.pending or now - self._leaving_at > LEAVE_WITHIN_S:
            self._lose(crashed=False)

    def forget(self, session_id: int) -> None:
        """Every call carries its context; there is nothing to forget."""

    def frozen(self, blocked: bool, blame: bool) -> None:
        """Give the worker up: it has been silent for too long. `blocked`: surely by a handler, and not because its
        process or its network stands still. `blame`: see Dispatcher.lost.
        """
        self._counters.workers_frozen += 1
        self._lose(crashed=True, blame=blame, sure=blocked, silent=True)

    def _lose(self, crashed: bool, blame: bool = True, sure: bool = True, silent: bool = False) -> None:
        if self.link.state is not LinkState.LOST:
            for task in self._calls.values():
                task.cancel()  # fencing: what a frozen worker answers later is not read
            crashed = crashed and self.link.state is not LinkState.DRAINING
            self._dispatcher.lost(self.link, crashed, blame, sure, silent)
            self._over.set()
