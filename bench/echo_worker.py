"""Gatecrew's echo worker, as a user would write it."""

from gatecrew_worker import Request, Worker

from .wire import COMMAND

worker = Worker("echo")


@worker.on(COMMAND)
async def echo(request: Request) -> bytes:
    return request.body
