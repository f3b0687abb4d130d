"""The worker of the survival tests, which writes down what it executes, with two commands more."""

import asyncio

from survival.commands import AT_MOST_ONCE, STRICT
from survival.worker import begin, finish, worker

from gatecrew_worker import Request
from hosts.commands import LONG, LONG_S, PUSH_LOBBY, PUSHED_LOBBY


@worker.on(*(base + LONG for base in (0, AT_MOST_ONCE, STRICT)))
async def long(request: Request) -> bytes:
    session, seq, _, nonce = begin(request)
    await asyncio.sleep(LONG_S)
    return finish(request, session, seq, nonce)


@worker.on(PUSH_LOBBY)
async def push_lobby(request: Request) -> bytes:
    """Whichever gateways the members are at."""
    await worker.push_group("lobby", request.body, PUSHED_LOBBY)
    return b""
