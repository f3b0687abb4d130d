"""One life of one program: started in a process group of its own, its lines passed on, ended gently or at once.

A group of its own, so that Ctrl-C in the terminal reaches only the supervisor, which then stops its children in the
right order. Rule: nothing here, nor in the modules that use it, may load grpc, which does not survive a fork.
"""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from typing import Self, TextIO

LONGEST_LINE = 64 * 1024  # bytes; a longer one is broken

Hear = Callable[[str, TextIO], None]  # a line, and the stream that it should go to


class Life:
    """`end` is done with the exit code when the program has ended and its lines are passed on."""

    def __init__(self, process: Process, hear: Hear) -> None:
        self.pid = process.pid
        self.end = asyncio.create_task(self._see_out(process), name=f"process {process.pid}")
        self._hear = hear

    @classmethod
    async def start(cls, command: Sequence[str], environment: Mapping[str, str], hear: Hear) -> Self:
        """Raises:
        OSError: the machine can't start it.
        """
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True
        )
        return cls(process, hear)

    def terminate(self) -> None:
        # Not Process.send_signal: it looks whether the child has ended, and takes the exit code from the watcher.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """With everything that it started."""
        if not self.end.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def stop(self, kill_after_s: float) -> bool:
        """Let it finish what is open, then end it; returns whether it had to be killed."""
        self.terminate()
        done, _ = await asyncio.wait([self.end], timeout=kill_after_s)
        if not done:
            self.kill()
            await asyncio.wait([self.end])
        return not done

    async def _see_out(self, process: Process) -> int:
        assert process.stdout is not None
        assert process.stderr is not None
        relays = [
            asyncio.create_task(self._relay(process.stdout, sys.stdout)),
            asyncio.create_task(self._relay(process.stderr, sys.stderr)),
        ]
        code = await process.wait()
        _, open_ones = await asyncio.wait(relays, timeout=1.0)
        for relay in open_ones:  # something that it started still holds the pipe
            relay.cancel()
        return code

    async def _relay(self, source: asyncio.StreamReader, target: TextIO) -> None:
        rest = b""
        while data := await source.read(LONGEST_LINE):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._hear(line.decode(errors="replace"), target)
            if len(rest) > LONGEST_LINE:
                self._hear(rest.decode(errors="replace"), target)
                rest = b""
        if rest:
            self._hear(rest.decode(errors="replace"), target)


class Backoff:
    """How long to wait before a program that ended starts again."""

    FIRST_S = 0.1
    MOST_S = 5.0
    STEADY_S = 10.0  # after a life of such length it starts again without growth

    def __init__(self) -> None:
        self.short_lives = 0  # in a row

    def after(self, lived_s: float) -> float:
        """Seconds to wait after a life that lasted so long."""
        if lived_s >= self.STEADY_S:
            self.short_lives = 0
        self.short_lives += 1
        return float(min(self.FIRST_S * 2 ** (self.short_lives - 1), self.MOST_S))


def ending(code: int) -> str:
    """An exit code, for people."""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
