"""A link over the worker's `Link` stream: one reader and one writer for its whole life.

Measured rules of grpc.aio that shape this file: two writes at once end the call, and so does cancelling a read or a
write; nothing but `call.cancel()` ends a stream whose peer is frozen; a cancelled call surfaces as CancelledError in
tasks that nobody cancelled; HTTP/2 keepalive does not see a worker whose loop hangs, so heartbeats go to its loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from gatecrew.v1 import worker_pb2
from gatecrew.v1.worker_pb2 import WorkerMessage

from ..actions import SLICE, ActionError, Actions, FanOut
from ..counters import Counters
from ..dispatcher import Dispatcher
from ..memory import Memory
from ..routing.lane import Pending
from ..routing.link import Link, LinkState
from ..session import Session
from .outflow import Outflow
from .probe import Refused

log = logging.getLogger("gatecrew.gateway")

HELLO_WITHIN_S = 3.0
LEAVE_WITHIN_S = 65.0  # a link that drains: longer than any deadline
END_WITHIN_S = 5.0  # of the stream, once we have closed our side
COMPLAIN_EVERY_S = 1.0
DEFAULT_MAX_IN_FLIGHT = 1024
MOST_IN_FLIGHT = 65_536
# How a stream ends that nobody ended in order: the process died, a message was over gRPC's limit, its handler failed.
CRASHES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)
MESSAGE_LIMIT = 3 << 20  # bytes; gRPC's own limit of 4 MiB would end the stream
RESULT_BYTES = 1 << 20  # of the names in a query's result
RESULTS_BYTES = 4 << 20  # of all results that wait for the worker to read
MOST_RESULTS = 10_000  # that wait; so many receipts, too


class Unimplemented(Exception):
    """The worker serves no `Link`."""


class StreamLink:
    """Runs one link from hello to loss."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        service: str,
        worker_id: str,
        hello: worker_pb2.GatewayHello,
        dispatcher: Dispatcher,
        actions: Actions,
        outflow: Outflow,
        memory: Memory,
        counters: Counters,
    ) -> None:
        self._open: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
            "/gatecrew.v1.LogicWorker/Link",
            request_serializer=None,  # we hand over bytes, since their size decides how a batch is split
            response_deserializer=None,  # bytes too: see _read
        )
        self._service = service
        self._worker_id = worker_id
        self._hello = hello
        self._dispatcher = dispatcher
        self._actions = actions
        self._outflow = outflow
        self._memory = memory
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._call: grpc.aio.StreamStreamCall[bytes, bytes] | None = None
        self._known: dict[int, int] = {}  # session id -> version of the context that the worker has
        self._forgotten: list[int] = []
        self._receipts: list[worker_pb2.PushResult] = []
        self._results: list[worker_pb2.QueryResult] = []
        self._results_bytes = 0
        self._complain_at = 0.0  # loop time; a worker may be wrong a thousand times a second
        self._beat = 0
        self._beat_due = False
        self._wanted = False
        self._waiter: asyncio.Future[None] | None = None
        self.link: Link | None = None
        self.incarnation = ""
        self.heard_at = 0.0  # loop time of the worker's last message
        self.commands: Sequence[int] = ()
        self.unary = False
        self._leaving_at = 0.0  # loop time; 0: it may stay
        self._closed_at = 0.0  # loop time when our side closed; 0: it is open

    async def open(self) -> worker_pb2.WorkerMessage:
        """Open the stream; returns the worker's first message, its hello.

        Raises:
            Unimplemented: the worker has no `Link`.
            Refused: it says no hello, or one of another service.
            grpc.RpcError: there was no worker to talk to.
        """
        call = self._call = self._open()
        try:
            async with asyncio.timeout(HELLO_WITHIN_S):
                try:
                    await call.write(worker_pb2.GatewayMessage(hello=self._hello).SerializeToString())
                    first = await call.read()
                except asyncio.InvalidStateError:  # it had ended before we wrote; the code says how
                    first = None
                if not isinstance(first, bytes):
                    code, details = await call.code(), await call.details()
                    if code is not grpc.StatusCode.OK:
                        metadata = grpc.aio.Metadata()
                        raise grpc.aio.AioRpcError(code, metadata, metadata, details)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise Unimplemented from None
            raise
        except TimeoutError:
            call.cancel()
            raise Refused(f"no hello within {HELLO_WITHIN_S:g} s") from None
        except asyncio.CancelledError:
            call.cancel()
            raise
        return self._checked(first)

    async def run(self, first: worker_pb2.WorkerMessage) -> None:
        """Serve the stream until it ends, move what is unanswered elsewhere.

        Raises:
            Refused: it ended because the worker sent what is no message.
        """
        hello = first.hello
        link = self.link = Link(
            self._dispatcher.pool(hello.service),
            self._worker_id,
            min(hello.max_in_flight or DEFAULT_MAX_IN_FLIGHT, MOST_IN_FLIGHT),
            self._wake,
            concurrency=hello.concurrency,
            incarnation=hello.incarnation,
        )
        self.incarnation = hello.incarnation
        self.commands = tuple(hello.commands)
        self.heard_at = self._loop.time()
        writer = asyncio.create_task(self._write(link), name=f"write {self._worker_id}")
        crashed = False
        try:
            serves_all = not hello.commands and not hello.no_commands
            self._dispatcher.joined(link, None if serves_all else frozenset(hello.commands), hello.session_events)
            # More may be in it: a worker that we came late to drains already.
            if not self._take_in(link, first):
                await self._act_in_turns(link, first)
            crashed = await self._read(link)
        except DecodeError:
            raise Refused("a message that it sent does not parse; the link was ended") from None
        finally:
            self._lose(crashed)
            writer.cancel()
            await asyncio.wait([writer])
            if not writer.cancelled() and writer.exception() is not None:
                log.error("writer of the link to %s", self._worker_id, exc_info=writer.exception())

    def _checked(self, first: bytes | object) -> worker_pb2.WorkerMessage:
        try:
            message = WorkerMessage.FromString(first) if isinstance(first, bytes) else WorkerMessage()
        except DecodeError:
            message = WorkerMessage()
        if not message.HasField("hello"):
            self._cancel()
            raise Refused("its first message is not a hello")
        if message.hello.service != self._service:
            self._cancel()
            raise Refused(f"it says that it serves {message.hello.service!r}, the registry says {self._service!r}")
        return message

    # The reader.

    async def _read(self, link: Link) -> bool:
        """Until the stream ends; returns whether the worker crashed.

        Raises:
            DecodeError: the worker sent what is no message.
        """
        assert self._call is not None
        read = self._call.read
        parse = WorkerMessage.FromString  # here, since gRPC would log a traceback for each that does not parse
        task = asyncio.current_task()
        assert task is not None
        try:
            while True:
                data = await read()
                if not isinstance(data, bytes):  # the end of the stream
                    return False
                self.heard_at = self._loop.time()
                link.sent_when_it_spoke = link.sent
                link.spoke_at = self.heard_at
                link.is_quiet = False
                self._memory.took(len(data))
                message = parse(data)
                if not self._take_in(link, message):
                    await self._act_in_turns(link, message)
        except grpc.aio.AioRpcError as error:
            code, details = error.code().name, error.details()
            log.info("link to %s ended: %s %s", self._worker_id, code, details, extra={"worker": self._worker_id})
            return error.code() in CRASHES and link.state is not LinkState.DRAINING
        except asyncio.CancelledError:
            if task.cancelling():
                raise
            return False  # our own call.cancel()

    def _take_in(self, link: Link, message: worker_pb2.WorkerMessage) -> bool:
        """Returns False, with nothing done, if the message has actions, which take turns."""
        self._counters.batches_received += 1
        replies = message.replies
        if link.state is LinkState.LOST:
            self._counters.late_replies += len(replies)
            return True
        if message.actions:
            return False
        if replies:
            touched: list[Session] = []
            self._dispatcher.answered(link, replies, touched)
            for session in touched:
                session.flush()
        self._taken_in(link, message)
        return True

    def _taken_in(self, link: Link, message: worker_pb2.WorkerMessage) -> None:
        if message.draining:
            self._dispatcher.draining(link)
        if message.replies:
            link.heard()
        if link.state is LinkState.DRAINING:
            self._wake()

    async def _act_in_turns(self, link: Link, message: worker_pb2.WorkerMessage) -> None:
        """Actions and replies in their order, over as many turns of the loop as the pushes among them need.

        Nothing more is read of the worker until then, so that it is the only one who waits when it pushes faster than
        we can write. Its heartbeats are among what is not read: our own work is not taken for its silence.
        """
        replies = message.replies
        settled = work = 0
        answered: list[Session] = []
        pushed: list[Session] = []

        def flush() -> None:
            for session in answered:
                session.flush()
            answered.clear()
            self._outflow.flush(pushed)

        for action in message.actions:
            if action.after_replies > settled:
                self._dispatcher.answered(link, replies[settled : action.after_replies], answered)
                settled = action.after_replies
            done = self._act(action, pushed)
            fan_out = done if isinstance(done, FanOut) else None
            given = 1 if fan_out is None else fan_out.reached
            work += 1 + given
            while work >= SLICE or (fan_out is not None and not fan_out.is_done):
                flush()
                await self._outflow.turn(given)
                self.heard_at = now = self._loop.time()
                if link.state is LinkState.LOST:
                    self._counters.late_replies += len(replies) - settled
                    return
                work = 0
                if fan_out is not None and not fan_out.is_done:
                    work = given = fan_out.go_on(pushed, now)
            reached = done if isinstance(done, int) else self._actions.pushed(done)
            if action.push.receipt and len(self._receipts) < MOST_RESULTS:
                self._receipts.append(worker_pb2.PushResult(receipt=action.push.receipt, delivered=reached))
                self._wake()
        if settled < len(replies):
            self._dispatcher.answered(link, replies[settled:], answered)
        flush()
        self._taken_in(link, message)

    def _act(self, action: worker_pb2.Action, touched: list[Session]) -> int | FanOut:
        try:
            if action.HasField("query"):
                self._answer(action.query)
                return 0
            if action.push.receipt and len(self._receipts) >= MOST_RESULTS:
                raise ActionError(f"{MOST_RESULTS} receipts wait to be read already")
            return self._actions.apply(action, touched)
        except ActionError as error:
            self._counters.actions_refused += 1
            if self._loop.time() >= self._complain_at:
                self._complain_at = self._loop.time() + COMPLAIN_EVERY_S
                log.warning("worker %s: %s", self._worker_id, error)
            return 0

    def _answer(self, query: worker_pb2.Query) -> None:
        if len(self._results) >= MOST_RESULTS:
            raise ActionError(f"{MOST_RESULTS} results of queries wait to be read already")
        # A worker that asks for much and does not read is told numbers only.
        result = self._actions.query(query, min(RESULT_BYTES, RESULTS_BYTES - self._results_bytes))
        self._results.append(result)
        self._results_bytes += result.ByteSize()
        self._wake()

    # The writer.

    def _wake(self) -> None:
        self._wanted = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _write(self, link: Link) -> None:
        assert self._call is not None
        write = self._call.write
        task = asyncio.current_task()
        assert task is not None
        try:
            while True:
                if not self._wanted:
                    self._waiter = self._loop.create_future()
                    await self._waiter
                self._wanted = False
                messages = self._messages(link.take(self._loop.time()), link)
                if messages:
                    link.writing = True
                    for data in messages:
                        await write(data)
                    self._counters.batches_sent += len(messages)
                    link.written()
                if link.state is LinkState.DRAINING and not link.pending:
                    self._closed_at = self._loop.time()
                    await self._call.done_writing()  # nothing of ours is open with it: now it can leave without a loss
                    return
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the reader sees how the stream ended
        except asyncio.CancelledError:
            if task.cancelling():
                raise
        except Exception:
            self._cancel()  # a bug of ours: the reader ends too, and the link is made anew
            raise

    def _messages(self, batch: list[Pending], link: Link) -> list[bytes]:
        """The batch, and what else is due, as messages of bounded size."""
        message = worker_pb2.GatewayMessage()
        if self._beat_due:
            self._beat_due = False
            message.heartbeat.number = self._beat
            message.sent_ms = int(self._loop.time() * 1000)  # an idle link learns from it how quick a message can be
        if self._forgotten:
            message.forgotten_sessions.extend(self._forgotten)
            self._forgotten.clear()
        if self._receipts:
            message.push_results.extend(self._receipts)
            self._receipts.clear()
        if link.cancelled:
            message.cancelled_requests.extend(link.cancelled)
            link.cancelled.clear()
        if self._results:
            message.query_results.extend(self._results)
            self._results.clear()
            self._results_bytes = 0
        if not batch:
            data = message.SerializeToString()
            if len(data) > MESSAGE_LIMIT:
                return split(message)
            return [data] if data else []
        known = self._known
        add = message.requests.add
        now = self._loop.time()
        message.sent_ms = int(now * 1000)
        deadline = 0.0
        remaining_ms = 0
        for packet in batch:
            session = packet.lane.session
            session_id = session.id
            if known.get(session_id) != session.version:
                known[session_id] = session.version
                add_context(message.sessions.add(), session)
            if packet.deadline != deadline:  # packets that came together have the same
                deadline = packet.deadline
                remaining_ms = max(1, int((deadline - now) * 1000))
            if packet.kind or packet.attempt:
                add(
                    id=packet.id,
                    session=session_id,
                    command=packet.command,
                    kind=packet.kind,
                    attempt=packet.attempt,
                    remaining_ms=remaining_ms,
                    body=packet.body,
                )
            else:
                add(
                    id=packet.id,
                    session=session_id,
                    command=packet.command,
                    remaining_ms=remaining_ms,
                    body=packet.body,
                )
        data = message.SerializeToString()
        return [data] if len(data) <= MESSAGE_LIMIT else split(message)

    # From the crew and the gateway.

    @property
    def is_leaving(self) -> bool:
        return self._leaving_at > 0

    def is_closing(self, now: float) -> bool:
        """Our side is closed: no heartbeat goes out any more, so the worker's silence says nothing. It has some seconds
        to close its own.
        """
        if self._closed_at and now - self._closed_at > END_WITHIN_S:
            self._lose(crashed=False)
        return self._closed_at > 0

    def leave(self) -> None:
        """Nothing new goes here; the link closes when nothing is open. Call it again until it has closed."""
        link = self.link
        if link is None or link.state is LinkState.LOST:
            return
        now = self._loop.time()
        self._leaving_at = self._leaving_at or now
        self._dispatcher.draining(link)
        self._wake()
        if now - self._leaving_at > LEAVE_WITHIN_S:
            self._lose(crashed=False)

    def beat(self) -> None:
        self._beat += 1
        self._beat_due = True
        self._wake()

    def forget(self, session_id: int) -> None:
        """The session is gone: the worker need not keep its context."""
        if self._known.pop(session_id, None) is not None:
            self._forgotten.append(session_id)
            if len(self._forgotten) == 1:
                self._wake()

    def frozen(self, blocked: bool, blame: bool) -> None:
        """Give the worker up: it has been silent for too long. `blocked`: surely by a handler, and not because its
        process or its network stands still. `blame`: see Dispatcher.lost.
        """
        self._counters.workers_frozen += 1
        self._lose(
            self.link is not None and self.link.state is not LinkState.DRAINING, blame, sure=blocked, silent=True
        )

    def _cancel(self) -> None:
        if self._call is not None:
            self._call.cancel()

    def _lose(self, crashed: bool, blame: bool = True, sure: bool = True, silent: bool = False) -> None:
        # Fencing: the stream is dead before any of its packets goes to another worker.
        self._cancel()
        if self.link is not None and self.link.state is not LinkState.LOST:
            self._dispatcher.lost(self.link, crashed, blame, sure, silent)


def add_context(context: worker_pb2.SessionContext, session: Session) -> None:
    """Fill in what a worker is told of a session."""
    context.session = session.id
    context.user = session.user
    context.peer = session.peer
    context.listener = session.listener.name
    if session.attributes:
        context.attributes.update(session.attributes)


def split(message: worker_pb2.GatewayMessage) -> list[bytes]:
    """The same content in messages under MESSAGE_LIMIT, in order: what a message says of sessions comes before their
    requests. A single request always fits, and so do a single session and a single result of a query.
    """
    first = worker_pb2.GatewayMessage()
    first.CopyFrom(message)
    del first.sessions[:], first.requests[:], first.query_results[:]
    messages = [first]
    room = MESSAGE_LIMIT - first.ByteSize()
    parts: list[worker_pb2.SessionContext | worker_pb2.Request | worker_pb2.QueryResult]
    parts = [*message.sessions, *message.requests, *message.query_results]
    for part in parts:
        size = part.ByteSize() + 8
        if size > room:
            messages.append(worker_pb2.GatewayMessage(sent_ms=message.sent_ms))
            room = MESSAGE_LIMIT - 16
        room -= size
        if isinstance(part, worker_pb2.SessionContext):
            messages[-1].sessions.append(part)
        elif isinstance(part, worker_pb2.Request):
            messages[-1].requests.append(part)
        else:
            messages[-1].query_results.append(part)
    return [each.SerializeToString() for each in messages]
