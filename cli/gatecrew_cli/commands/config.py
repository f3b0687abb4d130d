"""`gatecrew config check` and `gatecrew config show`."""

import json
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path as File
from typing import Any

import click
from pydantic import SecretStr

from ..errors import UserError
from ..layers import Path
from ..settings import SECTIONS, Loaded, load, warn_of_environment

USUAL_FILE = "gatecrew.toml"


@click.group("config")
def command() -> None:
    """Check a settings file, or show what is in force."""


@command.command()
@click.argument("file", type=click.Path(), required=False)
@click.option(
    "--import", "import_targets", is_flag=True, help="Run the workers' modules too; else they are looked for."
)
def check(file: str | None, import_targets: bool) -> None:
    """Check FILE together with the environment, or without FILE the environment alone, as `gatecrew up` would run.

    Exit code 2 and a line for each finding if it is bad.
    """
    from .. import checking

    _say_what_is_not_read(file)
    loaded = load(file)
    found = list(checking.findings(loaded, import_targets))
    if found:
        raise UserError("\n".join(found))
    settings = loaded.settings
    counts = {
        "listener": len(settings.listener),
        "route": len(settings.route),
        "worker": sum(worker.count for worker in settings.worker),
    }
    good = ", ".join(f"{count} {what if count == 1 else what + 's'}" for what, count in counts.items())
    print(f"{file or 'environment and defaults'}: good: {good}")


@command.command()
@click.argument("file", type=click.Path(), required=False)
@click.option("--json", "as_json", is_flag=True, help="As JSON, without where it comes from.")
def show(file: str | None, as_json: bool) -> None:
    """Show the settings in force with FILE, the environment and the defaults, and where each comes from."""
    _say_what_is_not_read(file)
    loaded = load(file)
    warn_of_environment()
    if as_json:
        print(json.dumps({section: _plain(getattr(loaded.settings, section)) for section in SECTIONS[""]}, indent=2))
    else:
        print("\n".join(_write_toml(loaded)))


def _write_toml(loaded: Loaded) -> Iterator[str]:
    for section in SECTIONS[""]:
        value = getattr(loaded.settings, section)
        if isinstance(value, tuple):
            for number, element in enumerate(value):
                yield f"[[{section}]]"
                yield from _write_table(loaded, (section, number), element)
        else:
            yield f"[{section}]"
            yield from _write_table(loaded, (section,), value)


def _write_table(loaded: Loaded, path: Path, table: Any) -> Iterator[str]:
    for key, value in _plain(table).items():
        yield f"{key} = {json.dumps(value)}  # {loaded.layers.origin((*path, key))}"
    yield ""


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(element) for element in value]
    if isinstance(value, SecretStr):
        return str(value)  # stars, or nothing if there is none
    if hasattr(value, "__dataclass_fields__"):
        names = (field.name for field in fields(value))
        return {name: _plain(getattr(value, name)) for name in names if name not in ("listeners", "routes")}
    return value


def _say_what_is_not_read(file: str | None) -> None:
    """As `up` and `gateway` do not read it either, unless they are told."""
    if file is None and File(USUAL_FILE).exists():
        print(f"gatecrew: {USUAL_FILE} is here and was not read: it is read where it is named", file=sys.stderr)
