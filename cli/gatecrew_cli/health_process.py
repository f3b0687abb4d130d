"""The process that health_watch.py starts: asks programs for their health, and says who does not answer.

Any answer is one, NOT_SERVING too, and that there is no health service; who does not listen any more is leaving, not
silent. A question is left open until its answer comes: slow is not silent either.
"""

import asyncio
import sys

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from .asking import CHANNEL_OPTIONS
from .silence import TICK_S, Silence

ASK_EVERY_S = 1.0  # at most; more often where silence is too long soon
CONNECT_S = 1.0
NO_ANSWER = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class _Watched:
    def __init__(self, address: str, limit_s: float) -> None:
        self.address = address
        self.silence = Silence(limit_s)
        self.task = asyncio.create_task(self._ask(), name=f"health {address}")

    async def _ask(self) -> None:
        async with grpc.aio.insecure_channel(self.address, options=CHANNEL_OPTIONS) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while True:
                try:
                    await stub.Check(health_pb2.HealthCheckRequest(), timeout=2 * self.silence.limit_s)
                    self.silence.heard()
                except grpc.aio.AioRpcError as error:
                    if error.code() not in NO_ANSWER or await _nobody_listens(self.address):
                        self.silence.heard()
                await asyncio.sleep(min(ASK_EVERY_S, self.silence.limit_s / 4))


async def _nobody_listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except ConnectionRefusedError:
        return True
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return False


async def watch() -> None:
    """Until standard input ends."""
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    watched: dict[str, _Watched] = {}
    ticking = asyncio.create_task(_tick(watched), name="tick")
    try:
        async for line in lines:
            address, _, limit_s = line.decode()[1:].strip().partition(" ")
            former = watched.pop(address, None)
            if former is not None:
                former.task.cancel()
                await asyncio.wait([former.task])
            if line.startswith(b"+"):
                watched[address] = _Watched(address, float(limit_s))
    finally:
        tasks = [ticking, *(each.task for each in watched.values())]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _tick(watched: dict[str, _Watched]) -> None:
    loop = asyncio.get_running_loop()
    ticked_at = loop.time()
    while True:
        await asyncio.sleep(TICK_S)
        now = loop.time()
        for each in watched.values():
            if each.silence.tick(now - ticked_at):
                print(f"{each.address} {each.silence.length_s}", flush=True)
                each.silence.heard()  # told; told again after as long
        ticked_at = now


def main() -> None:
    asyncio.run(watch())
