"""`gatecrew conformance`: does a worker keep the contract?"""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

import click

from ..errors import Failed, UserError
from ..loop import run
from ..options import ADDRESS
from ..ports import join

if TYPE_CHECKING:
    from ..conformance.finding import Finding


@click.command("conformance", context_settings={"ignore_unknown_options": True})
@click.argument("target", nargs=-1, required=True, type=click.UNPROCESSED, metavar="HOST:PORT | -- PROGRAM [ARGS]...")
@click.option("--command", "number", type=click.IntRange(0, 0xFFFF), help="A command that the worker serves.")
@click.option("--pid", type=click.IntRange(1), help="The worker's process: checks freeze it, and end it at last.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON, when all are there.")
def command(target: tuple[str, ...], number: int | None, pid: int | None, as_json: bool) -> None:
    """Play the gateway against a worker in any language and say, check by check, whether it keeps the contract.

    The worker runs at HOST:PORT; or the kit starts PROGRAM with HOST, PORT and SERVICE in its environment, which the
    checks of drain and standstill need. It takes some 45 seconds. Checks that talk to the commands of the reference
    worker (101 to 115) are skipped with a worker that has none of them; one that measures time is made up to three
    times. Exit code 1 if a check fails.
    """
    address = _address(target)
    if pid is not None and address is None:
        raise UserError("--pid goes with HOST:PORT; a program that the kit starts has its process id anyway")
    if not run(_conformance(target, address, number, pid, as_json), "asyncio"):
        raise Failed("the worker does not keep the contract")


def _address(target: tuple[str, ...]) -> str | None:
    """None: the target is a program."""
    if len(target) > 1:
        return None
    try:
        return join(*ADDRESS.convert(target[0], None, None))
    except click.BadParameter:
        return None


async def _conformance(
    target: tuple[str, ...], address: str | None, number: int | None, pid: int | None, as_json: bool
) -> bool:
    from ..conformance.program import Program

    program: Program | None = None
    if address is None:
        program = await Program.start(target)  # before grpc is loaded, which does not survive a fork
        address = program.address
    elif pid is not None:
        program = Program(address, pid)

    from ..conformance import report
    from ..conformance.kit import Kit

    out = sys.stderr if as_json else sys.stdout

    def tell(finding: Finding) -> None:
        print(report.line(finding), file=out, flush=True)

    passed = False
    try:
        kit = Kit(address, program, number)
        try:
            if program is not None and program.printed is not None:
                print(f"started {shlex.join(target)}: waits until it serves on {address}", file=out, flush=True)
            await kit.find_out()
            print(report.subject(kit), file=out, flush=True)
            findings = await kit.run(tell)
        finally:
            await kit.aclose()
        passed = all(finding.outcome != "FAIL" for finding in findings)
    finally:
        if program is not None:
            await program.end(keep=not passed)
    print(report.as_json(kit, findings) if as_json else report.summary(findings))
    if program is not None and program.printed is not None and not passed:
        print(program.printed, file=out)
    return passed
