"""The worker of the survival tests, which writes down what it executes, with a command more."""

from survival.worker import worker

from gatecrew_worker import Request
from hosts.commands import PUSH_LOBBY, PUSHED_LOBBY


@worker.on(PUSH_LOBBY)
async def push_lobby(request: Request) -> bytes:
    """Whichever gateways the members are at."""
    await worker.push_group("lobby", request.body, PUSHED_LOBBY)
    return b""
