"""Keeps Gatecrew's own processes alive: starts them, waits until they are ready, starts again what dies."""

import asyncio
import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

from . import ready
from .console import Console
from .errors import UserError
from .life import Backoff, Life, ending
from .watchdog import Pulse, end_unresponsive

BAD_INPUT = 2  # exit code of a child whose arguments, settings or module are wrong

Facts = Mapping[str, str]  # of a ready line
Command = Callable[[Facts], Sequence[str]]


class Child:
    """One program, over all its lives.

    `command` is called before each life with the facts of the last one's ready line, so that it is found where it was.
    They are empty at first, and after a life that found its input bad: somebody else may have the address now.

    One whose event loop stands still for `unresponsive_after_s` seconds is killed, to start again; 0: never. It is
    watched from its ready line on: a start may take its time.
    """

    def __init__(
        self,
        name: str,
        command: Command,
        environment: Mapping[str, str],
        console: Console,
        unresponsive_after_s: float = 0.0,
    ) -> None:
        self.name = name
        self.started: asyncio.Future[Facts] = asyncio.get_running_loop().create_future()  # first ready line
        self._command = command
        self._environment = environment
        self._console = console
        self._unresponsive_after_s = unresponsive_after_s
        self._ready = asyncio.Event()  # of this life
        self._facts: Facts = {}
        self._complaint = ""  # last line in which a life said what is wrong with its input
        self._life: Life | None = None
        self._stopping = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"child {name}")

    async def stop(self, kill_after_s: float) -> None:
        """Let it finish what is open, then end it; returns when it has gone."""
        self._stopping.set()
        if not self.started.cancel() and not self.started.cancelled():
            self.started.exception()  # seen: when several children fail at start, only one is reported
        if self._life is not None:
            self._life.terminate()
        done, _ = await asyncio.wait([self._task], timeout=kill_after_s)
        if not done:
            self._console.about(self.name, f"did not stop within {kill_after_s:g} s: killed")
            self.kill()
            await asyncio.wait([self._task])

    def kill(self) -> None:
        """End it on the spot, with everything that it started."""
        self._stopping.set()
        if self._life is not None:
            self._life.kill()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff()
        while not self._stopping.is_set():
            began_at = loop.time()
            try:
                code, how = await self._live()
            except OSError as error:  # the machine can't start one more process just now
                code, how = 1, str(error)
            if self._stopping.is_set():
                return
            if code == BAD_INPUT:
                if not self.started.done():
                    complaint = self._complaint or f"{self.name}: {how}"
                    self.started.set_exception(UserError(complaint))
                    return
                self._facts = {}
            if self._complaint:
                self._console.about(self.name, f"gatecrew: {self._complaint}")
            pause = backoff.after(loop.time() - began_at)
            self._console.about(self.name, f"{how}; starts again in {pause:g} s")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()

    async def _live(self) -> tuple[int, str]:
        """One life, from start to end; returns the exit code, and how it ended, for people."""
        self._complaint = ""
        self._ready.clear()
        pulse = Pulse() if self._unresponsive_after_s else None
        try:
            life = self._life = await Life.start(
                self._command(self._facts),
                {**self._environment, **(pulse.environment() if pulse else {})},
                self._hear,
                [pulse.write_end] if pulse else [],
            )
            if self._stopping.is_set():  # the signal came while it was being started
                life.terminate()
            if pulse is None:
                code = await life.end
                return code, ending(code)
            pulse.inherited()
            watching = asyncio.create_task(self._watch(life, pulse), name=f"watch {self.name}")
            try:
                code = await life.end
            finally:
                watching.cancel()
            [silent_s] = await asyncio.gather(watching, return_exceptions=True)
            return code, f"unresponsive for {silent_s:.1f} s: killed" if isinstance(silent_s, float) else ending(code)
        finally:
            self._life = None
            if pulse is not None:
                pulse.close()

    async def _watch(self, life: Life, pulse: Pulse) -> float:
        """Kill it when it is unresponsive; returns for how long it was."""

        def say(text: str) -> None:
            self._console.about(self.name, text)

        await self._ready.wait()
        while True:
            silent_s = await pulse.silent(self._unresponsive_after_s)
            # When it is being stopped, whoever does that has a patience of his own.
            if not self._stopping.is_set() and await end_unresponsive(life, silent_s, say):
                return silent_s

    def _hear(self, line: str, target: TextIO) -> None:
        if (facts := ready.parse(line)) is not None:
            self._facts = facts
            self._ready.set()
            if not self.started.done():
                self.started.set_result(facts)
            else:
                self._console.about(self.name, f"is back, pid {facts['pid']}", sys.stdout)
        elif (complaint := ready.parse_complaint(line)) is not None:
            self._complaint = complaint  # shown when it has ended, once we know what it was about
        else:
            self._console.line(self.name, line, target, self._life.pid if self._life else 0)
