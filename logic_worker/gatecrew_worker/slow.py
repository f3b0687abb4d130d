"""What takes longer than it may, for the log: handlers past their deadlines, and threads that are all busy."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .dispatch import Dispatcher
    from .job import Job
    from .threads import Threads

log = logging.getLogger("gatecrew.worker")

LATE_EVERY_S = 10.0  # at most one line of each kind in this time
ENDLESS_EVERY_S = 60.0
ENDLESS_S = 30.0  # past its deadline: this one does not end any more
BUSY_EVERY_S = 60.0
BUSY_LOOKS = 4  # one after another, that find every thread busy: a burst is nothing to talk about
MOST_LOOKED_AT = 1000  # requests of a link


class Slow:
    """Looks several times a second, so that no request pays for it."""

    def __init__(self, dispatchers: Collection[Dispatcher], threads: Threads) -> None:
        self._dispatchers = dispatchers
        self._threads = threads
        self._known: set[Job] = set()  # still run, and have been told of or will be
        self._late = 0  # not told yet
        self._last: Job | None = None
        self._late_at = self._endless_at = self._busy_at = -math.inf  # when it was told
        self._busy_looks = 0

    def outlived(self, job: Job) -> None:
        """A handler runs past its deadline."""
        if job not in self._known:
            self._known.add(job)
            self._late += 1
            self._last = job

    def look(self) -> None:
        now = time.monotonic()
        late = [
            job
            for dispatcher in self._dispatchers
            for job in itertools.islice(dispatcher.open, MOST_LOOKED_AT)
            if job.has_begun and now > job.request.deadline
        ]
        for job in late:
            self.outlived(job)
        self._known.intersection_update(late)
        self._tell_late(now)
        self._tell_endless(now, [job for job in late if job.in_thread])
        self._tell_busy(now)

    def _tell_late(self, now: float) -> None:
        if self._last is not None and now - self._late_at >= LATE_EVERY_S:
            how = "a thread can't be cancelled: it runs on" if self._last.in_thread else "it is cancelled"
            log.warning("handlers that outlived their deadlines: %d, the last one %s; %s", self._late, self._last, how)
            self._late_at, self._late, self._last = now, 0, None

    def _tell_endless(self, now: float, in_threads: list[Job]) -> None:
        endless = [job for job in in_threads if now - job.request.deadline > ENDLESS_S]
        if endless and now - self._endless_at >= ENDLESS_EVERY_S:
            self._endless_at = now
            oldest = min(endless, key=lambda job: job.request.deadline)
            over_s = now - oldest.request.deadline
            text = "%d of %d threads don't end: the oldest, %s, is past its deadline for %.0f s"
            log.warning(text, len(endless), self._threads.size, oldest, over_s)

    def _tell_busy(self, now: float) -> None:
        self._busy_looks = self._busy_looks + 1 if self._threads.waiting else 0
        if self._busy_looks >= BUSY_LOOKS and now - self._busy_at >= BUSY_EVERY_S:
            self._busy_at = now
            text = "all threads are busy, and %d requests wait for one: threads=%d"
            log.warning(text, self._threads.waiting, self._threads.size)
