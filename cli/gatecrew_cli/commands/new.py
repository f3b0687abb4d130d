"""`gatecrew new`: something to begin with."""

from pathlib import Path

import click

from ..errors import UserError
from ..names import SERVICE_NAME, SERVICE_RULE
from ..scaffold import LANGUAGES, make_worker

TAKEN = ("handle", "gatecrew")  # other parts of a worker's folder are called so


@click.group("new")
def command() -> None:
    """Write something to begin with."""


@command.command("worker")
@click.argument("name")
@click.option("--lang", "language", type=click.Choice(LANGUAGES), default="python", show_default=True)
@click.option(
    "--directory", type=click.Path(path_type=Path), metavar="DIR", help="The folder to write; it is NAME without this."
)
def worker(name: str, language: str, directory: Path | None) -> None:
    """Write a worker of service NAME that keeps the whole contract, for you to change.

    It is the reference worker of the language, which passes `gatecrew conformance`: its handlers are in one file.
    """
    if not SERVICE_NAME.fullmatch(name):
        raise UserError(f"{name!r}: {SERVICE_RULE}")
    if name in TAKEN or name[0].isdigit():
        raise UserError(
            f"{name!r}: programs and packages get this name; begin with a letter, and not {' or '.join(TAKEN)}"
        )
    folder = directory or Path(name)
    make_worker(name, language, folder)
    print(f"{folder} is a worker of service {name}; read {folder}/README.md. Build it, check it, run it:")
    print(f"    {folder}/build.sh")
    print(f"    gatecrew conformance -- {folder}/build/{name}")
    print(f"    gatecrew run --service {name} --replicas 3 -- {folder}/build/{name}")
