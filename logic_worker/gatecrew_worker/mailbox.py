"""The way from other threads to the loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Mailbox:
    """Calls what threads post on the loop's thread, in order; one wake-up of the loop serves many posts."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._posts: deque[Callable[[], None]] = deque()
        self._woken = False

    def post(self, call: Callable[[], None]) -> None:
        """Call it soon on the loop's thread. From any thread. Nothing happens if the loop has ended."""
        self._posts.append(call)
        # Two threads may both find it unset; one wake-up too many does no harm.
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # closed
                self._posts.clear()

    def _deliver(self) -> None:
        self._woken = False  # before the queue is read: what is posted from now on wakes the loop again
        while self._posts:
            self._posts.popleft()()
