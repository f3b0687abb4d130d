"""The workers of one service, and the lanes that wait for one of them.

Round robin goes by the batch: `wake` gives the turn to the next idle link, which takes what has gathered. A message of
gRPC costs as much as 25 packets in it, so while a batch is unanswered packets gather: until an answer comes, LINGER_S
passed, or there are enough of them, WORTH_A_BATCH for an idle link, FULL_BATCH for a busy one. At low load that is one
packet a turn: the round robin that everyone expects.

A link takes at most its share of what is ready, so that batches do not show: a burst is spread as if each packet had
been given out by itself, and a worker that has more open than others gets less.

Lanes whose first packet has a slow handler wait in a queue of their own, and never have all of a worker's limit:
however many slow requests there are, a fast one finds a place.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from .budget import RetryBudget

if TYPE_CHECKING:
    from .lane import Lane, Pending
    from .link import Link
    from .route import Route

WORTH_A_BATCH = 16  # lanes
FULL_BATCH = 256  # packets
NEVER = 1 << 62
LINGER_S = 0.001
SLOW_QUANTUM = 2  # packets of a lane that go together where handlers are slow and others wait
PROGRESS_TICKS = 20  # over which the rate of answers is measured
LEAST_CROWD = 8  # twice as many requests as may take long without their command being called slow
CALM_S = 1.0  # during which workers have room; then the rate says nothing of what the workers could do
PATIENCE = 0.25  # of the longest deadline: a packet may wait so long


class Pool:
    """`arm_linger(pool)` must call `pool.linger_passed()` after LINGER_S."""

    def __init__(
        self, service: str, max_waiting: int, max_waiting_bytes: int, arm_linger: Callable[[Pool], None]
    ) -> None:
        self.service = service
        self.links: list[Link] = []  # those that may take packets, in turn order
        self.ready: deque[Lane] = deque()
        self.slow: deque[Lane] = deque()  # the same, where the handler of the first packet is slow
        self.suspects: deque[Lane] = deque()  # lanes whose first packet is suspect
        self.detours: deque[Lane] = deque()  # lanes that should go to another worker than the one they avoid
        self.commands: frozenset[int] | None = frozenset()  # None: all
        self.session_events = False
        self.silent: list[Link] = []  # those that are waited for: they keep what they have and get nothing new
        self.load = 0  # packets accepted and not yet answered; session events do not count
        self.stuck = 0  # of the load, what is with workers that answer nothing: the others need not answer it
        self.capacity = max_waiting  # load at which nothing more is accepted
        self.easy = max_waiting >> 1  # load below which everybody's packets are accepted
        self.full_since: float | None = None  # when something could not be accepted, and has not been easy since
        self.answered = 0
        self.judged_at = float("-inf")  # when its workers were compared last
        # How long a session with nothing open will wait for a worker, as far as we know: with a fast, a slow command.
        self.waits_s = self.slow_waits_s = 0.0
        self.can_wait = 0.0  # packets that are answered in the time that they may wait; 0: not known, nothing waits
        self.longest_s = 0.0  # deadline of its routes
        self.called: Link | None = None  # woken to take what is ready, and has not done so yet
        self._last: Link | None = None  # called last
        self.wake_at = 1  # how many lanes must be ready for the next wake; more only while called or lingering
        self.down_since: float | None = 0.0  # since when no link takes packets
        self.refusing = False  # down for so long that new packets are refused at once
        self.budget = RetryBudget()
        # While no worker has room: (time, answered).
        self._progress: deque[tuple[float, int]] = deque(maxlen=PROGRESS_TICKS)
        self._full_at = float("-inf")  # when no worker had room last
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._is_full_of_bytes = False
        self._crowded: set[Route] = set()
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
                if lane.avoid is None:
                    route = packet.route
                    queue = self.ready if route is None or not route.slow else self.slow
                    queue.append(lane)
                    if len(queue) >= self.wake_at:
                        self.wake()
                else:
                    self.detours.append(lane)
                    if self.called is None:
                        self.wake()
        elif lane.held or ((route := packet.route) is not None and not route.joins and self._waits(lane, link, route)):
            lane.held = True
            lane.waiting.append(packet)
        else:
            lane.open += 1
            link.queue.append(packet)
            if not link.awake:
                link.gathered()

    def admit_suspect(self, lane: Lane, packet: Pending) -> None:
        """Take in a packet that is suspect from the start, in a lane of its own."""
        self.load += 1
        lane.waiting.append(packet)
        self.list(lane)
        if self.called is None:
            self.wake()

    def _waits(self, lane: Lane, link: Link, route: Route) -> bool:
        """Whether a lane that has something open should not have this open too: with slow handlers, if others wait, or
        if the worker has enough of those. If it does not wait it counts as open.
        """
        if route.alone or not route.slow:
            return route.alone
        spare = link.spare
        if lane.open < SLOW_QUANTUM:
            # Else sessions would have one open each where there is much to do, and wait in one more queue.
            waits = spare <= -(link.limit.of_fast >> 1)
        else:
            waits = spare <= 0 or bool(self.ready or self.slow)
        if waits:
            return True
        link.slow_open += 1
        return False

    def has_work_for(self, link: Link) -> bool:
        """Whether the link could take some of what waits now: it has one suspect at a time."""
        if link.awake or link.rests_until or not link.can_take:
            return False
        if self.ready or (self.suspects and link.may_have_suspect):
            return True
        if not (self.slow or self.detours) or link.spare <= 0:
            return False
        return bool(self.slow) or any(self.may_detour(lane, link) for lane in self.detours)

    @property
    def has_work(self) -> bool:
        return bool(self.ready or self.slow or self.suspects or self.detours)

    @property
    def listed(self) -> tuple[deque[Lane], ...]:
        """All queues of lanes that wait for a worker."""
        return self.ready, self.slow, self.suspects, self.detours

    @staticmethod
    def is_free(link: Link) -> bool:
        """Whether it could take something now."""
        return link.can_take and not link.rests_until

    def may_detour(self, lane: Lane, link: Link) -> bool:
        """Whether the lane may go to this link: the one that it avoids is better than none."""
        return lane.avoid is not link or not any(self.is_free(other) for other in self.links if other is not link)

    def end_detours(self, link: Link, most: int) -> int:
        """Let the link take lanes that avoid another one, ahead of all others; returns how many."""
        found = list(itertools.islice((lane for lane in self.detours if self.may_detour(lane, link)), most))
        for lane in reversed(found):
            self.detours.remove(lane)
            self._queue_of(lane).appendleft(lane)
        return len(found)

    def share(self, link: Link, lanes: int) -> int:
        """How many of so many lanes this link may take: so many that no link has more open than the others would have
        after taking theirs. At least one.
        """
        count = opened = 0
        for other in self.links:
            if other is link or (other.room > 0 and not other.rests_until):
                count += 1
                opened += len(other.pending)
        level = -(-(opened + lanes) // max(1, count))
        return max(1, level - len(link.pending))

    def probed(self, link: Link, packet: Pending, now: float) -> None:
        """The packet that the link's limit was watching has been answered."""
        if packet.route is None:
            link.limit.probe = 0
            return
        route = packet.route
        took = now - link.limit.probed_at
        route.took(took)
        assert route.least_s is not None
        link.limit.measured(took - route.least_s, route.timeout_s)

    def look_at_probe(self, link: Link, now: float) -> None:
        """Need not wait for the answer of a probe that has been in the worker's queue for too long already."""
        limit = link.limit
        packet = link.pending.get(limit.probe)
        if packet is None or packet.route is None or packet.route.least_s is None:
            return
        queued = now - limit.probed_at - packet.route.least_s
        if queued > limit.too_long_s(packet.route.timeout_s):
            limit.measured(queued, packet.route.timeout_s)

    def wake(self) -> None:
        """Give the turn to the next idle link, or let packets gather. Not while one is `called`."""
        links = self.links
        count = len(links)
        idle = None
        for step in range(count):
            turn = (self._turn + step) % count
            if not links[turn].busy and self.has_work_for(links[turn]):
                idle = links[turn]
                break
        gathered = len(self.ready) + len(self.slow)
        # Only the last batch counts: a slow worker that is long at one must not make the others gather.
        if idle is not None and (gathered >= WORTH_A_BATCH or self._last is None or not self._last.busy):
            self._turn = turn + 1
            self.call(idle)
        elif gathered >= FULL_BATCH:
            self._call_least_loaded()
        elif count:
            self.wake_at = FULL_BATCH if idle is None else WORTH_A_BATCH
            self.linger()

    def call(self, link: Link) -> None:
        """Wake this link to take what has gathered."""
        self.called = self._last = link
        self.wake_at = NEVER
        link.wake()

    def taken(self, link: Link) -> None:
        """The link has taken, or can't any more. Unless another one is called: is there more?"""
        if self.called is None or self.called is link:
            self.called = None
            self.wake_at = 1
            if self.ready or self.slow or self.suspects or self.detours:
                self.wake()

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
        if self.called is None:
            self.wake_at = 1
            if self.has_work:
                self._call_least_loaded()

    def _call_least_loaded(self) -> None:
        # A slow worker must not get its turn only because time passed.
        free = [link for link in self.links if self.has_work_for(link)]
        if free:
            self.call(min(free, key=lambda link: len(link.pending)))

    def release(self, lane: Lane) -> None:
        """The lane's last open packet is answered: it is quiet, or its waiting packets are anyone's."""
        lane.link = None
        lane.held = False
        if lane.waiting:
            self.list(lane)
            if self.called is None:
                self.wake()

    def list(self, lane: Lane, first: bool = False) -> None:
        queue = self._queue_of(lane) if lane.avoid is None else self.detours
        if lane.waiting[0].suspect:
            queue = self.suspects
        if first:
            queue.appendleft(lane)
        else:
            queue.append(lane)

    def _queue_of(self, lane: Lane) -> deque[Lane]:
        route = lane.waiting[0].route
        return self.ready if route is None or not route.slow else self.slow

    def take_out(self, lane: Lane, packets: Collection[Pending]) -> None:
        """These wait no longer. A lane without a link is listed by what is then its first."""
        listed = lane.link is None
        if listed:
            next(queue for queue in self.listed if lane in queue).remove(lane)
        lane.waiting = [packet for packet in lane.waiting if packet not in packets]
        if listed and lane.waiting:
            self.list(lane, first=True)

    def join(self, link: Link) -> None:
        if link in self.silent:
            self.silent.remove(link)
        self.links.append(link)
        self.down_since = None
        self.refusing = False
        self._count_capacity()
        if self.has_work and self.called is None:
            self.wake()

    def leave(self, link: Link, now: float) -> None:
        """The link takes no more packets: it drains or is lost. Calling it twice is fine."""
        if link in self.silent:
            self.silent.remove(link)
        if link in self.links:
            self.links.remove(link)
            self._count_capacity()
            if not self.links:
                self.down_since = now
        if self._last is link:
            self._last = None
        self.taken(link)

    def fell_silent(self, link: Link, now: float) -> None:
        """The link is silent: it takes no more packets, but what it has may still be answered."""
        self.leave(link, now)
        self.silent.append(link)
        self._count_capacity()

    def measure(self, now: float) -> None:
        """Ten times a second: how much may be held, and how long what comes now would wait.

        While packets wait, the rate of answers says how many have a chance. What is with a worker, be it silent, never
        takes the room of others.
        """
        if self.links and (
            self.ready or self.slow or not any(link.spare > 0 and self.is_free(link) for link in self.links)
        ):
            self._full_at = now
        if self.silent or now - self._full_at > CALM_S:  # with a worker that is silent there is less to answer
            self._progress.clear()
        else:
            self._progress.append((now, self.answered))
        for link in self.links:
            link.listen_for_answers()
        self._find_crowded(now)
        waiting = sum(len(packet.body) for queue in self.listed for lane in queue for packet in lane.waiting)
        self._is_full_of_bytes = waiting > self._max_waiting_bytes
        self._count_capacity()
        if self.load < self.easy:
            self.full_since = None

    def _find_crowded(self, now: float) -> None:
        """Commands of which there is more that takes long than half of what is kept for fast ones."""
        aged: Counter[Route] = Counter()
        kept = 0
        for link in itertools.chain(self.links, self.silent):
            kept += link.limit.of_fast
            aged.update(packet.route for packet in link.aged(now) if packet.route is not None)
        crowded = {route for route, count in aged.items() if 2 * count >= max(LEAST_CROWD, kept)}
        for route in self._crowded | crowded:
            route.crowd(route in crowded)
        self._crowded = crowded

    def _count_capacity(self) -> None:
        held = sum(map(self._held_by, self.silent))
        most = now = still = 0
        for link in self.links:
            there = len(link.pending) + len(link.queue)
            if link.answers_nothing:
                still += self._held_by(link)
            most += max(link.limit.most, there)
            now += max(link.limit.now, there)
        self.stuck = held + still
        self.capacity = held + most + self._max_waiting
        self.easy = self.capacity >> 1
        self.waits_s = self.slow_waits_s = self.can_wait = 0.0
        if len(self._progress) > 1:
            (since, before), (until, after) = self._progress[0], self._progress[-1]
            rate = (after - before) / (until - since)
            if rate > 0:
                self.slow_waits_s = (len(self.ready) + len(self.slow)) / rate
                self.waits_s = min(self.slow_waits_s, 2 * len(self.ready) / rate)  # half of what is answered is fast
                self.can_wait = rate * self.longest_s * PATIENCE
                if self.load - self.stuck > self.can_wait:
                    self.easy = min(self.capacity >> 1, held + now)
        if self._is_full_of_bytes:
            self.capacity = self.easy = 0
        elif self.refusing:
            self.easy = 0

    @staticmethod
    def _held_by(link: Link) -> int:
        """Packets that it has, and that wait behind those."""
        lanes = {id(packet.lane): packet.lane for packet in link.pending.values()}
        return len(link.pending) + len(link.queue) + sum(len(lane.waiting) for lane in lanes.values())

    def __repr__(self) -> str:
        waiting = "+".join(str(len(queue)) for queue in self.listed)
        return f"<Pool {self.service} load={self.load}/{self.capacity} waiting={waiting} links={self.links}>"
