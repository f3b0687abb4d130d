"""Real processes for tests: started, read line by line, ended by their own handle.

Blocking on purpose: a test that has an event loop of its own calls `wait_line` in a thread.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from gatecrew_cli import ports

PATIENCE_S = 30.0  # generous: it only ends a test that has failed already


def free_port() -> int:
    """A port that nobody uses now. Prefer port 0 and the printed address where that is possible."""
    return ports.free_port("127.0.0.1")


class Process:
    """A program under test and all that it printed, both streams, in order of arrival."""

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str | None] | None = None, cwd: Path | str | None = None
    ) -> None:
        merged = {**os.environ, "PYTHONUNBUFFERED": "1"}
        for key, value in (env or {}).items():
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = value
        self.command = list(command)
        self.lines: list[str] = []
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            self.command,
            env=merged,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        streams = ((self._process.stdout, self.stdout), (self._process.stderr, self.stderr))
        self._readers = [threading.Thread(target=self._read, args=each, daemon=True) for each in streams]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Negative: the signal that ended it. None: it runs."""
        return self._process.poll()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def _read(self, stream, own: list[str]) -> None:  # type: ignore[no-untyped-def]
        with stream:
            for line in stream:
                with self._changed:
                    own.append(line.rstrip("\n"))
                    self.lines.append(line.rstrip("\n"))
                    self._changed.notify_all()

    def wait_line(self, pattern: str, *, count: int = 1, timeout_s: float = PATIENCE_S) -> re.Match[str]:
        """Wait until `count` lines match; return the last of these matches.

        Raises:
            AssertionError: it ended or took too long; says what it printed.
        """
        compiled = re.compile(pattern)
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                found = [match for match in map(compiled.search, self.lines) if match]
                if len(found) >= count:
                    return found[count - 1]
                ended = self._process.poll() is not None and not any(reader.is_alive() for reader in self._readers)
                if ended or time.monotonic() >= deadline:
                    state = f"exit code {self._process.returncode}" if ended else f"still running after {timeout_s} s"
                    raise AssertionError(
                        f"no line like {pattern!r} ({count}×) from {self.command}: {state}\n{self.output}"
                    )
                self._changed.wait(0.1)  # the end of the process itself notifies nobody

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def interrupt(self) -> None:
        """What Ctrl-C in a terminal does: SIGINT to all of the foreground process group."""
        os.killpg(self._process.pid, signal.SIGINT)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for its end; return the exit code."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.command} did not end in {timeout_s} s\n{self.output}") from None
        for reader in self._readers:
            reader.join(PATIENCE_S)
        return code

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = PATIENCE_S) -> int:
        self.send(number)
        return self.wait(timeout_s)

    def kill(self) -> None:
        """End it and its process group, whatever state they are in."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self._process.wait(PATIENCE_S)

    def close(self) -> None:
        if self._process.poll() is None:
            self.send(signal.SIGCONT)
            self.send(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        for reader in self._readers:
            reader.join(5)


def gatecrew(*arguments: str) -> list[str]:
    """The command line under test, in the interpreter that runs the tests."""
    return [sys.executable, "-m", "gatecrew_cli", *arguments]
