"""A worker whose handler takes its time in one of the ways in which handlers do; it answers with the worker's name."""

import asyncio
import os
import time

from gatecrew_worker import Request, Worker

KIND = os.environ["OVERLOAD_KIND"]  # thread, async, one_at_a_time, blocking, semaphore
NAME = os.environ["SURVIVAL_WORKER"]
WORK_S = float(os.environ["OVERLOAD_WORK_S"])
if os.environ.get("OVERLOAD_SLOW") == NAME:
    WORK_S *= 10
SICK = os.environ.get("OVERLOAD_SICK") == NAME  # it fails everything, or answers nothing
AT_ONCE = 4  # in the semaphore's way

worker = Worker("overload", threads=16, one_at_a_time=KIND == "one_at_a_time")
gate = asyncio.Semaphore(AT_ONCE)


async def in_async(request: Request) -> bytes:
    await asyncio.sleep(WORK_S)
    return NAME.encode()


async def behind_a_semaphore(request: Request) -> bytes:
    async with gate:
        await asyncio.sleep(WORK_S)
    return NAME.encode()


async def blocking_the_loop(request: Request) -> bytes:
    time.sleep(WORK_S)  # noqa: ASYNC251  # as careless handlers do
    return NAME.encode()


def in_a_thread(request: Request) -> bytes:
    time.sleep(WORK_S)
    return NAME.encode()


HANDLERS = {
    "thread": in_a_thread,
    "one_at_a_time": in_a_thread,
    "async": in_async,
    "blocking": blocking_the_loop,
    "semaphore": behind_a_semaphore,
}
if KIND in HANDLERS:
    worker.on(1)(HANDLERS[KIND])

if KIND in ("fails", "silent"):

    @worker.on(1)
    async def sick(request: Request) -> bytes:
        if SICK and KIND == "fails":
            raise RuntimeError("sick")
        if SICK:
            await asyncio.Future()
        return NAME.encode()


if KIND in ("async", "semaphore", "blocking"):

    @worker.on(2)
    async def fast(request: Request) -> bytes:
        return NAME.encode()

    @worker.on(3)
    async def wait(request: Request) -> bytes:
        await asyncio.sleep(float(request.body))
        return NAME.encode()
