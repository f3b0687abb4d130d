"""Workers whose handler takes 100 ms, in three ways; they answer with their process id."""

import asyncio
import os
import time

from gatecrew_worker import Request, Worker

from .wire import COMMAND

WORK_S = 0.1

threads = Worker("slow")
asynchronous = Worker("slow")
one_at_a_time = Worker("slow", one_at_a_time=True)


@threads.on(COMMAND)
@one_at_a_time.on(COMMAND)
def work(request: Request) -> bytes:
    time.sleep(WORK_S)
    return str(os.getpid()).encode()


@asynchronous.on(COMMAND)
async def wait(request: Request) -> bytes:
    await asyncio.sleep(WORK_S)
    return str(os.getpid()).encode()
