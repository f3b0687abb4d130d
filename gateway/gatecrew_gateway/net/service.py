"""The Gateway gRPC service: what workers without `Link`, outside programs and the command line may do."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable

import grpc
import grpc.aio

from gatecrew import __version__
from gatecrew.v1 import gateway_pb2, gateway_pb2_grpc, worker_pb2

from ..actions import ActionError, Actions, FanOut
from ..session import COUNTER_BITS, Session, SessionTable
from .dead_letters import DeadLetters
from .outflow import Outflow
from .peers import HOP, Peers
from .stream import add_context
from .suspicions import Suspicions

DEFAULT_LIMIT = 1000
MOST_LISTED = 10_000
MOST_LISTED_BYTES = 3 << 20  # a message of more than 4 MiB is refused by the other side

Context = grpc.aio.ServicerContext[object, object]


class GatewayService(gateway_pb2_grpc.GatewayServicer):
    """`status` fills in the answer of Status."""

    def __init__(
        self,
        gateway_id: str,
        sessions: SessionTable,
        actions: Actions,
        outflow: Outflow,
        peers: Peers,
        dead_letters: DeadLetters,
        suspicions: Suspicions,
        clock: Callable[[], float],
        status: Callable[[], gateway_pb2.StatusResponse],
    ) -> None:
        self._gateway_id = gateway_id
        self._sessions = sessions
        self._actions = actions
        self._outflow = outflow
        self._peers = peers
        self._dead_letters = dead_letters
        self._suspicions = suspicions
        self._clock = clock
        self._status = status

    async def Push(self, request: worker_pb2.Push, context: Context) -> gateway_pb2.Reached:
        prefix = self._prefix(request.session) if request.WhichOneof("target") == "session" else None
        return await self._act("Push", worker_pb2.Action(push=request), request, prefix, context)

    async def Bind(self, request: worker_pb2.Bind, context: Context) -> gateway_pb2.Reached:
        action = worker_pb2.Action(bind=request)
        return await self._act("Bind", action, request, self._prefix(request.session), context)

    async def SetAttributes(self, request: worker_pb2.SetAttributes, context: Context) -> gateway_pb2.Reached:
        action = worker_pb2.Action(set_attributes=request)
        return await self._act("SetAttributes", action, request, self._prefix(request.session), context)

    async def Join(self, request: worker_pb2.Join, context: Context) -> gateway_pb2.Reached:
        action = worker_pb2.Action(join=request)
        return await self._act("Join", action, request, self._prefix(request.session), context)

    async def Leave(self, request: worker_pb2.Leave, context: Context) -> gateway_pb2.Reached:
        action = worker_pb2.Action(leave=request)
        return await self._act("Leave", action, request, self._prefix(request.session), context)

    async def Kick(self, request: worker_pb2.Kick, context: Context) -> gateway_pb2.Reached:
        prefix = self._prefix(request.session) if request.WhichOneof("target") == "session" else None
        return await self._act("Kick", worker_pb2.Action(kick=request), request, prefix, context)

    @staticmethod
    def _prefix(session_id: int) -> int:
        return session_id >> COUNTER_BITS

    async def _act(
        self, method: str, action: worker_pb2.Action, request: object, prefix: int | None, context: Context
    ) -> gateway_pb2.Reached:
        """Do it here, and at the other gateways if it may concern their sessions."""
        reached = unknown = 0
        if prefix is None or prefix == self._sessions.prefix:
            touched: list[Session] = []
            try:
                done = self._actions.apply(action, touched)
            except ActionError as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            self._outflow.flush(touched)
            if isinstance(done, FanOut):
                await self._outflow.finish(done)
                reached = self._actions.pushed(done)
            else:
                reached = done
        if prefix != self._sessions.prefix and not _has_hopped(context):
            answers, unknown = await self._peers.ask(method, request, prefix)
            for answer in answers:
                assert isinstance(answer, gateway_pb2.Reached)
                reached += answer.sessions
        return gateway_pb2.Reached(sessions=reached, unknown_gateways=unknown)

    async def ListSessions(
        self, request: gateway_pb2.ListSessionsRequest, context: Context
    ) -> gateway_pb2.ListSessionsResponse:
        limit = min(request.limit or DEFAULT_LIMIT, MOST_LISTED)
        found = [self._describe(session) for session in itertools.islice(self._matching(request), limit)]
        total = sum(1 for _ in self._matching(request))
        unknown = 0
        if not _has_hopped(context):
            answers, unknown = await self._peers.ask("ListSessions", request)
            for answer in answers:
                assert isinstance(answer, gateway_pb2.ListSessionsResponse)
                total += answer.total
                found += answer.sessions
        sizes = itertools.accumulate(info.ByteSize() + 8 for info in found[:limit])
        fitting = sum(1 for size in sizes if size <= MOST_LISTED_BYTES)
        return gateway_pb2.ListSessionsResponse(sessions=found[:fitting], total=total, unknown_gateways=unknown)

    def _matching(self, request: gateway_pb2.ListSessionsRequest) -> Iterable[Session]:
        found: Iterable[Session] = self._sessions.by_id.values()
        if request.user:
            found = self._sessions.of_user(request.user)
        elif request.group:
            found = self._sessions.in_group(request.group)
        return (
            session
            for session in found
            if (not request.group or request.group in (session.groups or ()))
            and (not request.listener or session.listener.name == request.listener)
        )

    def _describe(self, session: Session) -> gateway_pb2.SessionInfo:
        info = gateway_pb2.SessionInfo(
            gateway_id=self._gateway_id,
            groups=sorted(session.groups or ()),
            in_flight=session.in_flight,
            connected_ms=int((self._clock() - session.opened_at) * 1000),
        )
        add_context(info.context, session)
        return info

    async def ListDeadLetters(
        self, request: gateway_pb2.ListDeadLettersRequest, context: Context
    ) -> gateway_pb2.ListDeadLettersResponse:
        return await self._dead_letters.list(request, ask_others=not _has_hopped(context))

    async def ReplayDeadLetters(
        self, request: gateway_pb2.ReplayDeadLettersRequest, context: Context
    ) -> gateway_pb2.ReplayDeadLettersResponse:
        return await self._dead_letters.replay(request, ask_others=not _has_hopped(context))

    async def Suspicions(
        self, request: gateway_pb2.SuspicionsRequest, context: Context
    ) -> gateway_pb2.SuspicionsResponse:
        self._suspicions.hear(request)
        return gateway_pb2.SuspicionsResponse()

    async def Status(self, request: gateway_pb2.StatusRequest, context: Context) -> gateway_pb2.StatusResponse:
        response = self._status()
        response.gateway_id = self._gateway_id
        response.version = __version__
        response.process_id = os.getpid()
        return response


def _has_hopped(context: Context) -> bool:
    return any(key == HOP for key, _ in context.invocation_metadata() or ())
