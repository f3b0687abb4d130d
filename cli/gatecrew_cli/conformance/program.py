"""The process of the worker under test: started by the kit, or somebody else's that the kit may signal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TextIO

from ..child import check_program
from ..child import command as own_command
from ..errors import Failed, UserError
from ..life import Life, ending
from ..ports import free_port

FREEZE_S = 0.5
SERVICE = "conformance"  # the name that the kit gives to a worker that it starts
MOST_PRINTED = 16 << 20  # characters; a program that prints for ever must not fill the disk


class Printed:
    """What a program printed, in a file for people to look at."""

    def __init__(self) -> None:
        self._file = NamedTemporaryFile("w", prefix="gatecrew-conformance-", suffix=".log", delete=False)  # noqa: SIM115
        self._room = MOST_PRINTED

    def hear(self, line: str, stream: TextIO) -> None:
        if self._room > 0:
            self._room -= len(line) + 1
            self._file.write(f"{line}\n" if self._room > 0 else "(and more)\n")
            self._file.flush()

    def close(self, keep: bool) -> None:
        self._file.close()
        if not keep:
            os.unlink(self._file.name)

    def __str__(self) -> str:
        return f"what the program printed is in {self._file.name}"


class Program:
    """`address` is where it serves, or will serve. `life` and `printed` are there if the kit has started it."""

    def __init__(self, address: str, pid: int, life: Life | None = None, printed: Printed | None = None) -> None:
        self.address = address
        self.pid = pid
        self.life = life
        self.printed = printed

    @classmethod
    async def start(cls, command: Sequence[str]) -> Program:
        """Start it as `gatecrew run` does: HOST, PORT and SERVICE in the environment. What it prints goes to a file.

        Raises:
            UserError: there is no such program.
        """
        check_program(command[0])
        port = free_port("127.0.0.1")
        environment = {**os.environ, "HOST": "127.0.0.1", "PORT": str(port), "SERVICE": SERVICE}
        printed = Printed()
        life = await Life.start(own_command("--exec", *command), environment, printed.hear)
        return cls(f"127.0.0.1:{port}", life.pid, life, printed)

    def check_alive(self) -> None:
        """Raises:
        Failed: it has ended.
        """
        if self.life is not None and self.life.end.done():
            raise Failed(f"the program {ending(self.life.end.result())} before it served; {self.printed}")

    def signal(self, number: signal.Signals) -> None:
        """Raises:
        UserError: there is no such process, or it is not ours.
        """
        try:
            os.kill(self.pid, number)
        except OSError as error:
            raise UserError(f"process {self.pid}: {error.strerror}") from None

    async def freeze(self) -> None:
        """SIGSTOP; returns when every thread of it stands still, which on a busy machine takes a while.

        Raises:
            UserError: there is no such process, or it is not ours.
        """
        self.signal(signal.SIGSTOP)
        if sys.platform != "linux":  # there is nobody to ask
            await asyncio.sleep(FREEZE_S)
        while sys.platform == "linux" and not _stands_still(self.pid):
            await asyncio.sleep(0.01)

    async def end(self, keep: bool) -> None:
        """Kill it with all that it started, if the kit has started it; keep what it printed, or not."""
        if self.life is not None and self.printed is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            await self.life.end
            self.printed.close(keep)


def _stands_still(pid: int) -> bool:
    """Whether all of its threads do, as /proc says it."""
    states = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            states.append((task / "stat").read_text().rpartition(")")[2].split()[0])
    return set(states) <= {"T", "t"}
