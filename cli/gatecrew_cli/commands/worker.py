"""`gatecrew worker`: one worker process."""

import os

import click

from .. import grpc_engine
from ..loop import Choice, run
from ..options import ADDRESS, logging_options, loop_option


@click.command("worker")
@click.argument("target", metavar="MODULE:OBJECT")
@click.option(
    "--listen",
    type=ADDRESS,
    default=lambda: f"{os.environ.get('HOST') or '127.0.0.1'}:{os.environ.get('PORT') or 0}",
    show_default="$HOST:$PORT, else any port of 127.0.0.1",
    help="Where gateways reach it; port 0: any.",
)
@click.option("--advertise", metavar="HOST", help="Host that the registry is told, if others reach it by another one.")
@click.option("--no-register", is_flag=True, help="Serve without telling the registry.")
@loop_option
@logging_options
def command(target: str, listen: tuple[str, int], advertise: str | None, no_register: bool, loop: Choice) -> None:
    """Serve MODULE:OBJECT, such as chat:worker for `worker` in chat.py of this directory.

    The registry is a Consul agent, or `gatecrew registry`: CONSUL_HTTP_ADDR, 127.0.0.1:8500 without it. SIGTERM and
    Ctrl-C drain: nothing new is taken, and what is open is answered.
    """
    grpc_engine.choose()
    from ..target import load_worker
    from ..worker_process import serve_worker

    run(serve_worker(load_worker(target), listen, advertise, register=not no_register), loop)
