"""How many requests a worker may have open at once: a limit that follows how fast the worker answers.

What waits at a worker can go nowhere else; what waits here goes to whoever is free, and what waits too long anywhere is
work for nobody. One request of a batch, its last, is the probe: the time it takes beyond the least time that its
command has taken is time spent in a queue at the worker. While that is short and the limit is what holds packets back,
the limit grows by half; when it is long, the limit shrinks to what would not have been; when the probe's deadline
passes, to half. (Envoy's adaptive concurrency and TCP Vegas do the like.) Fast handlers never see it.

A worker that says how much it can run at once gets little more than that while its handlers are slow. Of any other one
we can't tell a queue from a handler that takes longer today, so only a quarter of the deadline counts as long.
"""

from __future__ import annotations

START = 256  # requests, of a worker that does not say how much it can run at once
FLOOR = 64  # requests, the least for such a worker unless they die there
LEAST = 16  # requests, if they do, and of one that comes back from being out
QUEUED_S = 0.25  # in the queue of a worker that says how much it can run at once: longer is too long
QUEUED_SHARE = 0.05  # the same as a share of the request's deadline, if that is shorter
LONG_SHARE = 0.25  # of the deadline, in the queue of any other worker
TIME_ENOUGH = 2.0  # times what such a request takes at least
SHRINK_SHARE = 0.8  # of what was open, at most
BIND_SHARE = 0.75  # with so much of the limit in use it is what holds packets back
RESERVED_SHIFT = 3  # an eighth of the limit is for requests whose handlers are fast
WATCH_EVERY_S = 0.01  # else: timing every message would cost a lone client a hundredth of its speed


class Limit:
    """`now` counts requests. `most`: what the worker says it will hold. `concurrency`: what it can run at once, 0 if
    that is not known.
    """

    __slots__ = ("_depth", "concurrency", "most", "now", "probe", "probed_at", "watch_at")

    def __init__(self, most: int, concurrency: int = 0) -> None:
        self.most = most
        self.concurrency = concurrency
        self.now = min(most, 2 * concurrency or START)
        self.probe = 0  # id of the request that is timed; 0: none
        self.probed_at = 0.0
        self.watch_at = 0.0  # when a request should be timed again, though the limit holds nothing back
        self._depth = 0  # open when the probe was written, itself included

    def watch(self, id: int, now: float, depth: int) -> None:
        """Time this request, which is written now as the last of `depth`."""
        self.probe = id
        self.probed_at = now
        self.watch_at = now + WATCH_EVERY_S
        self._depth = depth

    def binds(self, depth: int) -> bool:
        """Whether it holds packets back, or nearly, with so many open."""
        return depth >= self.now * BIND_SHARE

    def too_long_s(self, deadline_s: float) -> float:
        """Time in the worker's queue that is too long for a request with such a deadline."""
        return min(QUEUED_S, deadline_s * QUEUED_SHARE) if self.concurrency else deadline_s * LONG_SHARE

    def measured(self, queued_s: float, deadline_s: float) -> None:
        """The probe was so long in the worker's queue, or has been already."""
        self.probe = 0
        long = self.too_long_s(deadline_s)
        if queued_s > long:
            self._shrink(min(SHRINK_SHARE, long / queued_s), self.concurrency or FLOOR)
        elif queued_s < long / 2 and self.binds(self._depth):
            self.now = min(self.most, self.now + max(1, self.now // 2))

    def expired(self, deadline: float, least_s: float | None) -> None:
        """The probe's deadline has passed at the worker. That is the worker's queue if such a request, which takes
        `least_s` (None: nobody knows), had time enough when it was written, and was not alone.
        """
        had_s = deadline - self.probed_at
        self.probe = 0
        if least_s is not None and had_s > TIME_ENOUGH * least_s and self.binds(self._depth):
            self._shrink(0.5, self.concurrency or LEAST)

    @property
    def of_fast(self) -> int:
        """How many of them are for requests whose handlers are fast."""
        return self.now >> RESERVED_SHIFT

    @property
    def of_slow(self) -> int:
        return self.now - self.of_fast

    def idle(self) -> None:
        """The worker has nothing: whatever kept it busy is over. Called ten times a second."""
        start = min(self.most, 2 * self.concurrency or START)
        if self.now < start:
            self.now = min(start, self.now + max(1, self.now // 10))

    def _shrink(self, share: float, floor: int) -> None:
        self.now = min(self.now, max(floor, int(min(self.now, self._depth) * share)))

    def restart(self) -> None:
        """The worker has been out: it begins with little, and shows what it can do."""
        self.now = min(self.now, self.concurrency or LEAST)
        self.probe = 0
