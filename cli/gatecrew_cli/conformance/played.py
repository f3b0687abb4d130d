"""The gateway's end of one link, played for a worker under test. What breaks the contract is noted as it comes in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from gatecrew.v1 import worker_pb2, worker_pb2_grpc

from .finding import Broken

PREFIX_SHIFT = 36  # session >> 36 is the prefix of its gateway
MAX_BODY = (1 << 20) - 8  # bytes
MAX_MESSAGE = 4 << 20  # bytes
SPEAKS_EVERY_S = 1.0  # as a gateway does, by its heartbeats
REMAINING_MS = 60_000  # until the deadline of a request, unless a check says otherwise

CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # every channel a connection of its own, as gateways are
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    # A gateway sends none, but what is between it and the worker may. A server that takes them for an attack ends the
    # connection.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.http2.max_pings_without_data", 0),
)

Event = worker_pb2.Reply | worker_pb2.Action | worker_pb2.Heartbeat | worker_pb2.PushResult


class PlayedGateway:
    """One link, as a gateway with this session prefix. `events` are what the worker sent, in the order that the
    contract gives it; `violations` are the rules that it broke on the way.
    """

    def __init__(self, address: str, prefix: int, patience_s: float) -> None:
        self.prefix = prefix
        self.hello = worker_pb2.WorkerHello()
        self.events: list[Event] = []
        self.replies: dict[int, worker_pb2.Reply] = {}
        self.violations: list[str] = []
        self.draining = False
        self.ended: grpc.StatusCode | None = None
        self.ending = ""  # what the worker said with its status
        self._patience_s = patience_s
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._heard = asyncio.Condition()
        self._reader: asyncio.Task[None] | None = None
        self._speaker: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()  # two writes at once end the call, and so does cancelling one
        self._asked: set[int] = set()
        self._last_id = 0
        self._introduced: set[int] = set()

    async def __aenter__(self) -> Self:
        stub: worker_pb2_grpc.LogicWorkerAsyncStub = worker_pb2_grpc.LogicWorkerStub(self._channel)
        self.call = stub.Link()
        self._reader = asyncio.create_task(self._read(), name="played gateway")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.call.cancel()
        if self._reader is not None:
            await self._reader
        if self._speaker is not None:
            self._speaker.cancel()
            await asyncio.wait([self._speaker])
        await self._channel.close()

    async def _read(self) -> None:
        try:
            while isinstance(message := await self.call.read(), worker_pb2.WorkerMessage):
                async with self._heard:
                    self._take(message)
                    self._heard.notify_all()
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            pass
        self.ended, self.ending = await self.call.code(), await self.call.details() or ""
        async with self._heard:
            self._heard.notify_all()

    def _take(self, message: worker_pb2.WorkerMessage) -> None:
        if message.HasField("hello"):
            if self.hello.incarnation or self.events:
                self.violations.append("a second hello on the same link")
            self.hello = message.hello
        if message.HasField("heartbeat"):
            self.events.append(message.heartbeat)
        self.draining = self.draining or message.draining
        settled = 0
        for action in message.actions:
            if action.after_replies > len(message.replies):
                said = f"after_replies {action.after_replies} in a message with {len(message.replies)} replies"
                self.violations.append(said)
            self.events += message.replies[settled : action.after_replies]
            settled = max(settled, action.after_replies)
            self.events.append(action)
        self.events += message.replies[settled:]
        for reply in message.replies:
            if reply.id in self.replies:
                self.violations.append(f"request {reply.id} was answered twice")
            elif reply.id not in self._asked:
                self.violations.append(f"an answer to request {reply.id}, which was never sent")
            if len(reply.body) > MAX_BODY:
                self.violations.append(f"a body of {len(reply.body)} bytes; {MAX_BODY} at most")
            self.replies[reply.id] = reply

    async def until(self, true: Callable[[], Any], missing: str) -> None:
        """Wait until something that the worker sends makes it true.

        Raises:
            Broken: it does not come, or the stream ends instead.
        """
        for last in (False, False, True):
            heard = len(self.events)
            try:
                async with asyncio.timeout(self._patience_s), self._heard:
                    await self._heard.wait_for(lambda: true() or self.ended is not None)
                    break
            except TimeoutError:
                if last or len(self.events) == heard:  # else: a busy machine
                    raise Broken(f"{missing} within {self._patience_s:g} s") from None
        if not true():
            assert self.ended is not None
            raise Broken(f"{missing}: the stream ended with {self.ended.name} {self.ending}".rstrip())

    async def greet(self) -> None:
        """Say hello, and wait for the worker's."""
        await self.send(worker_pb2.GatewayMessage(hello=self.own_hello()))
        await self.greeted()

    def speak_on(self) -> None:
        """From now on send a message with nothing in it, every second: a worker doubts a gateway that is silent, and
        checks take long on a busy machine.
        """
        self._speaker = asyncio.create_task(self._speak_on(), name="played gateway's speaker")

    async def _speak_on(self) -> None:
        with contextlib.suppress(Broken):  # of which the reader knows, too
            while True:
                await asyncio.sleep(SPEAKS_EVERY_S)
                await self.send(worker_pb2.GatewayMessage())

    async def greeted(self) -> None:
        await self.until(lambda: self.hello.incarnation or self.hello.service, "no hello")

    def own_hello(self) -> worker_pb2.GatewayHello:
        return worker_pb2.GatewayHello(
            gateway_id=f"conformance-{self.prefix}", version="conformance", session_prefix=self.prefix
        )

    def session(self, number: int) -> int:
        """An id that belongs to this gateway."""
        return (self.prefix << PREFIX_SHIFT) + number

    def request(self, command: int, body: bytes = b"", session: int = 1, **fields: Any) -> worker_pb2.Request:
        """A request with the next id; session numbers become ids of this gateway."""
        self._last_id += 1
        fields = {"id": self._last_id, "remaining_ms": REMAINING_MS} | fields
        return worker_pb2.Request(command=command, body=body, session=self.session(session), **fields)

    def context(self, number: int, **fields: Any) -> worker_pb2.SessionContext:
        fields = {"peer": f"192.0.2.1:{number}", "listener": "main"} | fields
        return worker_pb2.SessionContext(session=self.session(number), **fields)

    async def send(self, message: worker_pb2.GatewayMessage) -> None:
        """Raises:
        Broken: the stream has ended.
        """
        self._asked |= {request.id for request in message.requests}
        try:
            async with self._writing:
                await self.call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            code, details = await self.call.code(), await self.call.details() or ""
            raise Broken(f"the stream ended with {code.name} {details}".rstrip()) from None

    async def done_writing(self) -> None:
        """Close this side."""
        async with self._writing:
            if self._speaker is not None:
                self._speaker.cancel()
            await self.call.done_writing()

    async def post(self, *requests: worker_pb2.Request) -> None:
        """Send a batch, with the contexts of sessions that the worker has not seen on this link."""
        contexts = []
        for session in {request.session for request in requests} - self._introduced:
            contexts.append(self.context(session & ((1 << PREFIX_SHIFT) - 1)))
            self._introduced.add(session)
        await self.send(worker_pb2.GatewayMessage(sessions=contexts, requests=requests))

    async def answers(self, *requests: worker_pb2.Request) -> list[worker_pb2.Reply]:
        """The replies, in the order of the requests.

        Raises:
            Broken: one does not come.
        """

        def missing() -> list[int]:
            return [request.id for request in requests if request.id not in self.replies]

        try:
            await self.until(lambda: not missing(), "answers are missing")
        except Broken as error:
            raise Broken(f"{len(missing())} of {len(requests)} requests without an answer: {error}") from None
        return [self.replies[request.id] for request in requests]

    async def ask(self, *requests: worker_pb2.Request) -> list[worker_pb2.Reply]:
        await self.post(*requests)
        return await self.answers(*requests)

    @property
    def actions(self) -> list[worker_pb2.Action]:
        return [event for event in self.events if isinstance(event, worker_pb2.Action)]

    async def beat(self, number: int) -> worker_pb2.Heartbeat:
        """Send a heartbeat; returns the worker's answer.

        Raises:
            Broken: it does not come.
        """

        def answer() -> worker_pb2.Heartbeat | None:
            beats = (event for event in self.events if isinstance(event, worker_pb2.Heartbeat))
            return next((beat for beat in beats if beat.number == number), None)

        await self.send(worker_pb2.GatewayMessage(heartbeat=worker_pb2.Heartbeat(number=number)))
        await self.until(answer, f"heartbeat {number} was not answered")
        found = answer()
        assert found is not None
        return found
