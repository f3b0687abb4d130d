"""`gatecrew gateway`: one gateway process."""

import json
import os

import click

from .. import grpc_engine
from ..loop import Choice, run
from ..options import ADDRESS, config_option, logging_options, loop_option


@click.command("gateway")
@click.option("--listen", type=ADDRESS, help="Where clients connect.  [default: 127.0.0.1:7000]")
@click.option("--advertise", metavar="HOST", help="Host by which workers and other gateways reach this one.")
@click.option("--handed-down", hidden=True, help="JSON from `gatecrew up`, in place of all settings.")
@config_option
@loop_option
@logging_options
def command(
    listen: tuple[str, int] | None,
    advertise: str | None,
    handed_down: str | None,
    config_file: str | None,
    loop: Choice,
) -> None:
    """Hold clients' connections and share their packets among the workers that the registry names.

    The registry is a Consul agent, or `gatecrew registry`: CONSUL_HTTP_ADDR, 127.0.0.1:8500 without it. SIGTERM and
    Ctrl-C drain: clients are told to reconnect elsewhere, and what is open is finished.
    """
    grpc_engine.choose()
    from ..gateway_process import read_handed_down, serve

    if handed_down:
        config, workers = read_handed_down(json.loads(handed_down))
    else:
        from ..settings import load, warn_of_environment

        flags: dict[str, object] = {}
        if listen:
            flags["listener"] = {0: {"host": listen[0], "port": listen[1]}}
        if advertise:
            flags["gateway"] = {"advertise_host": advertise}
        settings = load(config_file, flags).settings
        warn_of_environment()
        [config], workers = settings.gateways(), 0
        os.environ.update(settings.registry.environment())
    run(serve(config, workers), loop)
