"""`gatecrew up`: the whole on one machine, each part in a process of its own."""

import click

from ..cluster import Cluster
from ..errors import UserError
from ..loop import run
from ..options import ADDRESS, config_option, logging_options, unresponsive_option
from ..settings import load, warn_of_environment


@click.command("up")
@click.argument("targets", metavar="[MODULE:OBJECT]...", nargs=-1)
@click.option("--workers", type=click.IntRange(1, 256), help="Workers of each MODULE:OBJECT; 1 without this.")
@click.option(
    "--gateways", type=click.IntRange(1, 64), default=1, show_default=True, help="They listen on rising ports."
)
@click.option("--listen", type=ADDRESS, help="Where clients connect to the (first) gateway.  [default: 127.0.0.1:7000]")
@click.option(
    "--client",
    metavar="COMMAND",
    default="gatecrew call 1 hello --gateway {}",
    show_default=True,
    help="Command to name as a way to talk to it, once it is ready; {} is where clients connect.",
)
@unresponsive_option
@config_option
@logging_options
def command(
    targets: tuple[str, ...],
    workers: int | None,
    gateways: int,
    listen: tuple[str, int] | None,
    client: str,
    unresponsive_after_s: float,
    config_file: str | None,
) -> None:
    """Start registry, gateways and workers, and keep them alive.

    MODULE:OBJECT names a Worker object, found from the current directory: `gatecrew up chat:worker` runs `worker` of
    chat.py. Ctrl-C stops everything in order; a second Ctrl-C at once. With CONSUL_HTTP_ADDR set, that Consul is used
    and no registry is started.

    A worker or registry whose event loop stands still for --unresponsive-after seconds is asked for its stacks, killed
    and started again; a gateway after 4 s already. Use 0 when you debug a worker.
    """
    flags: dict[str, object] = {}
    if listen:
        flags["listener"] = {0: {"host": listen[0], "port": listen[1]}}
    if targets:
        flags["worker"] = [{"target": target, "count": workers or 1} for target in targets]
    elif workers:
        raise UserError("--workers: needs to know of what; name a MODULE:OBJECT, or write `count` into the file")
    settings = load(config_file, flags).settings
    warn_of_environment()
    if not settings.worker:
        raise UserError("up: no workers; name a Worker object, such as chat:worker for `worker` in chat.py")
    run(Cluster(settings, gateways, client, unresponsive_after_s).run(), "asyncio")
