"""`gatecrew run`: supervise worker programs of any language."""

import click

from ..child import check_program
from ..errors import UserError
from ..loop import run
from ..names import SERVICE_NAME, SERVICE_RULE
from ..options import ADDRESS, Seconds, logging_options, unresponsive_option


@click.command("run", context_settings={"allow_interspersed_args": False})
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- PROGRAM [ARGS]...")
@click.option("--service", required=True, help="The service that the program offers.")
@click.option("--replicas", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes to run.")
@click.option(
    "--listen",
    type=ADDRESS,
    default="127.0.0.1:0",
    show_default=True,
    help="HOST and PORT of the first; the others get the ports that follow. Port 0: any.",
)
@click.option("--advertise", metavar="HOST", help="Host that the registry is told, if others reach it by another one.")
@click.option(
    "--commands",
    default="*",
    show_default=True,
    help="Those that a program without Link serves, such as 1-20,35; one with Link says so itself.",
)
@click.option(
    "--stop-after",
    "stop_s",
    type=Seconds(0),
    default=15.0,
    show_default=True,
    metavar="SECONDS",
    help="To drain after SIGTERM; then it is killed.",
)
@unresponsive_option
@logging_options
def command(
    program: tuple[str, ...],
    service: str,
    replicas: int,
    listen: tuple[str, int],
    advertise: str | None,
    commands: str,
    stop_s: float,
    unresponsive_after_s: float,
) -> None:
    """Run a worker PROGRAM of any language, which needs no Consul code of its own.

    Each replica gets HOST, PORT and SERVICE in its environment. It is registered once its gRPC health says SERVING, and
    deregistered when it ends; then it starts again, after 100 ms that double up to 5 s. One that ends five times in a
    row within 10 s is left alone. One whose gRPC server does not answer a question for its health for
    --unresponsive-after seconds is killed and started again. SIGTERM, SIGHUP and Ctrl-C deregister, pass SIGTERM on,
    and wait until all have drained.

    \b
    gatecrew run --service tour --replicas 3 -- ./tour
    gatecrew run --service tour -- java -jar tour.jar
    """
    check_program(program[0])
    if not SERVICE_NAME.fullmatch(service):
        raise UserError(f"--service {service!r}: {SERVICE_RULE}")
    if listen[1] + replicas - 1 > 65535:
        raise UserError(f"--listen: there are no {replicas} ports from {listen[1]} on")
    from gatecrew_gateway.config import ConfigError, parse_commands

    try:
        parse_commands(commands)
    except ConfigError as error:
        raise UserError(f"--commands: {error}") from None
    from ..crew import run_replicas

    run(run_replicas(service, replicas, program, commands, listen, advertise, stop_s, unresponsive_after_s), "asyncio")
