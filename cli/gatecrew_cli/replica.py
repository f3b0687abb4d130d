"""One replica of `gatecrew run`: a worker program of any language over all its lives, registered while it serves."""

import asyncio
import contextlib
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from gatecrew_registry import Entry, Registration, Registry

from .child import command as own_command
from .console import Console
from .health_watch import HealthWatch
from .life import Backoff, Life, ending
from .ports import free_port, join, reason_not_to_bind
from .probe import NO_HEALTH_SERVICE, SERVING
from .watchdog import end_unresponsive

WORKER_TAG = "gatecrew-worker"
START_S = 60.0  # for a program to serve: a JVM on a busy machine
PATIENCE_S = 5.0  # until it is said that we still wait for that
LOOP_LIVES = 5  # so many short lives in a row are a crash loop


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What all replicas of a service have in common. `commands` as in the registry's metadata, "1-20,35" or "*"."""

    service: str
    command: Sequence[str]
    commands: str
    host: str
    advertise: str
    stop_s: float


class Replica:
    """`started` is done when it serves for the first time, `task` when it was stopped or has given up. `taken` are the
    ports of all replicas of the crew.
    """

    def __init__(
        self,
        name: str,
        program: Program,
        port: int,
        taken: set[int],
        registry: Registry,
        health: HealthWatch,
        console: Console,
    ) -> None:
        self.name = name
        self.address = ""
        self.pid = 0
        self.started = asyncio.Event()
        self.gave_up = False
        self._program = program
        self._fixed_port = port  # 0: any free one, kept from life to life as long as the program can have it
        self._port = port
        self._taken = taken
        self._registry = registry
        self._health = health
        self._console = console
        self._life: Life | None = None
        self._stopping = asyncio.Event()
        self.task = asyncio.create_task(self._run(), name=f"replica {name}")

    def stop(self) -> None:
        """Begin to: deregister, let it drain, end it. `task` says when it has gone."""
        self._stopping.set()

    def kill(self) -> None:
        self._stopping.set()
        if self._life is not None:
            self._life.kill()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff()
        while not self._stopping.is_set():
            began_at = loop.time()
            try:
                said = await self._live()
            except OSError as error:
                said = str(error)
            if self._stopping.is_set():
                return
            pause = backoff.after(loop.time() - began_at)
            if backoff.short_lives >= LOOP_LIVES:
                self.gave_up = True
                short = f"{LOOP_LIVES} times in a row within {Backoff.STEADY_S:g} s"
                self._say(f"{said}; {short}: not started again. Mend it, then start `gatecrew run` anew")
                return
            self._say(f"{said}; starts again in {pause:g} s")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()

    async def _live(self) -> str:
        """One life, from start to end; returns how it ended."""
        host = self._program.host
        if self._port and (reason := reason_not_to_bind(host, self._port)):
            # Somebody else's program would be taken for ours, and its entry deregistered with ours.
            if self._fixed_port:
                return f"not started: {join(host, self._port)}: {reason}"
            self._leave_port()
        self._port = self._port or free_port(host, self._taken)
        self._taken.add(self._port)
        address = join(_own_side(host), self._port)
        life = self._life = await Life.start(
            own_command("--exec", *self._program.command), self._environment(), self._hear
        )
        serving = asyncio.create_task(self._until_serving(address))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            first = life.end, serving, stopping
            done, _ = await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE_S)
            if not done:
                self._say(f"does not serve on {address} yet ($HOST and $PORT say where): waits up to {START_S:g} s")
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if serving.done() and not life.end.done() and not self._stopping.is_set():
                state = serving.result()
                has_health = not state.endswith(NO_HEALTH_SERVICE)
                if has_health and state != SERVING:
                    await life.stop(self._program.stop_s)
                    return f"did not serve within {START_S:g} s: {state}"
                silent_s = await self._serve(life, stopping, has_health)
                if silent_s:
                    await life.end
                    return f"unresponsive for {silent_s:.1f} s: killed"
            elif not self._stopping.is_set():
                self._leave_port()  # somebody else may have it, and that be why
            if self._stopping.is_set() and await life.stop(self._program.stop_s):
                self._say(f"did not stop within {self._program.stop_s:g} s: killed")
            return ending(await life.end)
        finally:
            life.kill()
            for task in (serving, stopping):
                task.cancel()
            await asyncio.gather(serving, stopping, life.end, return_exceptions=True)
            self._life = None

    def _leave_port(self) -> None:
        self._taken.discard(self._port)
        self._port = self._fixed_port

    async def _serve(self, life: Life, stopping: "asyncio.Task[bool]", has_health: bool) -> float:
        """Registered until it ends or is to stop. Returns for how many seconds it was silent, if that ended it."""
        program = self._program
        entry = Entry(
            service=program.service,
            id=f"{program.service}-{program.advertise}-{self._port}",
            host=program.advertise,
            port=self._port,
            tags=(WORKER_TAG,),
            meta={
                "contract": "v1",
                "incarnation": secrets.token_hex(8),
                "commands": program.commands,
                "weight": "1",
                "program": os.path.basename(program.command[0]),
            },
            check="grpc" if has_health else "none",
        )
        async with Registration(self._registry, entry, at_first="no gateway can find this worker yet"):
            self.address, self.pid = entry.address, life.pid
            without = "" if has_health else "; it has no health service, so the registry does not check it"
            self._say(f"serves on {entry.address}, pid {life.pid}{without}", sys.stdout)
            self.started.set()
            watching = asyncio.create_task(self._watch(life), name=f"watch {self.name}")
            try:
                await asyncio.wait((life.end, stopping, watching), return_when=asyncio.FIRST_COMPLETED)
            finally:
                watching.cancel()
                [silent_s] = await asyncio.gather(watching, return_exceptions=True)
            return silent_s if isinstance(silent_s, float) else 0.0

    async def _watch(self, life: Life) -> float:
        """Kill it when it is unresponsive; returns for how many seconds it was."""
        while True:
            silent_s = await self._health.silent(join(_own_side(self._program.host), self._port))
            if await end_unresponsive(life, silent_s, self._say):
                return silent_s

    async def _until_serving(self, address: str) -> str:
        """What the program's health service says in the end. Asked by a process of its own, since this one must stay
        without grpc."""
        probe = await asyncio.create_subprocess_exec(
            *own_command("health", address, "--wait", str(START_S)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            printed, _ = await probe.communicate()
        finally:
            if probe.returncode is None:
                probe.kill()
                await probe.wait()
        return printed.decode(errors="replace").strip().removeprefix("gatecrew: ")

    def _environment(self) -> Mapping[str, str]:
        return {
            "PYTHONUNBUFFERED": "1",
            **os.environ,
            "HOST": self._program.host,
            "PORT": str(self._port),
            "SERVICE": self._program.service,
        }

    def _hear(self, line: str, target: TextIO) -> None:
        self._console.line(self.name, line, target, self._life.pid if self._life else 0)

    def _say(self, text: str, stream: TextIO = sys.stderr) -> None:
        self._console.about(self.name, text, stream)


def _own_side(host: str) -> str:
    """Where this machine reaches a server that listens on every address."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
