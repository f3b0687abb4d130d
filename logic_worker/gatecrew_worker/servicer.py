"""The LogicWorker service: every Link and every Handle call ends up at the same dispatcher."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import grpc

from gatecrew.v1 import worker_pb2, worker_pb2_grpc

from .dispatch import Dispatcher, Shared
from .link import Link
from .outlet import OneReply
from .session import Session
from .tls import is_gateway

if TYPE_CHECKING:
    from .link import Context


class Servicer(worker_pb2_grpc.LogicWorkerServicer):
    """Owns the streams that are open."""

    def __init__(self, shared: Shared, hello: worker_pb2.WorkerHello, only_gateways: bool) -> None:
        self.streams: set[Link] = set()
        self._shared = shared
        self._hello = hello
        self._only_gateways = only_gateways
        self._sessions: WeakValueDictionary[int, Session] = WeakValueDictionary()  # of Handle calls

    async def Link(  # type: ignore[override]  # it reads and writes through the context, and yields nothing
        self, request_iterator: AsyncIterator[worker_pb2.GatewayMessage], context: Context
    ) -> None:
        await self._check(context)
        link = Link(self._shared, self._hello)
        self.streams.add(link)
        if self._shared.draining:
            link.outbox.draining()
        try:
            await link.serve(context)
        finally:
            self.streams.discard(link)

    async def Handle(self, request: worker_pb2.Request, context: Any) -> worker_pb2.Reply:
        await self._check(context)
        session = self._sessions.get(request.session)
        if session is None:
            session = self._sessions[request.session] = Session(request.session, self._shared.links)
        if request.HasField("context"):
            session._update(request.context)
        outlet = OneReply(self._shared.loop)
        dispatcher = Dispatcher(self._shared, outlet, self._sessions)
        try:
            await dispatcher.take((request,), time.monotonic())
            return await outlet.reply_waiter
        finally:
            dispatcher.lose()

    async def _check(self, context: Any) -> None:
        if self._only_gateways and not is_gateway(context):
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "only gateways may link")
