"""What `gatecrew up` and `gatecrew run` show: the lines of all children, each with its name before it.

Written by threads: a pipe that nobody reads, or a terminal that was stopped with Ctrl-S, blocks whoever writes to it,
and must keep us neither from stopping our children nor from starting them again.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import TextIO

from . import log

_COLOURS = (36, 32, 33, 35, 34, 96, 92, 93, 95, 94)  # ANSI foregrounds that are readable on black and on white
_RESET = "\033[0m"
MOST_WAITING = 4 << 20  # bytes for one stream; what comes above it is left out
_LOGGER = "gatecrew.supervisor"
CLOSE_S = 1.0  # for what is still to be written


class Console:
    """Prints whole lines, prefixed; in colour on a terminal, unless NO_COLOR is set. Close it at the end.

    If this process logs records (log.py), all that is printed is one, with the name in its field `process`.
    """

    def __init__(self, names: list[str]) -> None:
        self._process = log.process()
        self._width = max(map(len, names))
        self._colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}
        self._writers: dict[TextIO, _Writer] = {}

    def line(self, name: str, text: str, stream: TextIO | None = None, pid: int = 0) -> None:
        """A line of a child."""
        out = stream or sys.stdout
        if self._process is None:
            self._prefixed(name, text, out)
        else:
            self._write(out, log.wrap(name, pid, text, "warning" if out is sys.stderr else "info"))

    def about(self, name: str, text: str, stream: TextIO | None = None) -> None:
        """A line of our own about a child; on stderr it is a warning."""
        out = stream or sys.stderr
        if self._process is None:
            self._prefixed(name, text, out)
        else:
            self._write(out, log.record(name, text, "warning" if out is sys.stderr else "info", _LOGGER))

    def say(self, text: str) -> None:
        """A line of our own."""
        self._write(sys.stdout, self._own(text))

    def _own(self, text: str) -> str:
        return text if self._process is None else log.record(self._process, text, "info", _LOGGER)

    def _prefixed(self, name: str, text: str, out: TextIO) -> None:
        prefix = f"{name:<{self._width}} |"
        if out.isatty() and not os.environ.get("NO_COLOR"):
            prefix = f"\033[{self._colours[name]}m{prefix}{_RESET}"
        self._write(out, f"{prefix} {text}")

    def close(self) -> None:
        """Returns when all is written, or cannot be."""
        give_up_at = time.monotonic() + CLOSE_S
        for writer in self._writers.values():
            writer.close(max(0.0, give_up_at - time.monotonic()))

    def _write(self, out: TextIO, line: str) -> None:
        writer = self._writers.get(out)
        if writer is None:
            writer = self._writers[out] = _Writer(out.fileno(), self._own)
        writer.put(line)


class _Writer:
    """Writes to the descriptor itself: a stream's lock, held by a thread that is stuck, would stop Python's exit."""

    def __init__(self, descriptor: int, own: Callable[[str], str]) -> None:
        self._descriptor = descriptor
        self._own = own
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._taken = 0  # bytes, of which
        self._written = 0  # so many are out, counted by the thread
        self._left_out = 0  # lines
        self._thread = threading.Thread(target=self._run, name="console", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        data = f"{line}\n".encode(errors="replace")
        if self._taken - self._written + len(data) > MOST_WAITING:
            self._left_out += 1
            return
        if self._left_out:
            notice = self._own(f"({self._left_out} lines left out: nobody read them)")
            data = f"{notice}\n".encode() + data
            self._left_out = 0
        self._taken += len(data)
        self._lines.put(data)

    def close(self, timeout_s: float) -> None:
        self._lines.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (data := self._lines.get()) is not None:
            size = len(data)
            while data:
                try:
                    data = data[os.write(self._descriptor, data) :]
                except BlockingIOError:  # somebody who shares the terminal has made it so
                    time.sleep(0.01)
                except OSError:
                    break  # its reader has gone; the children go on
            self._written += size
