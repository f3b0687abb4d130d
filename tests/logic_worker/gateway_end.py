"""The gateway's end of a link, for tests of workers: real gRPC, no gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from gatecrew.v1 import worker_pb2, worker_pb2_grpc
from gatecrew_worker import Serving, Worker

PATIENCE_S = 10.0  # it only ends a test that has failed already
PREFIX_SHIFT = 36


class GatewayEnd:
    """One link. What the worker sends is in `events` in the order that the contract gives it: replies and actions."""

    def __init__(self, address: str, prefix: int = 1, gateway_id: str = "", service_address: str = "") -> None:
        self.prefix = prefix
        self.gateway_id = gateway_id or f"gateway-{prefix}"
        self.hello = worker_pb2.WorkerHello()
        self.messages: list[worker_pb2.WorkerMessage] = []
        self.events: list[worker_pb2.Reply | worker_pb2.Action] = []
        self.code: grpc.StatusCode | None = None  # set when the stream has ended
        self.reading = asyncio.Event()  # cleared: play a gateway that does not read
        self.reading.set()
        self._service_address = service_address
        self._channel = grpc.aio.insecure_channel(address)
        self._heard = asyncio.Condition()
        self._last_id = 0

    async def __aenter__(self) -> Self:
        self.call = worker_pb2_grpc.LogicWorkerStub(self._channel).Link()
        hello = worker_pb2.GatewayHello(
            gateway_id=self.gateway_id,
            version="test",
            session_prefix=self.prefix,
            service_address=self._service_address,
        )
        await self.send(hello=hello)
        first = await self.call.read()
        assert isinstance(first, worker_pb2.WorkerMessage)
        self.hello = first.hello
        self.messages.append(first)
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.reading.set()
        self.call.cancel()
        await self._reader
        await self._channel.close()

    async def _read(self) -> None:
        try:
            while isinstance(message := await self.call.read(), worker_pb2.WorkerMessage):
                self.messages.append(message)
                async with self._heard:
                    self.events += in_order(message)
                    self._heard.notify_all()
                await self.reading.wait()
            self.code = await self.call.code()
        except (asyncio.CancelledError, grpc.aio.AioRpcError):
            self.code = await self.call.code()
        async with self._heard:
            self._heard.notify_all()

    async def until(self, true: Callable[[], Any]) -> None:
        """Wait until something that the worker sends makes it true."""
        async with asyncio.timeout(PATIENCE_S), self._heard:
            await self._heard.wait_for(true)

    async def send(self, **fields: Any) -> None:
        await self.call.write(worker_pb2.GatewayMessage(**fields))

    def session(self, number: int) -> int:
        """An id of this gateway."""
        return (self.prefix << PREFIX_SHIFT) + number

    def request(self, command: int, body: bytes = b"", session: int = 1, **fields: Any) -> worker_pb2.Request:
        """A request with the next id; session numbers become ids of this gateway."""
        self._last_id += 1
        fields = {"id": self._last_id, "remaining_ms": 60_000} | fields
        return worker_pb2.Request(command=command, body=body, session=self.session(session), **fields)

    async def post(self, *requests: worker_pb2.Request) -> None:
        await self.send(requests=requests)

    async def cancel(self, *requests: worker_pb2.Request) -> None:
        """Say that nobody waits for these any more."""
        await self.send(cancelled_requests=[request.id for request in requests])

    async def ask(self, *requests: worker_pb2.Request) -> list[worker_pb2.Reply]:
        """Send a batch and wait for its replies, in the order of the requests."""
        await self.post(*requests)
        return await self.answers(*requests)

    async def answers(self, *requests: worker_pb2.Request) -> list[worker_pb2.Reply]:
        await self.until(lambda: {request.id for request in requests} <= self.replies.keys())
        return [self.replies[request.id] for request in requests]

    @property
    def replies(self) -> dict[int, worker_pb2.Reply]:
        replies = [event for event in self.events if isinstance(event, worker_pb2.Reply)]
        by_id = {reply.id: reply for reply in replies}
        assert len(by_id) == len(replies), "a request was answered twice"
        return by_id

    @property
    def actions(self) -> list[worker_pb2.Action]:
        return [event for event in self.events if isinstance(event, worker_pb2.Action)]


def in_order(message: worker_pb2.WorkerMessage) -> list[worker_pb2.Reply | worker_pb2.Action]:
    """Replies and actions as `after_replies` merges them."""
    events: list[worker_pb2.Reply | worker_pb2.Action] = []
    settled = 0
    for action in message.actions:
        events += message.replies[settled : action.after_replies]
        settled = max(settled, action.after_replies)
        events.append(action)
    return events + list(message.replies[settled:])


async def eventually(true: Callable[[], Any]) -> None:
    """Give the loop turns until it is true, for what nobody announces."""
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            await asyncio.sleep(0)


@asynccontextmanager
async def linked(worker: Worker, **options: Any) -> AsyncIterator[tuple[GatewayEnd, Serving]]:
    """A worker that serves, and one gateway linked to it."""
    async with worker.serving(**options) as serving, GatewayEnd(serving.address) as gateway:
        yield gateway, serving
