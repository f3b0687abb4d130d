"""One handler after another: what a lane's requests wait in."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .dispatch import Waiting


class Lane:
    """A session's requests run one after another; those of one worker, if it does one thing at a time.

    `busy` while a handler of the lane has been started and has not ended. What waits is started in order of arrival.
    """

    __slots__ = ("_waiting", "busy")

    def __init__(self) -> None:
        self.busy = False
        self._waiting: deque[Waiting] | None = None  # 600 bytes, so only the lanes have one that need it

    def wait(self, waiting: Waiting) -> None:
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(waiting)

    def next(self) -> Waiting | None:
        """What may start now, if anything."""
        if self.busy or self._waiting is None:
            return None
        waiting = self._waiting.popleft()
        if not self._waiting:
            self._waiting = None
        return waiting
