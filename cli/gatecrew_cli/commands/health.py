"""`gatecrew health`: for whatever looks after processes, such as a container's health check."""

import click

from ..asking import ask_health, wait_for_health
from ..errors import Failed
from ..loop import run
from ..options import ADDRESS, Seconds
from ..ports import join
from ..probe import SERVING


@click.command("health")
@click.argument("address", metavar="HOST:PORT", type=ADDRESS)
@click.option("--wait", "wait_s", type=Seconds(0), metavar="SECONDS", help="For it to serve; else ask once.")
def command(address: tuple[str, int], wait_s: float | None) -> None:
    """Ask a worker or a gateway's service whether it serves (grpc.health.v1); exit code 1 if it does not."""
    where = join(*address)
    state = run(ask_health(where) if wait_s is None else wait_for_health(where, wait_s), "asyncio")
    if state != SERVING:
        raise Failed(f"{where}: {state}")
    print(state)
