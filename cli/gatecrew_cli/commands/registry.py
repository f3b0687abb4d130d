"""`gatecrew registry`: the embedded registry."""

import os

import click

from .. import ready
from ..errors import UserError
from ..loop import run, stop_requested
from ..options import ADDRESS, logging_options
from ..ports import join


@click.command("registry")
@click.option("--listen", type=ADDRESS, default="127.0.0.1:8500", show_default=True, help="Where its HTTP API listens.")
@logging_options
def command(listen: tuple[str, int]) -> None:
    """Run the embedded registry: the part of Consul's HTTP API that Gatecrew and Consul libraries need.

    For one machine. It keeps nothing on disk; who registers with it does so again after a restart.
    """
    run(_serve(*listen))


async def _serve(host: str, port: int) -> None:
    from gatecrew_registry.embedded import EmbeddedRegistry

    stop = stop_requested()
    registry = EmbeddedRegistry(host, port)
    try:
        await registry.start()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UserError(f"registry: {join(host, port)}: {reason}; choose another with --listen") from None
    try:
        ready.announce("registry", address=registry.address)
        await stop.wait()
    finally:
        await registry.aclose()
