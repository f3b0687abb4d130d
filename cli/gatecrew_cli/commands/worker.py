"""`gatecrew worker`: one worker process."""

import os

import click

from .. import grpc_engine
from ..errors import UserError
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
@click.option(
    "--tls-cert",
    metavar="FILE",
    envvar="GATECREW_TLS_CERT",
    show_envvar=True,
    help="Mutual TLS: the worker's certificate.",
)
@click.option("--tls-key", metavar="FILE", envvar="GATECREW_TLS_KEY", show_envvar=True, help="Its key.")
@click.option(
    "--tls-ca", metavar="FILE", envvar="GATECREW_TLS_CA", show_envvar=True, help="Who signs the gateways' certificates."
)
@loop_option
@logging_options
def command(
    target: str,
    listen: tuple[str, int],
    advertise: str | None,
    no_register: bool,
    tls_cert: str | None,
    tls_key: str | None,
    tls_ca: str | None,
    loop: Choice,
) -> None:
    """Serve MODULE:OBJECT, such as chat:worker for `worker` in chat.py of this directory.

    The registry is a Consul agent, or `gatecrew registry`: CONSUL_HTTP_ADDR, 127.0.0.1:8500 without it. SIGTERM and
    Ctrl-C drain: nothing new is taken, and what is open is answered.
    """
    grpc_engine.choose()
    from ..target import load_worker
    from ..worker_process import serve_worker

    tls = None
    if tls_cert and tls_key and tls_ca:
        from gatecrew_worker import TLS

        tls = TLS(cert=tls_cert, key=tls_key, ca=tls_ca)
    elif tls_cert or tls_key or tls_ca:
        raise UserError("--tls-cert, --tls-key and --tls-ca go together")
    run(serve_worker(load_worker(target), listen, advertise, not no_register, tls), loop)
