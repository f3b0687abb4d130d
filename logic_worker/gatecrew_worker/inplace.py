"""Start a handler where its request is read; give it a task only if it suspends.

A task costs more than most handlers do. So a batch of handlers runs inside the link's reader, each by
`coro.send(None)`, and what has finished by then never had a task. Handlers must not notice: `asyncio.current_task()` is
theirs from the first line to the last (timeouts, task groups and cancel scopes remember it), and their context
variables are their own.

Therefore a Carrier, a real task that has not had its first step yet, is made the current task of a batch, and the batch
runs in the carrier's context. The handler that suspends keeps the carrier, which goes on with it from its first step
on. A handler that finishes leaves the carrier to the next one, unless it left a trace on it (a reference, a
cancellation, a callback, a context variable): then the carrier is spent and the next handler gets another.
"""

from __future__ import annotations

import asyncio
import contextvars
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")
Settle = Callable[[Any, BaseException | None], None]


class Carrier(asyncio.Task[None]):
    """The current task of handlers that run in place, and the task of the one that suspends."""

    touched = False  # somebody cancelled it or hung a callback on it

    def __init__(self, loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
        self._handed: tuple[Coroutine[Any, Any, Any], Any, Settle] | None = None
        steps = self._steps()
        # Started before there is a task: a cancellation that comes before the task's first step must reach the
        # handler, and a coroutine that has not started takes an exception without running a line.
        steps.send(None)
        super().__init__(steps, loop=loop, name="handler", context=context)

    def hand_over(self, coroutine: Coroutine[Any, Any, Any], waits_for: Any, settle: Settle) -> None:
        """Go on with a coroutine that has yielded `waits_for`; `settle(result, error)` is called when it has ended."""
        if asyncio.isfuture(waits_for):
            waits_for._asyncio_future_blocking = False  # others may await the same future before our first step
        self._handed = coroutine, waits_for, settle

    async def _steps(self) -> None:
        cancelled = await _first_step()
        if self._handed is None:
            return
        coroutine, waits_for, settle = self._handed
        self._handed = None
        try:
            result = await _go_on(coroutine, waits_for, cancelled)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            settle(None, error)
        else:
            settle(result, None)

    def cancel(self, msg: Any = None) -> bool:
        self.touched = True
        return super().cancel(msg)

    def add_done_callback(self, *args: Any, **kwargs: Any) -> None:
        self.touched = True
        super().add_done_callback(*args, **kwargs)


def run_in_place(
    loop: asyncio.AbstractEventLoop,
    base: contextvars.Context,
    step: Callable[[Carrier, contextvars.Context], T],
) -> T:
    """Call `step` with a fresh carrier as current task, inside a fresh copy of the context `base`."""
    context = base.copy()
    carrier = Carrier(loop, context)
    outer = asyncio.current_task(loop)
    if outer is not None:
        asyncio.tasks._leave_task(loop, outer)
    asyncio.tasks._enter_task(loop, carrier)
    try:
        return context.run(step, carrier, context)
    finally:
        asyncio.tasks._leave_task(loop, carrier)
        if outer is not None:
            asyncio.tasks._enter_task(loop, outer)


@types.coroutine
def _first_step() -> Generator[None, None, asyncio.CancelledError | None]:
    try:
        yield
    except asyncio.CancelledError as error:
        return error
    return None


@types.coroutine
def _go_on(
    coroutine: Coroutine[Any, Any, Any], waits_for: Any, thrown: BaseException | None
) -> Generator[Any, None, Any]:
    """Run a started coroutine to its end inside a task, treating its first yield as the task would have."""
    is_future = asyncio.isfuture(waits_for)
    if thrown is not None and is_future and waits_for.cancel(*thrown.args):
        thrown = None  # the cancellation comes back from the future
    if thrown is None and waits_for is None:  # a bare yield asks for one trip around the loop, which it has had
        return (yield from coroutine)
    while True:
        if thrown is not None:
            try:
                waits_for = coroutine.throw(thrown)
            except StopIteration as stop:
                return stop.value
            thrown = None
        elif is_future:
            waits_for._asyncio_future_blocking = True
        try:
            yield waits_for
        except BaseException as error:
            thrown = error
        else:
            return (yield from coroutine)
