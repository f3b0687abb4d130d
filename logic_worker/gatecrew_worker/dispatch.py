"""From a batch of requests to their handlers, and from their ends to replies.

    requests -> take -+-> in place ----------------------> replies     (finished at once: most)
                      |       `-> suspended: a carrier ---'
                      +-> a thread ----------------------'
                      +-> wait for the lane, then one of the above
                      `-> refused

Every request gets exactly one reply. What has been admitted and has no reply yet is in `open`, oldest first. When
nobody waits for a reply any more, what has not begun never does; what runs is cancelled, and its lane goes on.
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
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping
from enum import Enum
from types import CodeType
from typing import Any

from gatecrew.v1 import worker_pb2

from .inplace import Carrier, run_in_place
from .job import Job, NotStarted
from .lane import Lane
from .limited_log import LimitedLog
from .links import Links
from .outbox import MAX_BODY
from .outlet import Lost, Outlet
from .program import Handler, Program
from .request import Request
from .session import Session
from .slow import Slow
from .status import Status, StatusError
from .threads import Threads
from .waiters import Waiters
from .watch import Finder, Watch

MAX_MESSAGE = 1024  # characters of a StatusError that the client is shown
CANCEL_S = 1.0  # for cancelled handlers to clean up
LEASE_S = 2.0  # a gateway speaks every second; after such a silence our requests may be another worker's already
BEHIND_S = 0.02  # a message that lay unread for longer is searched for requests that are past their deadline
SLICE_S = 0.005  # handlers in place keep the loop no longer than this before others have their turn


class Shared:
    """What the dispatchers of one worker have in common."""

    def __init__(
        self,
        program: Program,
        links: Links,
        threads: Threads,
        max_in_flight: int,
        one_at_a_time: bool,
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
        self.slow = Slow(self.dispatchers, threads)
        self.watch = Watch(HANDLERS_RUN_IN, self.slow.look)


class _Pause(Enum):
    END = 0  # no request is left
    SPENT = 1  # the carrier is no longer fit for another handler
    SLICE = 2  # the loop has been kept for long enough


class Dispatcher:
    """Serves the requests of one link. `sessions` are those it knows."""

    def __init__(self, shared: Shared, outlet: Outlet, sessions: MutableMapping[int, Session]) -> None:
        self.open: dict[Job, None] = {}
        self.heard_at = math.inf  # of the gateway, monotonic seconds; there is no lease on single calls
        self.outlet = outlet
        self._shared = shared
        self._counters = shared.links.counters
        self._sessions = sessions
        self._bare: weakref.WeakValueDictionary[int, Session] = weakref.WeakValueDictionary()
        self._taking = False
        self._in_doubt: list[Job] = []  # not started: our stream may be cancelled, and we not know it yet
        self._idle_waiters = Waiters(shared.loop)
        shared.dispatchers.add(self)

    async def take(self, requests: Iterable[worker_pb2.Request], arrived_at: float) -> None:
        """Start the handlers of a batch. Returns when all have been started, or wait for their lane, or are refused.

        Args:
            requests: in order.
            arrived_at: when they came, monotonic seconds, which may be some time ago.
        """
        unread_s = time.monotonic() - arrived_at
        incoming = iter(requests if unread_s < BEHIND_S else self._skip_dead(requests, unread_s * 1000))
        late = False
        self._taking = True
        try:
            while self._take_slice(incoming, arrived_at, late):
                late = True
                await asyncio.sleep(0)
        finally:
            self._taking = False
            self._settled()

    def _skip_dead(self, requests: Iterable[worker_pb2.Request], unread_ms: float) -> Iterator[worker_pb2.Request]:
        for wire in requests:
            if 0 < wire.remaining_ms < unread_ms:
                self._give_up(wire)
            else:
                yield wire

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
                self._suspended(Job(self, request, handler, lane), carrier, coroutine, waits_for)
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
            job = Job(self, request, handler, lane)
            self.open[job] = None
            if lane.busy and not handler.concurrent:
                lane.wait(job)
            else:
                self._start(job)

    def _start(self, job: Job) -> None:
        """Start the handler of a job that is in `open`, if it is still worth it."""
        shared = self._shared
        if self.lease_is_over:
            self._in_doubt.append(job)
        elif self._is_too_late(job.request):
            del self.open[job]
            self._give_up(job.request._wire)
        elif job.handler.threaded:
            job.take_lane()
            job.in_thread = True
            shared.threads.submit(job)
        else:
            run_in_place(shared.loop, shared.context, functools.partial(self._start_with, job))

    def _start_with(self, job: Job, carrier: Carrier, context: contextvars.Context) -> None:
        try:
            coroutine = job.handler.call(job.request)
            waits_for = coroutine.send(None)
        except StopIteration as stop:
            del self.open[job]
            self._answer(job.request, stop.value)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            del self.open[job]
            self._fail(job.request, error)
        else:
            self._suspended(job, carrier, coroutine, waits_for)

    def call_in_thread(self, job: Job) -> Any:
        """Run the handler of a job whose turn has come.

        Raises:
            NotStarted: it waited too long for a thread.
        """
        if job.cancelled or self.lease_is_over or self._is_too_late(job.request):
            raise NotStarted
        return self._shared.context.copy().run(job.handler.call, job.request)

    @property
    def lease_is_over(self) -> bool:
        """Whether the gateway has been silent for so long that it, or we (SIGSTOP, a blocked loop), stood still."""
        return not isinstance(self.outlet, Lost) and time.monotonic() - self.heard_at > LEASE_S

    def _is_too_late(self, request: Request) -> bool:
        # The requests of a lost link are other workers' by now.
        return isinstance(self.outlet, Lost) or time.monotonic() > request.deadline

    def _give_up(self, wire: worker_pb2.Request) -> None:
        if not isinstance(self.outlet, Lost):
            self._counters.expired += 1
        self.outlet.refuse(wire.id, Status.DEADLINE_EXCEEDED, "the deadline passed before the handler started")

    def _decide(self) -> None:
        """There is no doubt any more: go on with what waited for that, in order. What follows it is not read yet."""
        doubtful, self._in_doubt = self._in_doubt, []
        for job in doubtful:
            if job.lane.busy and not job.handler.concurrent:
                job.lane.wait(job)
            else:
                self._start(job)

    def _suspended(self, job: Job, carrier: Carrier, coroutine: Any, waits_for: Any) -> None:
        job.carrier = carrier
        job.take_lane()
        self.open[job] = None
        carrier.hand_over(coroutine, waits_for, job.settle)

    def finish(self, job: Job, result: Any, error: BaseException | None) -> None:
        """A handler has ended that did not end in place."""
        held_lane = job.leave_lane()
        if isinstance(error, NotStarted) and not job.cancelled:
            job.in_thread = False
            self._start(job)
        else:
            del self.open[job]
            job.carrier = None
            if job.cancelled:
                self._drop(job, error)
            elif error is None:
                self._answer(job.request, result)
            else:
                self._fail(job.request, error)
        if held_lane:
            self._go_on(job.lane)
        self._settled()

    def _go_on(self, lane: Lane) -> None:
        # Those that end in place leave the lane free for the next.
        while (job := lane.next()) is not None:
            job.dispatcher._start(job)
            job.dispatcher._settled()

    def _drop(self, job: Job, error: BaseException | None = None) -> None:
        """Answer a cancelled job, which nobody waits for: it only frees the slot."""
        if error is not None and not isinstance(error, (asyncio.CancelledError, NotStarted, StatusError)):
            self._counters.failed += 1
            self._shared.log.error("%r: handler failed after it was cancelled", job.request, error)
        if time.monotonic() > job.request.deadline:
            self.outlet.refuse(job.request._wire.id, Status.DEADLINE_EXCEEDED, "the deadline has passed")
        else:
            self.outlet.refuse(job.request._wire.id, Status.CANCELLED, "the client has gone")

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
            program = self._shared.program
            handler = program.by_command.get(wire.command, program.any)
            name = "the handler" if handler is None else f"{handler.name}()"
            hint = "bytes, say text.encode()" if isinstance(value, str) else "bytes or None"
            text = f"{name}, command {wire.command}, returned {type(value).__name__}; return {hint}"
            self._fail(request, TypeError(text))
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
            return len(self.open), int((time.monotonic() - oldest.request._arrived_at) * 1000)
        return 0, 0

    def heard(self) -> None:
        """The gateway spoke, and has not cancelled the stream."""
        self.heard_at = time.monotonic()
        if self._in_doubt:
            self._decide()
            self._settled()

    def cancel_requests(self, request_ids: Collection[int]) -> None:
        """Nobody waits for these any more: stop them, or let them run on beside their lane; each still has its reply.

        Requests that have been answered, or never came, are none.
        """
        wanted = set(request_ids)
        self._cancel([job for job in self.open if job.request._wire.id in wanted and not job.cancelled])

    def _cancel(self, jobs: Collection[Job]) -> None:
        if not jobs:
            return
        self._counters.cancelled += len(jobs)
        for job in jobs:
            job.cancelled = job.request._cancelled = True
        unbegun = {job for job in jobs if not job.has_begun}
        for lane in {job.lane for job in unbegun}:
            lane.withdraw(unbegun)
        self._in_doubt = [job for job in self._in_doubt if job not in unbegun]
        unbegun |= self._shared.threads.withdraw({job for job in jobs if job.in_thread})
        now = time.monotonic()
        for job in jobs:
            if job in unbegun:
                del self.open[job]
                self._drop(job)
                continue
            if now > job.request.deadline:
                self._shared.slow.outlived(job)
            if job.carrier is not None:
                job.carrier.cancel()
        for job in jobs:
            # A worker that does one thing at a time waits for the end of a handler, whatever that does.
            if (job in unbegun or job.lane is not self._shared.only_lane) and job.leave_lane():
                self._go_on(job.lane)
        self._settled()

    def lose(self) -> None:
        """The link is gone: what runs goes on, for nobody, if it is not past its deadline."""
        self.outlet = Lost(self._counters)
        self._decide()
        for job in self.open:
            job.request._cancelled = True
        self._cancel([job for job in self.open if time.monotonic() > job.request.deadline and not job.cancelled])
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
        carriers = [job.carrier for job in self.open if job.carrier is not None]
        for carrier in carriers:
            carrier.cancel()
        if carriers:
            await asyncio.wait(carriers, timeout=CANCEL_S)


def _in_take_with(names: Mapping[str, Any]) -> tuple[Request, Handler] | None:
    handler = names.get("handler")
    return None if handler is None else (names["request"], handler)


def _in_start_with(names: Mapping[str, Any]) -> tuple[Request, Handler]:
    job: Job = names["job"]
    return job.request, job.handler


def _in_carrier(names: Mapping[str, Any]) -> tuple[Request, Handler] | None:
    job = getattr(names.get("settle"), "__self__", None)
    return (job.request, job.handler) if isinstance(job, Job) else None


HANDLERS_RUN_IN: dict[CodeType, Finder] = {
    Dispatcher._take_with.__code__: _in_take_with,
    Dispatcher._start_with.__code__: _in_start_with,
    Carrier._steps.__code__: _in_carrier,
}
