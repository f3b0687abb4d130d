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


class Screen:
    """All that was printed until now; a console prints in a thread of its own, a little after it was told to."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd
        self._printed = ["", ""]

    def _look(self) -> None:
        for at, more in enumerate(self._capfd.readouterr()):
            self._printed[at] += more

    @property
    def out(self) -> str:
        self._look()
        return self._printed[0]

    @property
    def err(self) -> str:
        self._look()
        return self._printed[1]


@pytest.fixture
def screen(capfd: pytest.CaptureFixture[str]) -> Screen:
    return Screen(capfd)


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


async def test_a_child_that_dies_starts_again_where_it_was(start_child: StartChild, screen: Screen) -> None:
    seen: list[Facts] = []
    child = start_child(READY + SLEEP, seen=seen)
    facts = await child.started
    os.kill(int(facts["pid"]), signal.SIGKILL)
    await until(lambda: len(seen) == 2)
    assert seen == [{}, facts]
    assert facts["address"] == "1.2.3.4:5"
    await until(lambda: "it | ended by SIGKILL; starts again in 0.1 s" in screen.err)


async def test_the_pauses_double_up_to_their_bound(
    start_child: StartChild, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff, "MOST_S", 0.3)
    lives: list[Facts] = []
    start_child("raise SystemExit(7)", seen=lives)
    await until(lambda: len(lives) == 5 and screen.err.count("exit code 7") == 4)
    ends = [line for line in screen.err.splitlines() if "exit code 7" in line]
    assert [line.split()[-2] for line in ends] == ["0.1", "0.2", "0.3", "0.3"]


async def test_a_steady_life_forgets_the_pauses(
    start_child: StartChild, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff, "STEADY_S", 0.0)
    lives: list[Facts] = []
    start_child("raise SystemExit(7)", seen=lives)
    await until(lambda: len(lives) >= 4)
    await until(lambda: screen.err.count("starts again in") >= 3)
    assert "starts again in 0.2 s" not in screen.err


async def test_bad_input_at_start_is_told_and_not_tried_again(start_child: StartChild, screen: Screen) -> None:
    lives: list[Facts] = []
    child = start_child('import sys; print("gatecrew: no such module", file=sys.stderr); sys.exit(2)', seen=lives)
    with pytest.raises(UserError, match="^no such module$"):
        await child.started
    await child.stop(5)
    assert len(lives) == 1
    assert "no such module" not in screen.err  # whoever awaits it says it, once


async def test_bad_input_later_is_shown_and_tried_again(start_child: StartChild, screen: Screen) -> None:
    seen: list[Facts] = []
    child = start_child(READY, 'import sys; print("gatecrew: port in use", file=sys.stderr); sys.exit(2)', seen=seen)
    await child.started
    await until(lambda: len(seen) == 3)
    await until(lambda: "it | gatecrew: port in use" in screen.err)
    assert seen[1]
    assert not seen[2]  # not the address that it could not have


async def test_stop_lets_it_finish(start_child: StartChild, screen: Screen) -> None:
    child = start_child(
        "import signal, sys\n"
        "def bye(*_): print('bye'); sys.exit()\n"
        "signal.signal(signal.SIGTERM, bye)\n" + READY + "\n" + SLEEP
    )
    await child.started
    await child.stop(10)
    await until(lambda: "it | bye" in screen.out)


async def test_stop_kills_what_does_not_stop_and_what_it_started(start_child: StartChild, screen: Screen) -> None:
    child = start_child(
        "import signal, subprocess, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"grandchild = subprocess.Popen([sys.executable, '-c', {SLEEP!r}])\n"
        "print('grandchild', grandchild.pid, flush=True)\n" + READY + "\n" + SLEEP
    )
    facts = await child.started
    await child.stop(0.2)
    await until(lambda: "did not stop within 0.2 s: killed" in screen.err and "grandchild" in screen.out)
    grandchild = int(screen.out.split()[-1])
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


async def test_output_is_passed_on_by_lines(start_child: StartChild, screen: Screen) -> None:
    child = start_child(
        "import sys; w = sys.stdout.write; w('half'); sys.stdout.flush(); w(' a line\\n'); w('x' * 300000 + '\\n');"
        "w('caf\\xe9\\n'); sys.stdout.flush(); sys.stdout.buffer.write(b'bad \\xff\\nno end'); sys.stdout.flush();"
        "print('to stderr', file=sys.stderr)",
        READY + SLEEP,
    )
    await child.started
    await until(lambda: screen.out.endswith("no end\n") and "it | to stderr" in screen.err)
    lines = screen.out.splitlines()
    assert lines[0] == "it | half a line"
    long = [line.removeprefix("it | ") for line in lines[1:] if line.startswith("it | x")]
    assert "".join(long) == "x" * 300_000
    assert lines[-3:] == ["it | café", "it | bad \ufffd", "it | no end"]
