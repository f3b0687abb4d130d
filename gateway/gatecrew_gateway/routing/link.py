"""What a gateway knows of one worker: what is queued for it, what it has not answered, whether it may have more.

Pure: the shell that owns the gRPC calls (net/stream.py, net/unary.py) calls `take` when it was woken and can write, and
hands answers to the dispatcher. Every packet of a link is in exactly one place: `queue` (not written), `pending`, or,
when it has its outcome and the worker has not answered all the same, `expired`: until it does, its slot is taken, since
the worker may be at work on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from enum import StrEnum
from itertools import chain

from .lane import Lane, Pending
from .limit import Limit
from .outliers import Conduct
from .pool import FULL_BATCH, SLOW_QUANTUM, Pool

REST_S = 0.05  # of a worker that gave a packet back; doubled while it goes on, up to MOST_REST_S
MOST_REST_S = 1.0
STILL_TICKS = 5  # of a tenth of a second
AGED_S = 0.1  # with a worker: no fast request is there for so long
QUIET_S = 1.3  # without a word, heartbeats included
HUNG_S = 2.0  # after its deadline, when the worker was told that nobody waits: a handler that still runs hangs


class LinkState(StrEnum):
    READY = "ready"
    SUSPECT = "suspect"  # silent for a while: keeps what it has, gets nothing new
    DRAINING = "draining"
    LOST = "lost"


class Link:
    """`wake` must make the shell call `take` soon. `one_at_a_time`: the worker keeps no order among the packets of a
    lane, so a lane may have only one packet there. `concurrency`: how many handlers it can run at once; 0: not known.
    `incarnation`: of the worker's process, as it says itself.
    """

    def __init__(
        self,
        pool: Pool,
        worker_id: str,
        max_in_flight: int,
        wake: Callable[[], None],
        one_at_a_time: bool = False,
        concurrency: int = 0,
        incarnation: str = "",
    ) -> None:
        self.pool = pool
        self.worker_id = worker_id
        self.incarnation = incarnation
        self.limit = Limit(max_in_flight, concurrency)
        self.one_at_a_time = one_at_a_time
        self.state = LinkState.READY
        self.queue: list[Pending] = []  # packets of lanes bound here, not yet written
        self.pending: dict[int, Pending] = {}  # written and unanswered, in order of writing
        self.expired: dict[int, Pending] = {}  # has its outcome, without an answer; oldest first
        self.cancelled: list[int] = []  # expired, and the worker is to be told
        self.hung = 0  # expired for so long that the worker can be taken to have that much less room
        self.slow_open = 0  # requests with slow handlers that it has; exact ten times a second
        self.suspect: Pending | None = None  # the one suspect packet in flight here
        self.busy = False  # the last batch has had no answer yet
        self.awake = False  # woken, and `take` not called yet
        self.writing = False  # a batch is on its way to the socket: with a frozen worker, for long
        self.sent = 0
        self.sent_when_it_spoke = 0  # `sent` at the worker's last message
        self.spoke_at = float("inf")  # time of that; infinite: nobody counts
        self.is_quiet = False  # it has missed a heartbeat
        self.answered = 0
        self._answered_before = 0  # at the last look
        self._still_ticks = 0
        self.failed = 0  # answered INTERNAL or UNAVAILABLE, or not in time
        self.conduct = Conduct()
        self.is_out = False  # it rests because it fails so much more than others
        self.rests_until = 0.0  # it gets nothing new before; 0: it does not rest
        self._rest_s = 0.0
        self._wake = wake

    def rest(self, now: float) -> None:
        """It gave something back: it is full, and others should have what is new. Its lanes stay."""
        if not self.rests_until:
            self._rest_s = min(max(REST_S, self._rest_s * 2), MOST_REST_S)
            self.rests_until = now + self._rest_s
        self.busy = False  # this is an answer: nobody waits for another one before they call an idle worker

    def put_out(self, until: float) -> None:
        """It fails so much more than the others that it gets nothing for a while; what it has may still be answered."""
        self.is_out = True
        self.rests_until = until
        self.hold()

    def rested(self) -> None:
        self.rests_until = 0.0
        if self.is_out:
            self.is_out = False
            self.limit.restart()
        self._go_on()

    @property
    def room(self) -> int:
        """Requests that it may have on top of those that it has."""
        limit = self.limit
        taken = len(self.pending) + len(self.expired)
        if not self.hung:
            return limit.now - taken
        # What hangs is in nobody's way, as long as there is anything else that the worker can run it in.
        if limit.concurrency and self.hung >= limit.concurrency:
            return 0
        return min(limit.now - taken + self.hung, limit.most - taken)

    @property
    def spare(self) -> int:
        """Room that slow requests may have: not all of the limit, and not what is taken by what is queued."""
        return min(self.room - len(self.queue), self.limit.of_slow - self.slow_open)

    @property
    def can_take(self) -> bool:
        if self.writing:
            return False
        if self.hung:
            return self.room > 0
        return len(self.pending) + len(self.expired) < self.limit.now

    def expire(self, packet: Pending) -> None:
        """A packet that is pending here has its outcome: nobody waits for the worker's answer any more."""
        del self.pending[packet.id]
        self.expired[packet.id] = packet
        self.cancelled.append(packet.id)
        if packet is self.suspect:
            self.suspect = None
        packet.suspect = ""
        if packet.id == self.limit.probe:
            route = packet.route
            # Where the time depends on the body, the least says nothing.
            self.limit.expired(packet.deadline, None if route is None or route.crowded else route.least_s)

    def answered_late(self, id: int) -> None:
        """The worker has answered what nobody waits for, or what it was never asked."""
        packet = self.expired.pop(id, None)
        if packet is not None and packet.is_slow:
            self.slow_open = max(0, self.slow_open - 1)
        if packet is not None and packet.lane.avoid is self:
            packet.lane.avoid = None

    @property
    def may_have_suspect(self) -> bool:
        """One at a time; and a worker that is quiet may hang already, for which the suspect would be blamed."""
        return self.suspect is None and not self.is_quiet

    def listen(self, now: float) -> None:
        self.is_quiet = now - self.spoke_at > QUIET_S

    def count_hung(self, now: float) -> None:
        self.hung = sum(now - packet.deadline > HUNG_S for packet in self.expired.values()) if self.expired else 0

    def aged(self, now: float) -> Iterator[Pending]:
        """What it has had for long."""
        for packet in self.pending.values():  # in order of writing
            if now - packet.written_at < AGED_S:
                break
            yield packet
        yield from self.expired.values()

    def listen_for_answers(self) -> None:
        """Called ten times a second."""
        self._still_ticks = self._still_ticks + 1 if self.pending and self.answered == self._answered_before else 0
        self._answered_before = self.answered

    @property
    def answers_nothing(self) -> bool:
        """It has had something for STILL_TICKS and answered none of it. It is called silent long after that."""
        return self._still_ticks >= STILL_TICKS

    def count_slow(self) -> None:
        """What is slow may have become fast, and the other way round."""
        if self.slow_open or self.pool.slow:
            packets = chain(self.queue, self.pending.values(), self.expired.values())
            self.slow_open = sum(packet.is_slow for packet in packets)

    def wake(self) -> None:
        self.awake = True
        self._wake()

    def gathered(self) -> None:
        """A packet joined the queue: write at once if nothing is unanswered, else gather a while."""
        if not self.busy or len(self.queue) >= FULL_BATCH:
            if self.can_take:
                self.wake()
        else:
            self.pool.linger()

    def take(self, now: float) -> list[Pending]:
        """The next batch to write, now counted as in flight. Empty when there is nothing to send."""
        pool = self.pool
        self.awake = False
        room = self.room
        if self.state is LinkState.LOST or room <= 0:
            pool.taken(self)
            return []
        if room > FULL_BATCH:
            room = FULL_BATCH
        takes_new = self.state is LinkState.READY and not self.rests_until
        # Sessions that are bound here may not have all of the room while others wait: with one place, in turns.
        queue = self.queue
        most = (room + self.sent % 2) // 2 if queue and takes_new and pool.has_work_for(self) else room
        if len(queue) <= most:
            batch, self.queue = queue, []
        else:
            batch = queue[:most]
            del queue[:most]
        if takes_new:
            room -= len(batch)
            if pool.suspects and room > 0 and self.may_have_suspect:
                lane = pool.suspects.popleft()
                self.suspect = lane.waiting.pop(0)
                lane.link, lane.open, lane.held = self, 1, True
                batch.append(self.suspect)
                room -= 1
            if pool.slow or pool.detours:
                room -= self._take_slow(batch, room)
            ready = pool.ready
            if ready and room > 0:
                lanes = len(ready)
                if lanes > 1 and len(pool.links) > 1:
                    route = ready[0].waiting[0].route
                    worth = 0 if route is None else route.batch
                    if lanes > worth:
                        lanes = max(pool.share(self, lanes), worth)
                self._take_lanes(ready, lanes, room, batch)
        if batch:
            pending = self.pending
            for packet in batch:
                packet.written_at = now
                pending[packet.id] = packet
            self.sent += len(batch)
            self.busy = self.writing = True
            limit = self.limit
            if limit.probe:
                if (route := batch[-1].route) is not None and route.least_s is None:
                    self._time_rather(batch[-1], now)
            elif now >= limit.watch_at or limit.binds(len(pending)):
                limit.watch(batch[-1].id, now, len(pending))
            pool.budget.earn(len(batch))
        pool.taken(self)
        return batch

    def _time_rather(self, packet: Pending, now: float) -> None:
        """Nobody has timed its command yet, so it counts as slow: it need not wait until a slow one has been timed."""
        timed = self.pending.get(self.limit.probe)
        if timed is None or timed.route is None or timed.route.least_s is not None:
            self.limit.watch(packet.id, now, len(self.pending))

    def _take_slow(self, batch: list[Pending], room: int) -> int:
        """Add lanes with slow handlers, and those that avoid another worker, to the batch; returns how many packets.
        Where fast ones wait too, half of the room is for those.
        """
        pool = self.pool
        spare = min(room, self.limit.of_slow - self.slow_open)
        if spare <= 0:
            return 0
        lanes = 0
        if pool.slow:
            lanes = pool.share(self, len(pool.slow)) if len(pool.links) > 1 else len(pool.slow)
        if pool.detours:
            lanes += pool.end_detours(self, spare)
        taken = self._take_lanes(pool.slow, lanes, min(spare, -(-room // 2) if pool.ready else room), batch)
        self.slow_open += taken
        return taken

    def _take_lanes(self, queue: deque[Lane], lanes: int, room: int, batch: list[Pending]) -> int:
        """Take up to so many lanes; returns how many packets."""
        before = len(batch)
        one_at_a_time = self.one_at_a_time
        while queue and room > 0 and lanes > 0:
            lanes -= 1
            lane = queue.popleft()
            waiting = lane.waiting
            lane.link = self
            if len(waiting) == 1:
                packet = waiting.pop()
                lane.open = 1
                lane.held = one_at_a_time or ((route := packet.route) is not None and route.alone)
                batch.append(packet)
                room -= 1
            else:
                count = min(self._together(waiting), room)
                route = waiting[0].route
                if route is not None and route.slow:
                    # Where nobody waits now somebody may soon: much of the room stays free.
                    count = min(count, SLOW_QUANTUM if queue else max(SLOW_QUANTUM, room >> 4))
                batch += waiting[:count]
                del waiting[:count]
                lane.open = count
                lane.held = bool(waiting)
                room -= count
        return len(batch) - before

    def _together(self, waiting: list[Pending]) -> int:
        """How many of a lane's waiting packets may be in flight here at once: no slow ones behind a fast one, which
        would be in its place.
        """
        head = waiting[0]
        if self.one_at_a_time or head.alone:
            return 1
        least = len(waiting) if head.is_slow else 1 if head.route else 2  # an event goes with what it is there for
        for count, packet in enumerate(waiting):
            if packet.alone or (count >= least and packet.is_slow):
                return count
        return len(waiting)

    def count_read(self) -> int:
        """Of what is pending, how many the worker may have read: the first so many. A process that died may have read
        all. One that is silent has read no more than a batch since it spoke last: what it reads, it answers.
        """
        if self.state is not LinkState.SUSPECT:
            return len(self.pending)
        since = self.sent - self.sent_when_it_spoke
        return max(0, len(self.pending) - max(0, since - FULL_BATCH))

    def heard(self) -> None:
        """An answer came: what has gathered may go."""
        self.busy = False
        if not self.rests_until:
            self._rest_s = 0.0
        self._go_on()

    def written(self) -> None:
        """The batch that `take` gave is out."""
        self.writing = False
        if not self.busy:
            self._go_on()
        elif self.queue or self.pool.has_work:
            self.pool.linger()  # the last time may have passed meanwhile, when there was nobody to take it

    def _go_on(self) -> None:
        if self.awake or self.state is LinkState.LOST or not self.can_take:
            return
        pool = self.pool
        if self.queue:
            self.wake()
        elif self.state is LinkState.READY and pool.called is None and pool.has_work_for(self):
            pool.call(self)

    def unwrite(self, packets: list[Pending]) -> None:
        """These were written and nobody began them: should the link be lost, they move as if they never had been."""
        for packet in packets:
            if self.pending.pop(packet.id, None) is not None:
                self.queue.append(packet)

    def hold(self) -> None:
        """Give nothing new to this link: lanes finish what is in flight here, then go elsewhere. What is not written
        yet goes back to its lanes.
        """
        queue, self.queue = self.queue, []
        for packet in self.pending.values():
            packet.lane.held = True
        back: dict[int, list[Pending]] = {}
        for packet in queue:
            packet.lane.held = True
            back.setdefault(id(packet.lane), []).append(packet)
        for packets in back.values():
            lane = packets[0].lane
            lane.open -= len(packets)
            lane.take_back(packets)
            if not lane.open:
                self.pool.release(lane)

    def __repr__(self) -> str:
        return f"<Link {self.worker_id} {self.state} queue={len(self.queue)} pending={len(self.pending)}>"
