"""Gatecrew's echo worker, as a user would write it."""

from gatecrew_worker import Request, Worker

worker = Worker("echo")


@worker.on(1)
async def echo(request: Request) -> bytes:
    return request.body
