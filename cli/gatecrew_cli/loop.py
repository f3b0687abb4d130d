"""Event loops: which one a process runs on, and how it is told to stop."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeVar

from . import heartbeat
from .errors import UserError

Choice = Literal["auto", "asyncio", "uvloop"]
T = TypeVar("T")


def _factory(choice: Choice) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if choice == "asyncio":
        return None
    try:
        import uvloop
    except ImportError:
        if choice == "uvloop":
            raise UserError("--loop uvloop: it is not installed here; use --loop asyncio") from None
        return None
    return uvloop.new_event_loop


def run(main: Coroutine[Any, Any, T], choice: Choice = "auto") -> T:
    """Run to the end on the loop of that name; `auto` is uvloop where there is one."""
    with asyncio.Runner(loop_factory=_factory(choice)) as runner:
        ended = heartbeat.begin(runner.get_loop())
        try:
            return runner.run(main)
        finally:
            ended()


def stop_requested(on_second: Callable[[], None] = lambda: None) -> asyncio.Event:
    """An event that the first SIGINT, SIGTERM or SIGHUP sets, for an orderly stop. A second SIGINT or SIGTERM ends the
    process on the spot, after `on_second`. A second SIGHUP does not: a terminal that is closed may send two, and a
    service manager one right after SIGTERM."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if event.is_set():
            on_second()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        event.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # `nohup` has made it so, to outlive the terminal
        loop.add_signal_handler(signal.SIGHUP, event.set)
    return event
