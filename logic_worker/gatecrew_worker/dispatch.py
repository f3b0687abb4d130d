"""From a batch of requests to their handlers, and from their ends to replies.

    requests -> take -+-> in place ----------------------> replies     (finished at once: most)
                      |       `-> suspended: a carrier ---'
                      +-> a thread ----------------------'
                      +-> wait for the lane, then one of the above
                      `-> refused

Every request gets exactly one reply. What has been admitted and has no reply yet is in `open`, oldest first.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import math
import sys
import time
import weakref
from collections.abc import Iterable, Iterator, MutableMapping
from enum import Enum
from typing import Any, NamedTuple

from gatecrew.v1 import worker_pb2

from .inplace import Carrier, run_in_place
from .lane import Lane
from .limited_log import LimitedLog
from .links import Links
from .outbox import MAX_BODY
from .outlet import Lost, Outlet
from .program import Handler, Program
from .request import Request
from .session import Session
from .status import Status, StatusError
from .threads import Threads
from .waiters import Waiters

MAX_MESSAGE = 1024  # characters of a StatusError that the client is shown
CANCEL_S = 1.0  # for cancelled handlers to clean up
LEASE_S = 2.0  # a gateway speaks every second; after such a silence our requests may be another worker's already
SLICE_S = 0.005  # handlers in place keep the loop no longer than this before others have their turn


class NotStarted(Exception):
    """In a thread: nobody waits for the reply any more, or that is in doubt."""


class Waiting(NamedTuple):
    """A request that can't start yet."""

    dispatcher: Dispatcher
    request: Request
    handler: Handler
    lane: Lane


class Shared:
    """What the dispatchers of one worker have in common."""

    def __init__(
        self, program: Program, links: Links, threads: Threads, max_in_flight: int, one_at_a_time: bool
    ) -> None:
        self.program = program
        self.links = links
        self.threads = threads
        self.max_in_flight = max_in_flight
        self.only_lane = Lane() if one_at_a_time else None
        self.loop = asyncio.get_running_loop()
        self.context = contextvars.copy_context()  # every handler starts in a copy of it
        self.log = LimitedLog(logging.getLogger("gatecrew.worker"))
        self.draining = False
        self.dispatchers: set[Dispatcher] = set()  # those whose link lives or whose handlers still run


class _Pause(Enum):
    END = 0  # no request is left
    SPENT = 1  # the carrier is no longer fit for another handler
    SLICE = 2  # the loop has been kept for long enough


class Dispatcher:
    """Serves the requests of one link. `sessions` are those it knows."""

    def __init__(self, shared: Shared, outlet: Outlet, sessions: MutableMapping[int, Session]) -> None:
        self.open: dict[Request, Carrier | None] = {}
        self.heard_at = math.inf  # of the gateway, monotonic seconds; there is no lease on single calls
        self.outlet = outlet
        self._shared = shared
        self._counters = shared.links.counters
        self._sessions = sessions
        self._bare: weakref.WeakValueDictionary[int, Session] = weakref.WeakValueDictionary()
        self._taking = False
        self._in_doubt: list[Waiting] = []  # not started: our stream may be cancelled, and we not know it yet
        self._idle_waiters = Waiters(shared.loop)
        shared.dispatchers.add(self)

    async def take(self, requests: Iterable[worker_pb2.Request]) -> None:
        """Start the handlers of a batch. Returns when all have been started, or wait for their lane, or are refused."""
        incoming = iter(requests)
        arrived_at = time.monotonic()
        late = False
        self._taking = True
        try:
            while self._take_slice(incoming, arrived_at, late):
                late = True
                await asyncio.sleep(0)
        finally:
            self._taking = False
            self._settled()

    def _take_slice(self, incoming: Iterator[worker_pb2.Request], arrived_at: float, late: bool) -> bool:
        """Returns whether the loop should have a turn before more is taken."""
        until = time.monotonic() + SLICE_S
        step = functools.partial(self._take_with, incoming, arrived_at, until, late)
        while (pause := run_in_place(self._shared.loop, self._shared.context, step)) is _Pause.SPENT:
            pass
        return pause is _Pause.SLICE

    def _take_with(
        self,
        incoming: Iterator[worker_pb2.Request],
        arrived_at: float,
        until: float,
        late: bool,
        carrier: Carrier,
        context: contextvars.Context,
    ) -> _Pause:
        """Take requests as long as the carrier can be used for them. The worker's hottest loop."""
        shared = self._shared
        by_command = shared.program.by_command
        any_command = shared.program.any
        only_lane = shared.only_lane
        known = self._sessions.get
        base = shared.context
        clock = time.monotonic
        references = sys.getrefcount
        untouched = references(carrier)
        has_room = not shared.draining and len(self.open) < shared.max_in_flight
        reply = self.outlet.reply
        for wire in incoming:
            session_id = wire.session
            session = known(session_id) or self._unknown(session_id)
            request = Request(wire, session, arrived_at)
            lane = only_lane or session._lane
            kind = wire.kind
            handler = by_command.get(wire.command, any_command) if kind < 2 else shared.program.events.get(kind)
            if handler is None or handler.threaded or late or not has_room or (lane.busy and not handler.concurrent):
                self._admit(request, handler, lane)
                has_room = not shared.draining and len(self.open) < shared.max_in_flight
                if clock() > until:
                    return _Pause.SLICE
                continue
            try:
                coroutine = handler.call(request)
                waits_for = coroutine.send(None)
            except StopIteration as stop:
                body = stop.value
                if kind or body.__class__ is not bytes or len(body) > MAX_BODY:
                    self._answer(request, body)
                else:
                    reply(wire.id, body)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                self._fail(request, error)
            else:
                self._suspended(request, handler, lane, carrier)
                carrier.hand_over(coroutine, waits_for, functools.partial(self._finish, request, handler, lane))
                return _Pause.SPENT
            if carrier.touched or references(carrier) != untouched or context != base:
                return _Pause.SPENT
            if clock() > until:
                return _Pause.SLICE
        return _Pause.END

    def _admit(self, request: Request, handler: Handler | None, lane: Lane) -> None:
        """Start it unless it cannot start now: then it waits in its lane or is refused."""
        wire = request._wire
        if handler is None:
            if wire.kind > worker_pb2.KIND_NOTIFY:
                self.outlet.reply(wire.id, b"")
            else:
                self.outlet.refuse(wire.id, Status.UNIMPLEMENTED, f"no handler for command {wire.command}")
        elif self._shared.draining or len(self.open) >= self._shared.max_in_flight:
            self._counters.not_started += 1
            reason = "the worker is draining" if self._shared.draining else "the worker has too much in flight"
            self.outlet.refuse(wire.id, Status.UNAVAILABLE, reason, not_started=True)
        else:
            self.open[request] = None
            if lane.busy and not handler.concurrent:
                lane.wait(Waiting(self, request, handler, lane))
            else:
                self._start(request, handler, lane)

    def _start(self, request: Request, handler: Handler, lane: Lane) -> None:
        """Start the handler of a request that is in `open`, if it is still worth it."""
        shared = self._shared
        if self.lease_is_over:
            self._in_doubt.append(Waiting(self, request, handler, lane))
        elif self._is_too_late(request):
            del self.open[request]
            self._give_up(request)
        elif handler.threaded:
            lane.busy = lane.busy or not handler.concurrent
            settle = functools.partial(self._finish, request, handler, lane)
            call = functools.partial(shared.context.copy().run, self._call_in_thread, handler, request)
            shared.threads.submit(call, settle)
        else:
            run_in_place(shared.loop, shared.context, functools.partial(self._start_with, request, handler, lane))

    def _start_with(
        self, request: Request, handler: Handler, lane: Lane, carrier: Carrier, context: contextvars.Context
    ) -> None:
        try:
            coroutine = handler.call(request)
            waits_for = coroutine.send(None)
        except StopIteration as stop:
            del self.open[request]
            self._answer(request, stop.value)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            del self.open[request]
            self._fail(request, error)
        else:
            self._suspended(request, handler, lane, carrier)
            carrier.hand_over(coroutine, waits_for, functools.partial(self._finish, request, handler, lane))

    def _call_in_thread(self, handler: Handler, request: Request) -> Any:
        if self.lease_is_over or self._is_too_late(request):  # it waited for a thread
            raise NotStarted
        return handler.call(request)

    @property
    def lease_is_over(self) -> bool:
        """Whether the gateway has been silent for so long that it, or we (SIGSTOP, a blocked loop), stood still."""
        return not isinstance(self.outlet, Lost) and time.monotonic() - self.heard_at > LEASE_S

    def _is_too_late(self, request: Request) -> bool:
        # The requests of a lost link are other workers' by now.
        return isinstance(self.outlet, Lost) or time.monotonic() > request.deadline

    def _give_up(self, request: Request) -> None:
        if not isinstance(self.outlet, Lost):
            self._counters.expired += 1
        self.outlet.refuse(request._wire.id, Status.DEADLINE_EXCEEDED, "the deadline passed before the handler started")

    def _decide(self) -> None:
        """There is no doubt any more: go on with what waited for that, in order. What follows it is not read yet."""
        doubtful, self._in_doubt = self._in_doubt, []
        for waiting in doubtful:
            if waiting.lane.busy and not waiting.handler.concurrent:
                waiting.lane.wait(waiting)
            else:
                self._start(waiting.request, waiting.handler, waiting.lane)

    def _suspended(self, request: Request, handler: Handler, lane: Lane, carrier: Carrier) -> None:
        self.open[request] = carrier
        if not handler.concurrent:
            lane.busy = True

    def _finish(self, request: Request, handler: Handler, lane: Lane, result: Any, error: BaseException | None) -> None:
        """A handler has ended that did not end in place."""
        if not handler.concurrent:
            lane.busy = False
        if isinstance(error, NotStarted):
            self._start(request, handler, lane)
        else:
            del self.open[request]
            if error is None:
                self._answer(request, result)
            else:
                self._fail(request, error)
        if not handler.concurrent:
            # Those that end in place leave the lane free for the next.
            while (waiting := lane.next()) is not None:
                waiting.dispatcher._start(waiting.request, waiting.handler, lane)
                waiting.dispatcher._settled()
        self._settled()

    def _answer(self, request: Request, value: Any) -> None:
        """Send what a handler returned; it may be anything."""
        wire = request._wire
        if wire.kind or value is None:
            body = b""
        elif isinstance(value, (bytes, bytearray, memoryview)):
            body = bytes(value)
        else:
            if asyncio.iscoroutine(value):
                value.close()
            self._fail(request, TypeError(f"the handler returned {type(value).__name__}, not bytes or None"))
            return
        if len(body) > MAX_BODY:
            text = f"a reply of {len(body)} bytes; {MAX_BODY} at most"
            self._shared.log.error("%r: %s", request, text)
            self._counters.failed += 1
            self.outlet.refuse(wire.id, Status.INTERNAL, text)
        else:
            self.outlet.reply(wire.id, body)

    def _fail(self, request: Request, error: BaseException) -> None:
        """Send what a handler's exception says to the client: where to look, unless it is a StatusError. One that calls
        `sys.exit` has failed like any other: ending the worker would take everybody's requests with it.
        """
        if isinstance(error, StatusError):
            message = error.message.encode("utf-8", "replace").decode()  # a lone surrogate is no UTF-8
            self.outlet.refuse(request._wire.id, error.status, message[:MAX_MESSAGE])
        else:
            self._counters.failed += 1
            self._shared.log.error("%r: handler failed", request, error)
            self.outlet.refuse(request._wire.id, Status.INTERNAL, f"internal error, request {request.idempotency_key}")

    def _unknown(self, session_id: int) -> Session:
        """A session whose context never came: keeps its order while anything of it is in flight."""
        session = self._bare.get(session_id)
        if session is None:
            session = self._bare[session_id] = Session(session_id, self._shared.links)
        return session

    # For the link.

    def heartbeat(self) -> tuple[int, int]:
        """How many requests have no reply yet, and the age of the oldest in milliseconds."""
        for oldest in self.open:
            return len(self.open), int((time.monotonic() - oldest._arrived_at) * 1000)
        return 0, 0

    def heard(self) -> None:
        """The gateway spoke, and has not cancelled the stream."""
        self.heard_at = time.monotonic()
        if self._in_doubt:
            self._decide()
            self._settled()

    def lose(self) -> None:
        """The link is gone: what runs goes on, for nobody."""
        self.outlet = Lost(self._counters)
        self._decide()
        self._settled()

    async def idle(self) -> None:
        """Wait until everything that came has its reply."""
        while self.open or self._taking:
            await self._idle_waiters.wait()

    def _settled(self) -> None:
        if self.open or self._taking:
            return
        self._idle_waiters.wake()
        if isinstance(self.outlet, Lost):
            self._shared.dispatchers.discard(self)

    async def cancel(self) -> None:
        """Cancel the handlers that still run; threads cannot be."""
        carriers = [carrier for carrier in self.open.values() if carrier is not None]
        for carrier in carriers:
            carrier.cancel()
        if carriers:
            await asyncio.wait(carriers, timeout=CANCEL_S)
