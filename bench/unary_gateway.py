"""One unary gRPC call a packet: what one would write first. The workers serve `Handle` of our own contract.

Usage: python -m bench.unary_gateway WORKERS
"""

import asyncio
import itertools
import subprocess
import sys
from typing import TypeAlias

import grpc
import grpc.aio
import uvloop

from gatecrew.v1 import worker_pb2, worker_pb2_grpc

from .gate import Gate
from .ready import serve
from .wire import COMMAND

Context: TypeAlias = "grpc.aio.ServicerContext[object, object]"


class Echo(worker_pb2_grpc.LogicWorkerServicer):
    async def Handle(self, request: worker_pb2.Request, context: Context) -> worker_pb2.Reply:
        return worker_pb2.Reply(id=request.id, body=request.body)

    async def Link(self, request_iterator: object, context: Context) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "one call a packet")


async def worker() -> None:
    server = grpc.aio.server()
    worker_pb2_grpc.add_LogicWorkerServicer_to_server(Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


async def gateway(ports: list[int]) -> None:
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}") for port in ports]
    stubs = itertools.cycle([worker_pb2_grpc.LogicWorkerStub(channel) for channel in channels])
    clients: dict[int, Gate] = {}
    calls: set[asyncio.Task[None]] = set()

    async def call(number: int, seq: int, body: bytes) -> None:
        reply = await next(stubs).Handle(worker_pb2.Request(id=seq, session=number, command=COMMAND, body=body))
        client = clients.get(number)
        if client is not None:
            client.reply(seq, reply.body)

    def forward(number: int, seq: int, body: bytes) -> None:
        task = asyncio.ensure_future(call(number, seq, body))
        calls.add(task)
        task.add_done_callback(calls.discard)

    Gate.clients, Gate.forward, Gate.flush = clients, staticmethod(forward), staticmethod(lambda: None)
    await serve(Gate)


def main() -> None:
    if sys.argv[1] == "worker":
        uvloop.run(worker())
    command = [sys.executable, "-m", "bench.unary_gateway", "worker"]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(int(sys.argv[1]))]
    try:
        uvloop.run(gateway([int(process.stdout.readline()) for process in workers if process.stdout]))
    finally:
        for process in workers:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
