"""The workers of one service, and the lanes that wait for one of them.

Round robin goes by the batch: `wake` gives the turn to the next idle link, which takes what has gathered. While every
link has an unanswered batch, packets gather until one answers, or LINGER passed, or a full batch is there. At low load
that is one packet a turn: the round robin that everyone expects.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from .budget import RetryBudget

if TYPE_CHECKING:
    from .lane import Lane, Pending
    from .link import Link

FULL_BATCH = 256  # packets
LINGER_S = 0.001


class Pool:
    """`arm_linger(pool)` must call `pool.linger_passed()` after LINGER_S."""

    def __init__(self, service: str, max_waiting: int, arm_linger: Callable[[Pool], None]) -> None:
        self.service = service
        self.links: list[Link] = []  # those that may take packets, in turn order
        self.ready: deque[Lane] = deque()
        self.suspects: deque[Lane] = deque()  # lanes whose first packet is suspect
        self.commands: frozenset[int] | None = frozenset()  # None: all
        self.session_events = False
        self.load = 0  # packets accepted and not yet answered
        self.capacity = max_waiting  # load at which packets are refused
        self.awake = False  # a link has been woken and has not yet taken
        self.down_since: float | None = 0.0  # since when no link takes packets
        self.refusing = False  # down for so long that new packets are refused at once
        self.budget = RetryBudget()
        self._max_waiting = max_waiting
        self._turn = 0
        self._lingering = False
        self._arm_linger = arm_linger

    def admit(self, lane: Lane, packet: Pending) -> None:
        """Take an accepted packet in: to its lane's link if it has one, else to whoever is next."""
        self.load += 1
        link = lane.link
        if link is None:
            waiting = lane.waiting
            waiting.append(packet)
            if len(waiting) == 1:
                self.ready.append(lane)
                if not self.awake:
                    self.wake()
        elif lane.held or (packet.route is not None and packet.route.alone):
            lane.held = True
            lane.waiting.append(packet)
        else:
            lane.open += 1
            link.queue.append(packet)
            if not link.awake:
                link.gathered()

    def has_work_for(self, link: Link) -> bool:
        """Whether the link could take some of what waits now: it has one suspect at a time."""
        return link.can_take and not link.awake and bool(self.ready or (self.suspects and link.suspect is None))

    def wake(self) -> None:
        """Give the turn to the next idle link; if none is idle, let packets gather."""
        links = self.links
        count = len(links)
        for step in range(count):
            turn = (self._turn + step) % count
            link = links[turn]
            if not link.busy and self.has_work_for(link):
                self._turn = turn + 1
                self.awake = True
                link.wake()
                return
        if len(self.ready) >= FULL_BATCH:
            self._wake_least_loaded()
        elif count:
            self.linger()

    def linger(self) -> None:
        """Look again after LINGER_S, if nobody has answered by then."""
        if not self._lingering:
            self._lingering = True
            self._arm_linger(self)

    def linger_passed(self) -> None:
        self._lingering = False
        for link in self.links:
            if link.queue and not link.awake and link.can_take:
                link.wake()
        if (self.ready or self.suspects) and not self.awake:
            self._wake_least_loaded()

    def _wake_least_loaded(self) -> None:
        # A slow worker must not get its turn only because time passed.
        free = [link for link in self.links if self.has_work_for(link)]
        if free:
            link = min(free, key=lambda link: len(link.pending))
            self.awake = True
            link.wake()

    def release(self, lane: Lane) -> None:
        """The lane's last open packet is answered: it is quiet, or its waiting packets are anyone's."""
        lane.link = None
        lane.held = False
        if lane.waiting:
            self.list(lane)
            if not self.awake:
                self.wake()

    def list(self, lane: Lane, first: bool = False) -> None:
        queue = self.suspects if lane.waiting[0].suspect else self.ready
        if first:
            queue.appendleft(lane)
        else:
            queue.append(lane)

    def join(self, link: Link) -> None:
        self.links.append(link)
        self.down_since = None
        self.refusing = False
        self._count_capacity()
        if self.ready or self.suspects:
            self.awake = True
            link.wake()

    def leave(self, link: Link, now: float) -> None:
        """The link takes no more packets: it drains or is lost. Calling it twice is fine."""
        if link in self.links:
            self.links.remove(link)
            self._count_capacity()
            if not self.links:
                self.down_since = now
        if link.awake:
            self.awake = any(other.awake for other in self.links)
        if (self.ready or self.suspects) and not self.awake:
            self.wake()

    def _count_capacity(self) -> None:
        self.capacity = self._max_waiting + sum(link.max_in_flight for link in self.links)

    def __repr__(self) -> str:
        return f"<Pool {self.service} load={self.load}/{self.capacity} ready={len(self.ready)} links={self.links}>"
