"""One child over its lives, with small programs in place of gateways and workers."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gatecrew_cli.console import Console
from gatecrew_cli.errors import UserError
from gatecrew_cli.life import Backoff
from gatecrew_cli.supervisor import Child, Facts

READY = 'import os; print("gatecrew ready: it address=1.2.3.4:5 pid=%d" % os.getpid(), flush=True);'
SLEEP = "import signal; signal.pause()"

StartChild = Callable[..., Child]


@pytest.fixture
async def start_child() -> AsyncIterator[StartChild]:
    children: list[Child] = []

    def start(*programs: str, seen: list[Facts] | None = None) -> Child:
        """Each life runs the next program; the last one again and again."""
        left = list(programs)

        def command(facts: Facts) -> list[str]:
            if seen is not None:
                seen.append(facts)
            return [sys.executable, "-c", left.pop(0) if len(left) > 1 else left[0]]

        children.append(Child("it", command, dict(os.environ), Console(["it"])))
        return children[-1]

    yield start
    for child in children:
        await child.stop(5)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_child_that_dies_starts_again_where_it_was(
    start_child: StartChild, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[Facts] = []
    child = start_child(READY + SLEEP, seen=seen)
    facts = await child.started
    os.kill(int(facts["pid"]), signal.SIGKILL)
    await until(lambda: len(seen) == 2)
    assert seen == [{}, facts]
    assert facts["address"] == "1.2.3.4:5"
    assert "it | ended by SIGKILL; starts again in 0.1 s" in capfd.readouterr().err


async def test_the_pauses_double_up_to_their_bound(
    start_child: StartChild, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff, "MOST_S", 0.3)
    lives: list[Facts] = []
    start_child("raise SystemExit(7)", seen=lives)
    await until(lambda: len(lives) == 5)
    ends = [line for line in capfd.readouterr().err.splitlines() if "exit code 7" in line]
    assert [line.split()[-2] for line in ends] == ["0.1", "0.2", "0.3", "0.3"]


async def test_a_steady_life_forgets_the_pauses(
    start_child: StartChild, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff, "STEADY_S", 0.0)
    lives: list[Facts] = []
    start_child("raise SystemExit(7)", seen=lives)
    await until(lambda: len(lives) == 4)
    assert capfd.readouterr().err.count("starts again in 0.1 s") == 3


async def test_bad_input_at_start_is_told_and_not_tried_again(
    start_child: StartChild, capfd: pytest.CaptureFixture[str]
) -> None:
    lives: list[Facts] = []
    child = start_child('import sys; print("gatecrew: no such module", file=sys.stderr); sys.exit(2)', seen=lives)
    with pytest.raises(UserError, match="^no such module$"):
        await child.started
    await child.stop(5)
    assert len(lives) == 1
    assert "no such module" not in capfd.readouterr().err  # whoever awaits it says it, once


async def test_bad_input_later_is_shown_and_tried_again(
    start_child: StartChild, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[Facts] = []
    child = start_child(READY, 'import sys; print("gatecrew: port in use", file=sys.stderr); sys.exit(2)', seen=seen)
    await child.started
    await until(lambda: len(seen) == 3)
    assert "it | gatecrew: port in use" in capfd.readouterr().err
    assert seen[1]
    assert not seen[2]  # not the address that it could not have


async def test_stop_lets_it_finish(start_child: StartChild, capfd: pytest.CaptureFixture[str]) -> None:
    child = start_child(
        "import signal, sys\n"
        "def bye(*_): print('bye'); sys.exit()\n"
        "signal.signal(signal.SIGTERM, bye)\n" + READY + "\n" + SLEEP
    )
    await child.started
    await child.stop(10)
    assert "it | bye" in capfd.readouterr().out


async def test_stop_kills_what_does_not_stop_and_what_it_started(
    start_child: StartChild, capfd: pytest.CaptureFixture[str]
) -> None:
    child = start_child(
        "import signal, subprocess, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"grandchild = subprocess.Popen([sys.executable, '-c', {SLEEP!r}])\n"
        "print('grandchild', grandchild.pid, flush=True)\n" + READY + "\n" + SLEEP
    )
    facts = await child.started
    await child.stop(0.2)
    shown = capfd.readouterr()
    assert "did not stop within 0.2 s: killed" in shown.err
    grandchild = int(shown.out.split()[-1])
    await until(lambda: is_gone(int(facts["pid"])) and is_gone(grandchild))


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


async def test_stop_while_it_waits_to_start_again(start_child: StartChild) -> None:
    lives: list[Facts] = []
    child = start_child("raise SystemExit(1)", seen=lives)
    await until(lambda: len(lives) == 4)
    async with asyncio.timeout(5):
        await child.stop(5)
    assert len(lives) <= 5


async def test_output_is_passed_on_by_lines(start_child: StartChild, capfd: pytest.CaptureFixture[str]) -> None:
    child = start_child(
        "import sys; w = sys.stdout.write; w('half'); sys.stdout.flush(); w(' a line\\n'); w('x' * 300000 + '\\n');"
        "w('caf\\xe9\\n'); sys.stdout.flush(); sys.stdout.buffer.write(b'bad \\xff\\nno end'); sys.stdout.flush();"
        "print('to stderr', file=sys.stderr)",
        READY + SLEEP,
    )
    await child.started
    shown = capfd.readouterr()
    lines = shown.out.splitlines()
    assert lines[0] == "it | half a line"
    long = [line.removeprefix("it | ") for line in lines[1:] if line.startswith("it | x")]
    assert "".join(long) == "x" * 300_000
    assert lines[-3:] == ["it | café", "it | bad \ufffd", "it | no end"]
    assert "it | to stderr" in shown.err
