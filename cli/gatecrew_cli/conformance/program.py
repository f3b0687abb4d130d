"""The process of the worker under test: started by the kit, or somebody else's that the kit may signal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, STDOUT
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile

from ..child import check_program
from ..child import command as own_command
from ..errors import Failed, UserError

FREEZE_S = 0.5
SERVICE = "conformance"  # the name that the kit gives to a worker that it starts


class Program:
    """`address` is where it serves, or will serve."""

    def __init__(
        self, address: str, pid: int, process: asyncio.subprocess.Process | None = None, output: str = ""
    ) -> None:
        self.address = address
        self.pid = pid
        self.process = process
        self.output = output  # the file that has what it printed

    @classmethod
    async def start(cls, command: Sequence[str]) -> Program:
        """Start it as `gatecrew run` does: HOST, PORT and SERVICE in the environment. What it prints goes to a file.

        Raises:
            UserError: there is no such program.
        """
        check_program(command[0])
        port = free_port()
        environment = {**os.environ, "HOST": "127.0.0.1", "PORT": str(port), "SERVICE": SERVICE}
        with NamedTemporaryFile(prefix="gatecrew-conformance-", suffix=".log", delete=False) as output:
            process = await asyncio.create_subprocess_exec(
                *own_command("--exec", *command),
                env=environment,
                stdin=DEVNULL,
                stdout=output,
                stderr=STDOUT,
                start_new_session=True,
            )
        return cls(f"127.0.0.1:{port}", process.pid, process, output.name)

    def check_alive(self) -> None:
        """Raises:
        Failed: it has ended.
        """
        if self.process is not None and self.process.returncode is not None:
            code = self.process.returncode
            raise Failed(
                f"the program ended with exit code {code} before it served; what it printed is in {self.output}"
            )

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

    async def end(self) -> None:
        """Kill it with all that it started, if the kit has started it."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            await self.process.wait()


def _stands_still(pid: int) -> bool:
    """Whether all of its threads do, as /proc says it."""
    states = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            states.append((task / "stat").read_text().rpartition(")")[2].split()[0])
    return set(states) <= {"T", "t"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
