"""Finds what has waited too long: past its deadline, or for a service without workers. Swept ten times a second.

A sweep instead of a timer for each packet: what is open is bounded, and a packet costs nothing until it is late.
"""

from __future__ import annotations

import logging
from itertools import chain

from .dispatcher import Dispatcher
from .routing import outliers
from .routing.lane import Lane, Pending
from .routing.link import Link
from .routing.pool import Pool

log = logging.getLogger("gatecrew.gateway")

# A suspect does not wait for its turn with less time left than this share of its deadline, or
HURRIED_SHARE = 0.25
TIMES_ENOUGH = 3  # so many times what its command takes at least
NO_WORKER_WAIT_S = 0.5  # packets wait so long for a service's first worker to come back, then they fail


class Deadlines:
    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def sweep(self, now: float) -> None:
        """What no link has yet. `now` is the loop's clock, in seconds."""
        for pool in self._dispatcher.pools.values():
            pool.refusing = pool.down_since is not None and now - pool.down_since > NO_WORKER_WAIT_S
            if pool.has_work:
                self._sweep_waiting(pool, now)
            pool.measure(now)
            if now - pool.judged_at >= outliers.EVERY_S:
                pool.judged_at = now
                self._put_out(pool, now)
            if pool.has_work and pool.called is None:
                pool.wake()  # a worker's room may have grown with what is given up
        self._dispatcher.admission.sweep(now)

    def _put_out(self, pool: Pool, now: float) -> None:
        for link, seconds in outliers.find(pool.links, now):
            log.warning(
                "worker %s fails %.0f %% of its requests, others do not: it gets nothing for %.0f s",
                link.worker_id,
                link.conduct.share * 100,
                seconds,
                extra={"worker": link.worker_id},
            )
            self._dispatcher.counters.workers_ejected += 1
            link.put_out(now + seconds)

    def _sweep_waiting(self, pool: Pool, now: float) -> None:
        gone: list[Pending] = []
        for queue in pool.listed:
            for lane in queue:
                gone += self._remove(lane, now)
            if not all(lane.waiting for lane in queue):
                kept = [lane for lane in queue if lane.waiting]
                queue.clear()
                queue.extend(kept)
        self._clear_suspects(pool, now)
        if gone:
            self._list_again(pool)
        # Last, when every list is whole again: a session that hears of an end may send more.
        for packet in gone:
            self._end(packet, now)

    def _end(self, packet: Pending, now: float) -> None:
        if packet.is_unheard or packet.deadline <= now:
            self._dispatcher.expire(packet, now)
        elif packet.route is None:
            self._dispatcher.never_told(packet)
        elif packet.lane.pool.refusing:
            self._dispatcher.no_worker(packet)
        else:
            self._dispatcher.crowded_out(packet)

    @staticmethod
    def _list_again(pool: Pool) -> None:
        """Lanes whose first packet is a suspect now: it travels alone."""
        for queue in (pool.ready, pool.slow, pool.detours):
            changed = [lane for lane in queue if lane.waiting[0].suspect]
            for lane in changed:
                queue.remove(lane)
                pool.list(lane)

    @staticmethod
    def _clear_suspects(pool: Pool, now: float) -> None:
        """Suspects travel one at a time for each link. Where handlers are slow and a worker had much in hand, most
        would be past their deadlines before their turn: those that have little time left go with all others.
        """
        for lane in pool.suspects:
            for packet in lane.waiting:
                route = packet.route
                if route is None or not packet.resend:  # an event has time; what may not be sent again is a replay
                    continue
                if packet.deadline - now < max(route.timeout_s * HURRIED_SHARE, TIMES_ENOUGH * (route.least_s or 0.0)):
                    packet.suspect = ""
        cleared = [lane for lane in pool.suspects if not lane.waiting[0].suspect]
        if cleared:
            kept = [lane for lane in pool.suspects if lane.waiting[0].suspect]
            pool.suspects.clear()
            pool.suspects.extend(kept)
            for lane in cleared:
                pool.list(lane)

    def _remove(self, lane: Lane, now: float) -> list[Pending]:
        """Take out of a lane what need not wait any longer."""
        waiting = lane.waiting
        if lane.is_untold:
            lane.waiting = []
            return waiting
        # Open and close events wait for a worker until their own, longer deadline.
        refusing = lane.pool.refusing
        # Where the service is crowded, who has ended its side goes first: whoever connects, asks and leaves at once
        # could hold as many shares as it likes.
        if lane.session.ended and lane.pool.load >= lane.pool.capacity >> 1:
            refusing = True
        gone = [p for p in waiting if p.deadline <= now or p.is_unheard or (refusing and p.route is not None)]
        if gone:
            ids = {packet.id for packet in gone}
            lane.waiting = [packet for packet in waiting if packet.id not in ids]
        return gone

    def sweep_link(self, link: Link, now: float) -> None:
        """What this link has, and what waits in the lanes that it holds. The worker is told of what nobody waits for
        any more; late answers are dropped.
        """
        if 0 < link.rests_until <= now:
            link.rested()
        link.count_hung(now)
        link.count_slow()
        link.listen(now)
        link.pool.look_at_probe(link, now)
        if not (link.pending or link.expired or link.is_out):
            link.limit.idle()
        late = [packet for packet in link.pending.values() if packet.deadline <= now]
        left = [packet for packet in link.pending.values() if packet.is_unheard and packet.deadline > now]
        held = {id(packet.lane): packet.lane for packet in link.pending.values() if packet.lane.waiting}
        unwritten = [packet for packet in link.queue if packet.deadline <= now or packet.is_unheard]
        if unwritten:
            link.queue = [packet for packet in link.queue if packet.deadline > now and not packet.is_unheard]
        # Once for each session: one that asks for what takes too long is no sign of a sick worker.
        link.failed += len({id(packet.lane.session) for packet in late})
        for packet in late:
            link.expire(packet)
            packet.lane.avoid = link
        for packet in left:
            link.expire(packet)
        for packet in chain(late, left, unwritten):
            lane = packet.lane
            lane.open -= 1
            self._dispatcher.expire(packet, now)
            if not lane.open:
                lane.pool.release(lane)
        for lane in held.values():
            if lane.link is link:
                self._expire_waiting(lane, now)
        if (link.cancelled or (late and link.queue)) and not link.awake:
            link.wake()

    def _expire_waiting(self, lane: Lane, now: float) -> None:
        for packet in self._remove(lane, now):
            self._end(packet, now)
