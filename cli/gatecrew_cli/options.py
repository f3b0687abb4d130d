"""Options and parameter types that several commands share."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from . import log

F = TypeVar("F", bound=Callable[..., Any])


class _Address(click.ParamType[tuple[str, int]]):
    name = "host:port"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        text = str(value)
        host, _, port = text.rpartition(":")
        if not host or not port.isascii() or not port.isdecimal() or int(port) > 65535:
            self.fail(f"{text!r} is not HOST:PORT, such as 127.0.0.1:7000", param, ctx)
        return host.strip("[]"), int(port)


ADDRESS = _Address()


def join(host: str, port: int) -> str:
    """HOST:PORT as people write it, with an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _keep_json(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta["gatecrew.log_json"] = value


def _set_up_log(ctx: click.Context, param: click.Parameter, value: str) -> None:
    log.set_up(value, as_json=ctx.meta["gatecrew.log_json"])


def logging_options(command: F) -> F:
    """--log-level and --log-json; the log is set up before the command runs."""
    level = click.option(
        "--log-level",
        type=click.Choice(log.LEVELS),
        default="info",
        show_default=True,
        envvar="GATECREW_LOG_LEVEL",
        expose_value=False,
        callback=_set_up_log,
        help="Least severe level that is logged, to stderr.",
    )
    as_json = click.option(
        "--log-json",
        is_flag=True,
        is_eager=True,  # before the level, whose callback sets up the log
        envvar="GATECREW_LOG_JSON",
        expose_value=False,
        callback=_keep_json,
        help="Log a JSON object a line.",
    )
    return as_json(level(command))


loop_option = click.option(
    "--loop",
    type=click.Choice(["auto", "asyncio", "uvloop"]),
    default="auto",
    show_default=True,
    envvar="GATECREW_LOOP",
    help="Event loop; auto is uvloop where there is one.",
)
config_option = click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(),
    help="Settings in TOML. Flags and environment go before it.",
)
