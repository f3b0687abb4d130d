"""Lines of children, named; coloured only for a person who wants it."""

import io

import pytest

from gatecrew_cli.console import Console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_names_are_as_wide_as_the_widest() -> None:
    out = io.StringIO()
    console = Console(["registry", "worker-10"])
    console.line("registry", "a", out)
    console.line("worker-10", "b", out)
    assert out.getvalue() == "registry  | a\nworker-10 | b\n"


def test_colours_on_a_terminal_unless_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    Console(["it"]).line("it", "text", out)
    assert out.getvalue() == "\033[36mit |\033[0m text\n"
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    Console(["it"]).line("it", "text", out)
    assert out.getvalue() == "it | text\n"
