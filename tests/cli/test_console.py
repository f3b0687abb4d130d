"""Lines of children, named; coloured only for a person who wants it; never in the way of their supervisor."""

import os
import pty
import re
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest

from gatecrew_cli import console as console_module
from gatecrew_cli.console import MOST_WAITING, Console

pytestmark = pytest.mark.quick


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "CLOSE_S", 30.0)


@pytest.fixture
def terminal() -> Callable[[], str]:
    """What a console shows of one line on a terminal."""

    def show() -> str:
        ours, theirs = pty.openpty()
        with open(theirs, "w") as out, open(ours, "rb", buffering=0) as screen:
            console = Console(["it"])
            console.line("it", "text", out)
            console.close()
            return screen.read(1000).decode()

    return show


def written(path: Path, write: Callable[[TextIO], None]) -> str:
    with path.open("w") as out:
        write(out)
    return path.read_text()


def test_names_are_as_wide_as_the_widest(tmp_path: Path) -> None:
    def write(out: TextIO) -> None:
        console = Console(["registry", "worker-10"])
        console.line("registry", "a", out)
        console.line("worker-10", "b", out)
        console.close()

    assert written(tmp_path / "out", write) == "registry  | a\nworker-10 | b\n"


def test_colours_on_a_terminal_unless_no_color(terminal: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert terminal() == "\033[36mit |\033[0m text\r\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal() == "it | text\r\n"


def test_a_pipe_that_nobody_reads_stops_nobody_and_what_is_left_out_is_said() -> None:
    reading, writing = os.pipe()
    line = "x" * 10_000
    count = 2 * MOST_WAITING // len(line)
    with open(writing, "w") as out, open(reading, "rb", buffering=0) as pipe:
        console = Console(["it"])
        for _ in range(count):
            console.line("it", line, out)
        seen = b""
        while seen.count(b"\n") < count // 3:
            seen += pipe.read(1 << 20)
        console.line("it", "last", out)
        while not seen.endswith(b"last\n"):
            seen += pipe.read(1 << 20)
        console.close()
    *lines, last = seen.decode().splitlines()
    notices = [re.fullmatch(r"\((\d+) lines left out: nobody read them\)", each) for each in lines]
    left_out = [int(notice[1]) for notice in notices if notice]  # more than one if the pipe took its first lines late
    assert last == "it | last"
    assert {each for each, notice in zip(lines, notices, strict=True) if not notice} == {f"it | {line}"}
    assert left_out
    assert len(lines) - len(left_out) + sum(left_out) == count
