"""What `gatecrew up` shows: the lines of all children, each with its name before it."""

import contextlib
import os
import sys
from typing import TextIO

_COLOURS = (36, 32, 33, 35, 34, 96, 92, 93, 95, 94)  # ANSI foregrounds that are readable on black and on white
_RESET = "\033[0m"


class Console:
    """Prints whole lines, prefixed; in colour on a terminal, unless NO_COLOR is set."""

    def __init__(self, names: list[str]) -> None:
        self._width = max(map(len, names))
        self._colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}

    def line(self, name: str, text: str, stream: TextIO | None = None) -> None:
        out = stream or sys.stdout
        prefix = f"{name:<{self._width}} |"
        if out.isatty() and not os.environ.get("NO_COLOR"):
            prefix = f"\033[{self._colours[name]}m{prefix}{_RESET}"
        with contextlib.suppress(BrokenPipeError):  # its reader has gone; the children go on
            print(prefix, text, file=out, flush=True)
