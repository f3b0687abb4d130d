"""One handler after another: what a lane's requests wait in."""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .job import Job


class Lane:
    """A session's requests run one after another; those of one worker, if it does one thing at a time.

    `busy` while a handler of the lane has been started and has not ended. What waits is started in order of arrival.
    """

    __slots__ = ("_waiting", "busy")

    def __init__(self) -> None:
        self.busy = False
        self._waiting: deque[Job] | None = None  # 600 bytes, so only the lanes have one that need it

    def wait(self, job: Job) -> None:
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(job)

    def next(self) -> Job | None:
        """What may start now, if anything."""
        if self.busy or self._waiting is None:
            return None
        job = self._waiting.popleft()
        if not self._waiting:
            self._waiting = None
        return job

    def withdraw(self, jobs: Container[Job]) -> None:
        """Let these wait no more."""
        if self._waiting is not None:
            self._waiting = deque(job for job in self._waiting if job not in jobs) or None
