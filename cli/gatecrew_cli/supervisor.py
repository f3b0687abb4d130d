"""Keeps child processes alive: starts them, passes on what they print, restarts what dies, stops them in order.

A child is a process group of its own, so that Ctrl-C in the terminal reaches only the supervisor, which then drains
them in the right order. Rule: nothing here may load grpc, which does not survive a fork.
"""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

from . import ready
from .console import Console
from .errors import UserError

BACKOFF_FIRST_S = 0.1
BACKOFF_MOST_S = 5.0
STEADY_S = 10.0  # a child that lived so long starts again without delay growth
LONGEST_LINE = 64 * 1024  # bytes; a longer one is broken
BAD_INPUT = 2  # exit code of a child whose arguments, settings or module are wrong

Facts = Mapping[str, str]  # of a ready line
Command = Callable[[Facts], Sequence[str]]


class Child:
    """One program, over all its lives.

    `command` is called before each life with the facts of the last one's ready line, so that it is found where it was.
    They are empty at first, and after a life that found its input bad: somebody else may have the address now.
    """

    def __init__(self, name: str, command: Command, environment: Mapping[str, str], console: Console) -> None:
        self.name = name
        self.started: asyncio.Future[Facts] = asyncio.get_running_loop().create_future()  # first ready line
        self._command = command
        self._environment = environment
        self._console = console
        self._facts: Facts = {}
        self._complaint = ""  # last line in which a life said what is wrong with its input
        self._process: Process | None = None
        self._stopping = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"child {name}")

    async def stop(self, kill_after_s: float) -> None:
        """Let it finish what is open, then end it; returns when it has gone."""
        self._stopping.set()
        if not self.started.cancel() and not self.started.cancelled():
            self.started.exception()  # seen: when several children fail at start, only one is reported
        self._terminate()
        done, _ = await asyncio.wait([self._task], timeout=kill_after_s)
        if not done:
            self._console.line(self.name, f"did not stop within {kill_after_s:g} s: killed", sys.stderr)
            self.kill()
            await asyncio.wait([self._task])

    def kill(self) -> None:
        """End it on the spot, with everything that it started."""
        self._stopping.set()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _terminate(self) -> None:
        if self._process is not None:
            # Not Process.send_signal: it looks whether the child has ended, and takes the exit code from the watcher.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        pause = BACKOFF_FIRST_S
        while not self._stopping.is_set():
            began_at = loop.time()
            try:
                code = await self._live()
            except OSError as error:  # the machine can't start one more process just now
                self._console.line(self.name, str(error), sys.stderr)
                code = 1
            if self._stopping.is_set():
                return
            if code == BAD_INPUT:
                if not self.started.done():
                    complaint = self._complaint.removeprefix("gatecrew: ") or f"{self.name}: {_ending(code)}"
                    self.started.set_exception(UserError(complaint))
                    return
                self._facts = {}
            if self._complaint:
                self._console.line(self.name, self._complaint, sys.stderr)
            if loop.time() - began_at >= STEADY_S:
                pause = BACKOFF_FIRST_S
            self._console.line(self.name, f"{_ending(code)}; starts again in {pause:g} s", sys.stderr)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            pause = min(pause * 2, BACKOFF_MOST_S)

    async def _live(self) -> int:
        """One life, from start to end; returns the exit code."""
        self._complaint = ""
        self._process = await asyncio.create_subprocess_exec(
            *self._command(self._facts),
            env=self._environment,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=True,
        )
        if self._stopping.is_set():  # the signal came while it was being started
            self._terminate()
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        relays = [
            asyncio.create_task(self._relay(self._process.stdout, sys.stdout)),
            asyncio.create_task(self._relay(self._process.stderr, sys.stderr)),
        ]
        code = await self._process.wait()
        _, open_ones = await asyncio.wait(relays, timeout=1.0)
        for relay in open_ones:  # something that it started still holds the pipe
            relay.cancel()
        self._process = None
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

    def _hear(self, line: str, target: TextIO) -> None:
        if (facts := ready.parse(line)) is not None:
            self._facts = facts
            if not self.started.done():
                self.started.set_result(facts)
        elif line.startswith("gatecrew: "):
            self._complaint = line  # shown when it has ended, once we know what it was about
        else:
            self._console.line(self.name, line, target)


def _ending(code: int) -> str:
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
