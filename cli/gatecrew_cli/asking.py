"""Ask gateways and workers how they are, through their gRPC services."""

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gatecrew.v1 import gateway_pb2, gateway_pb2_grpc

from .errors import Failed

PATIENCE_S = 3.0  # for the answer; a gateway that is well takes milliseconds


async def ask_status(address: str) -> gateway_pb2.StatusResponse:
    """What the gateway at this service address says.

    Raises:
        Failed: it does not answer.
    """
    async with grpc.aio.insecure_channel(address) as channel:
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
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
        except grpc.aio.AioRpcError as error:
            raise Failed(f"{address}: {error.code().name}: {error.details()}") from None
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
