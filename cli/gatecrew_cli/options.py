"""Options and parameter types that several commands share."""

import math
import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from . import log
from .ports import parse_address

F = TypeVar("F", bound=Callable[..., Any])


class _Address(click.ParamType[tuple[str, int]]):
    name = "host:port"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        address = parse_address(str(value))
        if address is None:
            self.fail(f"{str(value)!r} is not HOST:PORT, such as 127.0.0.1:7000", param, ctx)
        return address


class Seconds(click.FloatRange):
    """A length of time. Not NaN, which is in no range and out of none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return seconds


ADDRESS = _Address()


def _set_up_log(ctx: click.Context, param: click.Parameter, value: str | bool | None) -> None:
    """Called for each of the three, before the other options: what is wrong with those is told in this form, too."""
    told = ctx.meta.setdefault("gatecrew.log", {})
    told[param.name] = value
    level = told.get("log_level") or "info"
    format = told.get("log_format") or ("json" if told.get("log_json") else "text")
    log.set_up(level, format, ctx.info_name or "gatecrew")
    if len(told) == 3:  # what this process starts logs in the same way
        os.environ.update(GATECREW_LOG_LEVEL=level, GATECREW_LOG_FORMAT=format)


def logging_options(command: F) -> F:
    """--log-level and --log-format; the log is set up before the command runs."""
    level = click.option(
        "--log-level",
        type=click.Choice(log.LEVELS),
        default="info",
        show_default=True,
        is_eager=True,
        envvar="GATECREW_LOG_LEVEL",
        show_envvar=True,
        expose_value=False,
        callback=_set_up_log,
        help="Least severe level that is logged, to stderr.",
    )
    format = click.option(
        "--log-format",
        type=click.Choice(log.FORMATS),
        show_default="text",
        is_eager=True,
        envvar="GATECREW_LOG_FORMAT",
        show_envvar=True,
        expose_value=False,
        callback=_set_up_log,
        help="text for people; json: every line of every process is one object.",
    )
    former = click.option(
        "--log-json",
        is_flag=True,
        is_eager=True,
        hidden=True,  # the former name of --log-format json
        envvar="GATECREW_LOG_JSON",
        expose_value=False,
        callback=_set_up_log,
    )
    return former(format(level(command)))


loop_option = click.option(
    "--loop",
    type=click.Choice(["auto", "asyncio", "uvloop"]),
    default="auto",
    show_default=True,
    envvar="GATECREW_LOOP",
    show_envvar=True,
    help="Event loop; auto is uvloop where there is one.",
)
config_option = click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(),
    help="Settings in TOML. Flags and environment go before it.",
)


def _not_too_soon(ctx: click.Context, param: click.Parameter, value: float) -> float:
    if 0 < value < 1:  # twice a heartbeat
        raise click.BadParameter("give 1 or more, or 0 for never", ctx, param)
    return value


unresponsive_option = click.option(
    "--unresponsive-after",
    "unresponsive_after_s",
    type=Seconds(0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    envvar="GATECREW_UNRESPONSIVE_AFTER",
    show_envvar=True,
    callback=_not_too_soon,
    help="Kill and start again what is silent for so long; 0: never.",
)
