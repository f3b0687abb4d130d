"""`gatecrew bench`: load on a gateway of yours."""

import json

import click

from ..errors import Failed
from ..load import Load, LoadResult, put_on
from ..loop import run
from ..options import ADDRESS, Seconds
from ..ports import join


@click.command("bench")
@click.argument("gateway", metavar="HOST:PORT", type=ADDRESS)
@click.option("--clients", type=click.IntRange(1, 20_000), default=50, show_default=True)
@click.option(
    "--open", "open_", type=click.IntRange(1, 4096), default=1, show_default=True, help="Requests per client."
)
@click.option("--seconds", type=Seconds(0.1, 3600), default=5.0, show_default=True)
@click.option("--command", "number", type=click.IntRange(0, 0xFFFF), default=1, show_default=True)
@click.option("--body-size", type=click.IntRange(0, 1 << 20), default=64, show_default=True, metavar="BYTES")
@click.option("--json", "as_json", is_flag=True)
def command(
    gateway: tuple[str, int],
    clients: int,
    open_: int,
    seconds: float,
    number: int,
    body_size: int,
    as_json: bool,
) -> None:
    """Keep CLIENTS × OPEN requests open at a gateway's listener, and print rate and latencies.

    The handler of that command really runs, as often as it can. Clients that a gateway tells to go away come back, and
    are counted. Exit code 1 if any request had an error.
    """
    load = Load(clients, open_, seconds, number, body_size)
    try:
        result = run(put_on(load, *gateway))
    except OSError as error:
        raise Failed(f"gateway {join(*gateway)}: {error.strerror or error}") from None
    figures = _figures(result)
    print(json.dumps(figures) if as_json else _lines(load, figures))
    if result.errors or not result.latencies:
        errors = ", ".join(f"{count} × {name}" for name, count in result.errors.most_common()) or "no answer at all"
        raise Failed(f"bench: {errors}")


def _figures(result: LoadResult) -> dict[str, object]:
    def ms(percent: float) -> float | None:
        return round(result.percentile(percent) * 1000, 3) if result.latencies else None

    return {
        "requests": len(result.latencies),
        "seconds": round(result.seconds, 3),
        "per_second": round(result.per_second),
        "p50_ms": ms(50),
        "p99_ms": ms(99),
        "max_ms": ms(100),
        "errors": dict(result.errors),
        "goaways": result.goaways,
        "reconnects": result.reconnects,
    }


def _lines(load: Load, figures: dict[str, object]) -> str:
    lines = (
        f"{load.clients} clients × {load.open} open, {load.body_size} bytes, {figures['seconds']} s\n"
        f"{figures['per_second']} requests/s\n"
        f"p50 {figures['p50_ms']} ms   p99 {figures['p99_ms']} ms   max {figures['max_ms']} ms"
    )
    if figures["goaways"]:
        lines += f"\n{figures['goaways']} × goaway, {figures['reconnects']} × connected again"
    return lines
