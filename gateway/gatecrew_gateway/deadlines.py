"""Finds what has waited too long: past its deadline, or for a service without workers. Swept ten times a second.

A sweep instead of a timer for each packet: what is open is bounded, and a packet costs nothing until it is late.
"""

from __future__ import annotations

from itertools import chain

from .dispatcher import Dispatcher
from .routing.lane import Lane
from .routing.link import Link
from .routing.pool import Pool

NO_WORKER_WAIT_S = 0.5  # packets wait so long for a service's first worker to come back, then they fail


class Deadlines:
    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def sweep(self, now: float) -> None:
        """What no link has yet. `now` is the loop's clock, in seconds."""
        for pool in self._dispatcher.pools.values():
            pool.refusing = pool.down_since is not None and now - pool.down_since > NO_WORKER_WAIT_S
            if pool.load:
                self._sweep_waiting(pool, now)

    def _sweep_waiting(self, pool: Pool, now: float) -> None:
        for queue in (pool.ready, pool.suspects):
            for lane in tuple(queue):
                if pool.refusing:
                    # Open and close events wait for a worker until their own, longer deadline.
                    gone = [packet for packet in lane.waiting if packet.route is not None]
                    lane.waiting = [packet for packet in lane.waiting if packet.route is None]
                    for packet in gone:
                        self._dispatcher.no_worker(packet)
                self._expire_waiting(lane, now)
                if not lane.waiting:
                    queue.remove(lane)

    def sweep_link(self, link: Link, now: float) -> None:
        """What this link has, and what waits in the lanes that it holds. Late answers are dropped; the worker minds its
        own load.
        """
        if 0 < link.rests_until <= now:
            link.rested()
        late = [packet for packet in link.pending.values() if packet.deadline <= now]
        held = {id(packet.lane): packet.lane for packet in link.pending.values() if packet.lane.waiting}
        for packet in late:
            del link.pending[packet.id]
            if packet is link.suspect:
                link.suspect = None
            packet.suspect = ""
        unwritten = [packet for packet in link.queue if packet.deadline <= now]
        if unwritten:
            link.queue = [packet for packet in link.queue if packet.deadline > now]
        for packet in chain(late, unwritten):
            lane = packet.lane
            lane.open -= 1
            self._dispatcher.expire(packet)
            if not lane.open:
                lane.pool.release(lane)
        for lane in held.values():
            if lane.link is link:
                self._expire_waiting(lane, now)
        if late and link.queue and not link.awake:
            link.wake()

    def _expire_waiting(self, lane: Lane, now: float) -> None:
        gone = [packet for packet in lane.waiting if packet.deadline <= now]
        if gone:
            lane.waiting = [packet for packet in lane.waiting if packet.deadline > now]
            for packet in gone:
                self._dispatcher.expire(packet)
