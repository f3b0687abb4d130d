"""Ask gateways and workers how they are, through their gRPC services."""

import asyncio

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gatecrew.v1 import gateway_pb2, gateway_pb2_grpc

from .errors import Failed
from .probe import NO_HEALTH_SERVICE, SERVING

CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # who we ask is behind no proxy for web pages
    ("grpc.max_reconnect_backoff_ms", 200),
)
POLL_S = 0.1
PATIENCE_S = 3.0  # for the answer; a gateway that is well takes milliseconds


async def ask_status(address: str) -> gateway_pb2.StatusResponse:
    """What the gateway at this service address says.

    Raises:
        Failed: it does not answer.
    """
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        stub: gateway_pb2_grpc.GatewayAsyncStub = gateway_pb2_grpc.GatewayStub(channel)
        try:
            return await stub.Status(gateway_pb2.StatusRequest(), timeout=PATIENCE_S)
        except grpc.aio.AioRpcError as error:
            raise Failed(f"gateway service {address}: {error.code().name}: {error.details()}") from None


async def ask_health(address: str) -> str:
    """SERVING or NOT_SERVING, of a gateway or a worker.

    Raises:
        Failed: it does not answer.
    """
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        try:
            return await _health(channel)
        except grpc.aio.AioRpcError as error:
            raise Failed(f"{address}: {error.code().name}: {error.details()}") from None


async def wait_for_health(address: str, wait_s: float) -> str:
    """The same, as soon as it is SERVING, or after `wait_s` seconds; NO_HEALTH_SERVICE of a server that has none.

    Raises:
        Failed: it does not answer in all that time.
    """
    give_up_at = asyncio.get_running_loop().time() + wait_s
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        while True:
            late = asyncio.get_running_loop().time() > give_up_at
            try:
                state = await _health(channel)
                if state == SERVING or late:
                    return state
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    return NO_HEALTH_SERVICE
                if late:
                    raise Failed(f"{address}: {error.code().name}: {error.details()}") from None
            await asyncio.sleep(POLL_S)


async def _health(channel: grpc.aio.Channel) -> str:
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
