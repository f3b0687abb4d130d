"""Threads for handlers that are a plain `def`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from .inplace import Settle
from .mailbox import Mailbox

_Job = tuple[Callable[[], Any], Settle]


class Threads:
    """At most `size` threads, started when there is work for them.

    They are daemons, unlike an executor's: a handler that never returns must not keep a drained worker from ending.
    """

    def __init__(self, size: int, mailbox: Mailbox) -> None:
        self._size = size
        self._mailbox = mailbox
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._started = 0
        self._idle = 0  # threads less jobs: below 0, more threads would help

    def submit(self, call: Callable[[], Any], settle: Settle) -> None:
        """Call in a thread, then `settle(result, error)` on the loop. Only from the loop."""
        if self._idle <= 0 and self._started < self._size:
            self._started += 1
            self._idle += 1
            threading.Thread(target=self._work, name=f"handler-{self._started}", daemon=True).start()
        self._idle -= 1
        self._jobs.put((call, settle))

    def close(self) -> None:
        """Let the threads end when they have done what was submitted."""
        for _ in range(self._started):
            self._jobs.put(None)
        self._started = self._size  # no new ones

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._mailbox.post(self._run(*job))
            del job  # its request, and whatever hangs on it, is not kept until the next one comes

    def _run(self, call: Callable[[], Any], settle: Settle) -> Callable[[], None]:
        result: Any = None
        failure: BaseException | None = None
        try:
            result = call()
        except BaseException as error:
            failure = error

        def settled() -> None:
            self._idle += 1
            settle(result, failure)

        return settled
