"""One life of one program: started in a process group of its own, its lines passed on, ended gently or at once.

A group of its own, so that Ctrl-C in the terminal reaches only the supervisor, which then stops its children in the
right order. Rule: nothing here, nor in the modules that use it, may load grpc, which does not survive a fork.
"""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable, Mapping, Sequence
from typing import Self, TextIO

REST_S = 10.0  # for what a program has left behind, before it is killed
LONGEST_LINE = 64 * 1024  # bytes; a longer one is broken

Hear = Callable[[str, TextIO], None]  # a line, and the stream that it should go to


class Life(asyncio.SubprocessProtocol):
    """`end` is done with the exit code when the program has ended, with all that it had started, and its lines are
    passed on.

    A protocol and not `asyncio.subprocess.Process`, whose `wait` also waits until nobody holds the pipes (Python before
    3.12.5): what a program has left running would hide that it has ended.
    """

    pid: int
    end: asyncio.Task[int]
    lines: int  # so many were passed on

    def __init__(self, hear: Hear) -> None:
        self.lines = 0
        self._hear = hear
        self._rest = {1: b"", 2: b""}  # by file descriptor: the line that has begun; no entry when all was read
        self._exited = asyncio.Event()
        self._read = asyncio.Event()

    @classmethod
    async def start(
        cls, command: Sequence[str], environment: Mapping[str, str], hear: Hear, descriptors: Sequence[int] = ()
    ) -> Self:
        """`descriptors` are those that it inherits besides its output.

        Raises:
            OSError: the machine can't start it.
        """
        transport, life = await asyncio.get_running_loop().subprocess_exec(
            lambda: cls(hear),
            *command,
            env=environment,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            pass_fds=descriptors,
            start_new_session=True,
        )
        life.pid = transport.get_pid()
        life.end = asyncio.create_task(life._see_out(transport), name=f"process {life.pid}")
        return life

    def terminate(self) -> None:
        """Ask the program; what it has started is asked when it has ended."""
        self.signal(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        """To the program alone."""
        # Not Process.send_signal: it looks whether the child has ended, and takes the exit code from the watcher.
        if not self._exited.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """With everything that it started."""
        if not self.end.done():
            self._signal_group(signal.SIGKILL)

    async def stop(self, kill_after_s: float) -> bool:
        """Let it finish what is open, then end it; returns whether it had to be killed."""
        self.terminate()
        done, _ = await asyncio.wait([self.end], timeout=kill_after_s)
        if not done:
            self.kill()
            await asyncio.wait([self.end])
        return not done

    def process_exited(self) -> None:
        self._exited.set()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        *lines, rest = (self._rest[fd] + data).split(b"\n")
        if len(rest) > LONGEST_LINE:
            lines.append(rest)
            rest = b""
        self._rest[fd] = rest
        for line in lines:
            self._pass_on(fd, line)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if rest := self._rest.pop(fd):
            self._pass_on(fd, rest)
        if not self._rest:
            self._read.set()

    def _pass_on(self, fd: int, line: bytes) -> None:
        self.lines += 1
        self._hear(line.decode(errors="replace"), sys.stdout if fd == 1 else sys.stderr)

    async def _see_out(self, transport: asyncio.SubprocessTransport) -> int:
        await self._exited.wait()
        await self._end_rest()
        with contextlib.suppress(TimeoutError):  # something that it started still holds the pipe
            async with asyncio.timeout(1.0):
                await self._read.wait()
        transport.close()
        code = transport.get_returncode()
        assert code is not None
        return code

    async def _end_rest(self) -> None:
        """End what it has left behind: a shell does not pass SIGTERM on, and a worker may be what it ran."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + REST_S
        there = self._signal_group(signal.SIGTERM)
        while there and loop.time() < give_up_at:
            await asyncio.sleep(0.02)
            with contextlib.suppress(ChildProcessError):
                # Orphans are ours if we are process 1, as in a container.
                os.waitpid(-self.pid, os.WNOHANG)  # noqa: ASYNC222
            there = self._signal_group(0)
        if there:
            self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: int) -> bool:
        """Returns whether anybody of it is there."""
        try:
            os.killpg(self.pid, number)
        except OSError:
            return False
        return True


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
        try:
            return f"ended by {signal.Signals(-code).name}"
        except ValueError:  # most real-time signals have no name
            return f"ended by signal {-code}"
    return f"ended with exit code {code}"
