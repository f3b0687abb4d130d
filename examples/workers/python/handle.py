"""The simplest worker: one call a packet, nothing but gRPC."""

import asyncio
import os
import signal

import grpc.aio
from grpc_health.v1 import health, health_pb2_grpc

from gatecrew.v1 import worker_pb2, worker_pb2_grpc


class Upper(worker_pb2_grpc.LogicWorkerServicer):
    async def Handle(self, request, context):
        if request.command != 101:
            return worker_pb2.Reply(id=request.id, status=12, message=f"no command {request.command}")
        return worker_pb2.Reply(id=request.id, body=request.body.upper())

    async def Link(self, messages, context):
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "only Handle")


async def main() -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    worker_pb2_grpc.add_LogicWorkerServicer_to_server(Upper(), server)
    health_pb2_grpc.add_HealthServicer_to_server(serving := health.aio.HealthServicer(), server)
    address = f"{os.environ.get('HOST', '127.0.0.1')}:{os.environ.get('PORT', '7101')}"
    server.add_insecure_port(address)
    await server.start()
    print("listening on", address, flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await serving.enter_graceful_shutdown()
    await server.stop(grace=10)


asyncio.run(main())
