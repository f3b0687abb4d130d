"""The child's end of the pipe by which `gatecrew up` sees that the event loop of a child turns.

The loop writes a byte twice a second: exact, since it is the loop itself that writes, and cheap: no grpc in the parent,
which forks, and no further process that asks.
"""

import asyncio
import contextlib
import faulthandler
import os
import signal
from collections.abc import Callable

VARIABLE = "GATECREW_HEARTBEAT_FD"  # tells the child which descriptor it has inherited
BEAT_S = 0.5


ENDED = b"e"  # the loop has done its work: no more beats will come


def begin(loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Beat on this loop for as long as it runs, if a parent listens; and tell all stacks when it sends SIGUSR1. Returns
    what to call when the loop has ended."""
    descriptor = os.environ.pop(VARIABLE, None)  # not for what this process starts
    if descriptor is None:
        return lambda: None
    pipe = int(descriptor)
    os.set_inheritable(pipe, False)
    os.set_blocking(pipe, False)
    if signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:  # else the user's module has a use of its own for it
        faulthandler.register(signal.SIGUSR1, all_threads=True)

    def write(what: bytes) -> None:
        with contextlib.suppress(OSError):  # full: the parent stands still, and has beats enough to read
            os.write(pipe, what)

    def beat() -> None:
        write(b".")
        loop.call_later(BEAT_S, beat)

    loop.call_soon(beat)
    return lambda: write(ENDED)
