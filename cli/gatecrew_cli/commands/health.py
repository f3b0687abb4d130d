"""`gatecrew health`: for whatever looks after processes, such as a container's health check."""

import click

from ..asking import ask_health
from ..errors import Failed
from ..loop import run
from ..options import ADDRESS, join


@click.command("health")
@click.argument("address", metavar="HOST:PORT", type=ADDRESS)
def command(address: tuple[str, int]) -> None:
    """Ask a worker or a gateway's service whether it serves (grpc.health.v1); exit code 1 if it does not."""
    where = join(*address)
    state = run(ask_health(where), "asyncio")
    print(state)
    if state != "SERVING":
        raise Failed(f"{where} is {state}")
