"""Who may come in while a service has more to do than it can: nobody takes the room of others.

A packet comes in while its service has less than half of what it may hold. Above half a session may have an eighth of
what is still free open, so that however many are greedy there is room left for more (the dynamic threshold of Choudhury
and Hahne, 1998). Where clients come from several addresses, an address may have as much open as is free, and its
sessions an eighth of what that leaves. While more packets are open than are answered in a quarter of the deadline,
that many are shared by all sessions that have something open: the rest would wait for nothing.

What may not come in is left with its connection, which is not read meanwhile, for WAIT_S at most: a freeze or a rush is
over by then. After that it is refused, and so is at once what comes while the service has been full for so long, and
what would wait past half of its deadline.

Pure: time is an argument.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from enum import Enum

from .routing.pool import Pool
from .routing.route import Route
from .session import Session, SessionTable

WAIT_S = 0.5  # that a packet may wait outside before it is refused
COUNT_EVERY_S = 0.1  # what each address has open, while it matters; with very many sessions less often:
COUNT_REST = 10  # times as long as it took
HOPELESS = 0.5  # of its deadline: who would wait longer for a worker is refused at once
LOOK_AT = 64  # blocked sessions at once: an answer must not cost a walk through all of them


class Verdict(Enum):
    ENTER = 0
    WAIT = 1
    REFUSE = 2


class Admission:
    """`blocked`: the sessions that wait outside of each full service, longest first, and since when. `timer`: seconds,
    by which we see what counting takes.
    """

    def __init__(self, sessions: SessionTable, timer: Callable[[], float] = time.perf_counter) -> None:
        self.blocked: dict[Pool, dict[Session, float]] = {}
        self._sessions = sessions
        self._timer = timer
        self._count_at = 0.0  # not before
        self._active = 0  # sessions that have something open
        self._open: Counter[str] = Counter()  # address -> packets that its sessions have open

    def judge(self, session: Session, route: Route, opened: int, now: float) -> Verdict:
        """Whether a packet of the session may come in, which has `opened` packets open."""
        pool = route.pool
        if pool.refusing or (not pool.links and pool.load >= pool.capacity):
            return Verdict.REFUSE
        if (pool.slow_waits_s if route.slow else pool.waits_s) > route.timeout_s * HOPELESS:
            return Verdict.REFUSE
        # A quarter on top is for those who have nothing open.
        if pool.load >= pool.capacity + (0 if opened else pool.capacity >> 2):
            if pool.full_since is None:
                pool.full_since = now
            if now - pool.full_since > WAIT_S:
                return Verdict.REFUSE
        elif opened < self._share(session, pool, now):
            self._open[session.address] += 1
            return Verdict.ENTER
        return Verdict.REFUSE if session.overdue else Verdict.WAIT

    def _share(self, session: Session, pool: Pool, now: float) -> int:
        """Of packets that the session may have open, one at least."""
        if now >= self._count_at:
            self._count(now)
        free = pool.capacity - pool.load
        share = free
        if pool.load >= pool.capacity >> 1:
            if len(self._open) > 1 or session.address not in self._open:
                free -= self._open[session.address]
            share = free >> 3
        if 0 < pool.can_wait < pool.load - pool.stuck:
            share = min(share, int(pool.can_wait / max(1, self._active)))
        return max(share, 1)

    def _count(self, now: float) -> None:
        began = self._timer()
        self._active = 0
        self._open.clear()
        for session in self._sessions.by_id.values():
            if session.in_flight:
                self._active += 1
                self._open[session.address] += session.in_flight
        self._count_at = now + max(COUNT_EVERY_S, COUNT_REST * (self._timer() - began))

    def block(self, session: Session, pool: Pool, now: float) -> None:
        """Its port is not read, and keeps what it has read, until `resume` or `sweep` lets it."""
        session.paused = session.blocked = True
        self.blocked.setdefault(pool, {})[session] = now

    def resume(self, pool: Pool, now: float) -> None:
        """There may be room: let those in who have waited longest and are within their share."""
        waiting = self.blocked[pool]
        for session in list(itertools.islice(waiting, LOOK_AT)):
            if pool.load >= pool.capacity + (pool.capacity >> 2):
                return
            if session.in_flight < self._share(session, pool, now):
                self._release(session, pool)
            else:
                waiting[session] = waiting.pop(session)  # others have their turn first

    def _release(self, session: Session, pool: Pool, overdue: bool = False) -> None:
        waiting = self.blocked[pool]
        del waiting[session]
        if not waiting:
            del self.blocked[pool]
        session.blocked = False
        if session.port is not None:
            session.paused = False
            session.overdue = overdue
            session.port.resume()
            session.overdue = False

    def sweep(self, now: float) -> None:
        """Let in whom there is room for, and refuse what has waited for too long."""
        for pool, waiting in tuple(self.blocked.items()):
            for session, since in tuple(waiting.items()):
                if session.port is None:
                    self._release(session, pool)
                elif now - since > WAIT_S:
                    self._release(session, pool, overdue=True)
            if pool in self.blocked:
                self.resume(pool, now)
