"""Finds a child that lives and does nothing any more, and ends it."""

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import heartbeat
from .life import Life
from .silence import TICK_S, Silence

GATEWAY_S = 4.0  # of a gateway's silence, at most: all its clients wait
ENDING_S = 10.0  # at least, for a child whose loop has ended to end itself
STACKS_S = 2.0  # at most, for a child to write its stacks
QUIET_S = 0.3  # without a line: it has written them


class Pulse:
    """The parent's end of a heartbeat pipe. `write_end` is for the child; None of it once the child has it."""

    def __init__(self) -> None:
        self._read_end, self.write_end = os.pipe()
        self._keep_write_end = True
        os.set_blocking(self._read_end, False)

    def environment(self) -> dict[str, str]:
        return {heartbeat.VARIABLE: str(self.write_end)}

    def inherited(self) -> None:
        """The child has its end: close ours."""
        if self._keep_write_end:
            self._keep_write_end = False
            os.close(self.write_end)

    def close(self) -> None:
        self.inherited()
        os.close(self._read_end)

    async def silent(self, limit_s: float) -> float:
        """Returns when nothing was heard for `limit_s` seconds: for how long."""
        loop = asyncio.get_running_loop()
        silence = Silence(limit_s)

        def beats() -> None:
            if read := os.read(self._read_end, 4096):
                silence.heard()
                if heartbeat.ENDED in read:
                    silence.limit_s = max(limit_s, ENDING_S)
            else:  # it has ended, or closed what it does not know
                loop.remove_reader(self._read_end)

        loop.add_reader(self._read_end, beats)
        try:
            ticked_at = loop.time()
            while True:
                await asyncio.sleep(TICK_S)
                now = loop.time()
                if silence.tick(now - ticked_at):
                    return silence.length_s
                ticked_at = now
        finally:
            loop.remove_reader(self._read_end)


@dataclass(frozen=True, slots=True)
class _State:
    """Of a process, as Linux tells it; elsewhere we know nothing and take it for a plain one."""

    traced: bool = False  # a debugger holds it
    stopped: bool = False  # SIGSTOP
    tells_stacks: bool = False  # SIGUSR1 would not simply end it

    @classmethod
    def of(cls, pid: int) -> "_State":
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            return cls()
        fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        return cls(
            traced=fields.get("TracerPid", "0") != "0",
            stopped=fields.get("State", "").startswith("T"),
            tells_stacks=bool(int(fields.get("SigCgt", "0"), 16) >> (signal.SIGUSR1 - 1) & 1),
        )


async def end_unresponsive(life: Life, silent_s: float, say: Callable[[str], None]) -> bool:
    """Ask it for its stacks, if it can tell them, and kill it. Returns whether it did so: what a debugger holds is
    silent with a reason."""
    state = _State.of(life.pid)
    if state.traced:
        say(f"silent for {silent_s:.1f} s: a debugger holds it, so it is left alone")
        return False
    if state.tells_stacks and not state.stopped:
        say(f"silent for {silent_s:.1f} s: asked for its stacks")
        await _stacks(life)
    life.kill()
    return True


async def _stacks(life: Life) -> None:
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + STACKS_S
    before = seen = life.lines
    life.signal(signal.SIGUSR1)
    while loop.time() < give_up_at:
        await asyncio.sleep(QUIET_S)
        if life.lines == seen > before:
            return
        seen = life.lines
