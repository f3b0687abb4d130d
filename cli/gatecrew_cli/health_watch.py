"""Watches the health of programs that `gatecrew run` did not write: grpc.health.v1, asked once a second.

By one process for all of them, since this one must stay without grpc. It is told addresses on its standard input, one a
line, `+HOST:PORT SECONDS` or `-HOST:PORT`, and says `HOST:PORT SECONDS` of one that was silent for so long.
"""

import asyncio
import contextlib
import os
from asyncio.subprocess import DEVNULL, PIPE, Process

from .child import command as own_command

AGAIN_S = 1.0  # after the process has ended, which it should not


class HealthWatch:
    """Close it at the end. `after_s` is when silence is too long; 0: never, and no process is started."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._waiting: dict[str, asyncio.Future[float]] = {}
        self._process: Process | None = None
        self._task = asyncio.create_task(self._run(), name="watch health") if after_s else None

    async def silent(self, address: str) -> float:
        """Returns when whoever serves there was silent for too long: for how many seconds."""
        heard: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting[address] = heard
        self._tell(f"+{address} {self._after_s}")
        try:
            return await heard
        finally:
            del self._waiting[address]
            self._tell(f"-{address}")

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _tell(self, line: str) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(f"{line}\n".encode())

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(OSError):  # the machine can't start one more process just now
                await self._live()
            await asyncio.sleep(AGAIN_S)

    async def _live(self) -> None:
        process = self._process = await asyncio.create_subprocess_exec(
            *own_command("--watch-health"),
            env={**os.environ, "GRPC_VERBOSITY": "NONE"},
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            start_new_session=True,  # Ctrl-C is for its parent
        )
        try:
            for address in self._waiting:
                self._tell(f"+{address} {self._after_s}")
            assert process.stdout is not None
            async for line in process.stdout:
                address, _, silent_s = line.decode().strip().rpartition(" ")
                heard = self._waiting.get(address)
                if heard is not None and not heard.done():
                    heard.set_result(float(silent_s))
        finally:
            self._process = None
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
