"""Threads for handlers that are a plain `def`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from .mailbox import Mailbox

if TYPE_CHECKING:
    from .job import Job


class Threads:
    """At most `size` threads, started when there is work for them.

    They are daemons, unlike an executor's: a handler that never returns must not keep a drained worker from ending.
    """

    def __init__(self, size: int, mailbox: Mailbox) -> None:
        self.size = size
        self._mailbox = mailbox
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._started = 0
        self._idle = 0  # threads less jobs: below 0, more threads would help

    @property
    def waiting(self) -> int:
        """How many jobs wait for a thread."""
        return max(0, -self._idle)

    def submit(self, job: Job) -> None:
        """`call` it in a thread, then `settle` it on the loop. Only from the loop."""
        if self._idle <= 0 and self._started < self.size:
            self._started += 1
            self._idle += 1
            threading.Thread(target=self._work, name=f"handler-{self._started}", daemon=True).start()
        self._idle -= 1
        self._jobs.put(job)

    def withdraw(self, jobs: Container[Job]) -> set[Job]:
        """Take those back that no thread has begun, and return them. Only from the loop."""
        waiting: list[Job | None] = []
        if jobs:
            try:
                while True:
                    waiting.append(self._jobs.get_nowait())
            except Empty:
                pass
        withdrawn = {job for job in waiting if job is not None and job in jobs}
        self._idle += len(withdrawn)
        for job in waiting:
            if job is None or job not in withdrawn:
                self._jobs.put(job)
        return withdrawn

    def close(self) -> None:
        """Let the threads end when they have done what was submitted."""
        for _ in range(self._started):
            self._jobs.put(None)
        self._started = self.size  # no new ones

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._mailbox.post(self._run(job))
            del job  # its request, and whatever hangs on it, is not kept until the next one comes

    def _run(self, job: Job) -> Callable[[], None]:
        result: Any = None
        failure: BaseException | None = None
        try:
            result = job.call()
        except BaseException as error:
            failure = error

        def settled() -> None:
            self._idle += 1
            job.settle(result, failure)

        return settled
