"""Whether what answers at a registered address is a logic worker at all.

A registration may point anywhere: at a gateway, at whatever was given the port of a worker that died. Only a server
that says `Link` is unimplemented is asked: it may be a worker that serves `Handle`, or have nothing to do with us.
"""

from __future__ import annotations

import asyncio
import re

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from gatecrew.v1 import worker_pb2

SERVICE = "gatecrew.v1.LogicWorker"
HEALTH_WITHIN_S = 3.0
CONNECT_WITHIN_S = 0.4
CALL_WITHIN_S = 1.0  # a server without the method says so at once; who takes longer has a handler
# A call that no handler acts on: no packet has this command, and no version of the contract this kind.
COMMAND = 0x10000
KIND = 127
Metadata = tuple[tuple[str, str], ...]
_NO_METHOD = "NoSuchMethod"
# What generated code answers where somebody wrote a class without Handle: Python, Go, Java.
_LEFT_OUT = re.compile(r"Method not implemented!|method Handle not implemented|Method \S+ is unimplemented")


class Refused(Exception):
    """What answers is not the worker that the registry spoke of; the text says why."""


async def shakes_hands(channel: grpc.aio.Channel) -> bool:
    """Whether the server still completes the handshakes of HTTP/2. One whose loop is blocked by a handler does, since
    threads of gRPC's own do that; one that was stopped, or is cut off, does not. The channel must be a new one.
    """
    try:
        async with asyncio.timeout(CONNECT_WITHIN_S):
            await channel.channel_ready()
    except TimeoutError:
        return False
    return True


async def check(channel: grpc.aio.Channel, metadata: Metadata) -> None:
    """Return if it serves `Handle`: its health service names us, or a call of `Handle` gets anything but the
    UNIMPLEMENTED that a server gives for methods that it does not have. `metadata`: of that call.

    Raises:
        Refused: it does not, or says that it does not serve now.
        grpc.RpcError: it gave no answer.
    """
    status = await _health(channel)
    if status == health_pb2.HealthCheckResponse.SERVING:
        return
    if status == health_pb2.HealthCheckResponse.NOT_SERVING:
        raise Refused(f"its health service says that {SERVICE} is NOT_SERVING")
    said = await _unimplemented(channel, "Handle", metadata)
    if said is None:
        return
    # A handler, too, may answer what it does not know with this status. Its text is not the server's own.
    absent = await _unimplemented(channel, _NO_METHOD, metadata)
    if said == absent or _LEFT_OUT.search(said):
        raise Refused(
            f"it is no worker, it serves neither Link nor Handle of {SERVICE}; is the registration out of date?"
        )


def is_servers_own(details: str) -> bool:
    """Whether the text of an UNIMPLEMENTED may be that of a server without the method: then `check` tells."""
    return not details or bool(re.search("method|service|path|http", details, re.IGNORECASE))


async def _health(channel: grpc.aio.Channel) -> int | None:
    """What the health service says of us; None: it does not know us, or is not there."""
    ask: grpc.aio.UnaryUnaryMultiCallable[health_pb2.HealthCheckRequest, bytes] = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=None,
    )
    try:
        answer = await ask(health_pb2.HealthCheckRequest(service=SERVICE), timeout=HEALTH_WITHIN_S)
        return int(health_pb2.HealthCheckResponse.FromString(answer).status)
    except grpc.aio.AioRpcError as error:
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            raise
        return None
    except DecodeError:
        return None


async def _unimplemented(channel: grpc.aio.Channel, method: str, metadata: Metadata) -> str | None:
    """The text with which this method is said to be unimplemented, without the method's name; None: it is not."""
    call: grpc.aio.UnaryUnaryMultiCallable[worker_pb2.Request, bytes] = channel.unary_unary(
        f"/{SERVICE}/{method}", request_serializer=worker_pb2.Request.SerializeToString, response_deserializer=None
    )
    request = worker_pb2.Request(command=COMMAND, kind=KIND, remaining_ms=int(CALL_WITHIN_S * 1000))  # type: ignore[arg-type]
    request.context.SetInParent()
    try:
        await call(request, timeout=CALL_WITHIN_S, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            raise
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return (error.details() or "").replace(method, "")
    return None
