"""`gatecrew dead-letters`: the packets that took workers with them."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from gatecrew.v1 import gateway_pb2, worker_pb2
from gatecrew_gateway.codec import Status

from .. import dead_letters
from ..dead_letters import Found
from ..errors import Failed, UserError
from ..loop import run
from ..options import ADDRESS
from ..ports import join
from ..terminal import hex_dump, visible

_HEADS = ["id", "quarantined", "service", "command", "kind", "bytes", "of", "refused", "workers lost"]
MOST_SHOWN = 200  # characters of a reply
AGAIN = "quarantined again"  # how the outcome of one that took another worker with it begins

_service_option = click.option("--gateway-service", type=ADDRESS, help="Ask this one gateway, by its service address.")
_json_option = click.option("--json", "as_json", is_flag=True)


@click.group("dead-letters")
def command() -> None:
    """Show the packets that two workers died of, or fell silent with, and let them go once more.

    The gateways are those of the registry: CONSUL_HTTP_ADDR, 127.0.0.1:8500 without it.
    """


@command.command("list")
@_service_option
@click.option("--service", default="", help="Only those of this service.")
@_json_option
def list_letters(gateway_service: tuple[str, int] | None, service: str, as_json: bool) -> None:
    """List them, the newest first. Exit code 1 if a gateway is silent."""
    found = run(_find(gateway_service, service=service), "asyncio")
    if as_json:
        print(json.dumps([_as_dict(letter) for _, letter in found.letters], indent=2))
    else:
        for line in _table([letter for _, letter in found.letters]):
            print(line)
        if not found.letters and not found.silent:
            print("no dead letters")
    _complain(found)


@command.command()
@click.argument("id")
@_service_option
@click.option(
    "--output", metavar="FILE", help="Write the body to FILE as it is, instead of showing it; `-`: to stdout."
)
@_json_option
def show(id: str, gateway_service: tuple[str, int] | None, output: str | None, as_json: bool) -> None:
    """Show one with its body, as a hex dump."""
    found = run(_find(gateway_service, ids=[id], with_bodies=True), "asyncio")
    if not found.letters:
        _complain(found)
        raise Failed(f"no dead letter {id}; `gatecrew dead-letters list` shows those that there are")
    letter = found.letters[0][1]
    if output == "-":
        sys.stdout.buffer.write(letter.body)
        sys.stdout.buffer.flush()
        return
    if output is not None:
        try:
            Path(output).write_bytes(letter.body)
        except OSError as error:
            raise UserError(f"--output {output}: {error.strerror or error}") from None
    if as_json:
        print(json.dumps({**_as_dict(letter), "body_hex": letter.body.hex()}, indent=2))
        return
    for line in _details(letter):
        print(visible(line))
    if output is None:
        for line in hex_dump(letter.body):
            print(line)
    else:
        print(visible(f"body: {letter.size} bytes, written to {output}"))


@command.command()
@click.argument("ids", metavar="ID...", nargs=-1)
@_service_option
@click.option("--all", "all_of_them", is_flag=True, help="All that there are, the oldest first.")
@click.option("--service", default="", help="With --all: only those of this service.")
@click.option("--keep-going", is_flag=True, help="Go on when one has taken another worker with it.")
@_json_option
def replay(
    ids: tuple[str, ...],
    gateway_service: tuple[str, int] | None,
    all_of_them: bool,
    service: str,
    keep_going: bool,
    as_json: bool,
) -> None:
    """Let dead letters go to a worker once more, one after the other, and print the answers.

    One that a worker answers is forgotten, and its like is served again. One that takes another worker with it is
    quarantined again, and nothing more is replayed. Exit code 1 if any has not been answered with OK.
    """
    if all_of_them == bool(ids):
        raise UserError("dead-letters replay: name dead letters, or say --all")
    if service and ids:
        raise UserError("dead-letters replay: --service goes with --all")
    run(_replay(list(dict.fromkeys(ids)), gateway_service, service, keep_going, as_json), "asyncio")


async def _replay(
    ids: list[str], gateway_service: tuple[str, int] | None, service: str, keep_going: bool, as_json: bool
) -> None:
    found = await _find(gateway_service, service=service, ids=ids)
    where = {letter.id: address for address, letter in reversed(found.letters)}
    missing = [id for id in ids if id not in where]
    if missing:
        _complain(found)
        raise Failed("\n".join(f"no dead letter {id}; nothing was replayed" for id in missing))
    if not ids:
        packets = (worker_pb2.KIND_REQUEST, worker_pb2.KIND_NOTIFY)
        ids = [letter.id for _, letter in reversed(found.letters) if letter.kind in packets]
    well = 0
    outcomes = []
    for number, id in enumerate(ids, 1):
        outcome = await dead_letters.replay(where[id], id)
        if outcome is None:
            outcome = gateway_pb2.ReplayedDeadLetter(id=id, status=Status.NOT_FOUND, message="it has gone meanwhile")
        outcomes.append(outcome)
        well += not outcome.status
        before = f"[{number} of {len(ids)}] " if len(ids) > 1 else ""
        # With --json the lines say how far it is, on standard error; the outcomes come in one piece at the end.
        print(visible(before + _said(outcome)), file=sys.stderr if as_json else sys.stdout, flush=True)
        if outcome.message.startswith(AGAIN) and not keep_going:
            break
    if as_json:
        print(json.dumps([_outcome_as_dict(each) for each in outcomes], indent=2))
    elif not ids:
        print("no dead letters")
    left = len(ids) - len(outcomes)
    if left:
        raise Failed(f"stopped, {left} not replayed: it would take more workers; --keep-going does all the same")
    _complain(found)
    if well < len(ids):
        raise Failed(f"{len(ids) - well} of {len(ids)} not answered with OK")


async def _find(
    gateway_service: tuple[str, int] | None, service: str = "", ids: list[str] | None = None, with_bodies: bool = False
) -> Found:
    addresses = await dead_letters.service_addresses(join(*gateway_service) if gateway_service else None)
    return await dead_letters.find(addresses, service, ids or (), with_bodies)


def _complain(found: Found) -> None:
    if found.silent:
        raise Failed("\n".join(found.silent.values()))


def _kind(letter: gateway_pb2.DeadLetter) -> str:
    return worker_pb2.Kind.Name(letter.kind).removeprefix("KIND_").lower()


def _table(letters: list[gateway_pb2.DeadLetter]) -> Iterator[str]:
    """A line for each under the heads of its columns; nothing for none."""
    if not letters:
        return
    rows = [_HEADS, *([visible(cell) for cell in _cells(letter)] for letter in letters)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _cells(letter: gateway_pb2.DeadLetter) -> list[str]:
    return [
        letter.id,
        f"{letter.age_ms / 1000:.0f} s ago",
        letter.service,
        str(letter.command),
        _kind(letter),
        str(letter.size),
        letter.user or letter.peer,
        f"{letter.refused} since",
        ", ".join(letter.workers),
    ]


def _details(letter: gateway_pb2.DeadLetter) -> Iterator[str]:
    yield f"dead letter {letter.id}, {letter.age_ms / 1000:.0f} s ago, kept by {letter.gateway_id}"
    yield f"service {letter.service}, command {letter.command}, {_kind(letter)}, {letter.size} bytes"
    yield f"of session {letter.session:x}, user {letter.user!r}, {letter.peer}"
    yield f"workers lost with it: {', '.join(letter.workers)}"
    yield f"refused since, with the same command and body: {letter.refused}"


def _as_dict(letter: gateway_pb2.DeadLetter) -> dict[str, object]:
    return {
        "id": letter.id,
        "gateway_id": letter.gateway_id,
        "service": letter.service,
        "command": letter.command,
        "kind": _kind(letter),
        "session": f"{letter.session:x}",
        "user": letter.user,
        "peer": letter.peer,
        "size": letter.size,
        "age_ms": letter.age_ms,
        "refused": letter.refused,
        "workers": list(letter.workers),
    }


def _status(number: int) -> str:
    try:
        return Status(number).name
    except ValueError:
        return str(number)


def _said(outcome: gateway_pb2.ReplayedDeadLetter) -> str:
    if outcome.status:
        return f"{outcome.id}: {_status(outcome.status)}: {outcome.message}"
    text = outcome.body[: MOST_SHOWN + 1].decode(errors="backslashreplace")
    more = f"… ({len(outcome.body)} bytes)" if len(text) > MOST_SHOWN else ""
    return f"{outcome.id}: OK: {text[:MOST_SHOWN]}{more}"


def _outcome_as_dict(outcome: gateway_pb2.ReplayedDeadLetter) -> dict[str, object]:
    return {
        "id": outcome.id,
        "status": outcome.status,
        "status_name": _status(outcome.status),
        "message": outcome.message,
        "body_hex": outcome.body.hex(),
    }
