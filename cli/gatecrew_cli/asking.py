"""Ask a gateway what it does, through its Gateway service."""

import grpc
import grpc.aio

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
