"""When a listener is full, and one address has more than half of its places: it gives one to a newcomer from elsewhere.

Nothing is kept for it while packets come: the clients of that address are looked through when a place is needed, sorted
by how long they have been silent, and the list serves many newcomers.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from ..counters import Counters
from .entrance import SAY_AGAIN_S

if TYPE_CHECKING:
    from .connection import Connection

log = logging.getLogger("gatecrew.gateway")

LOOK_AGAIN_S = 1.0  # not more often, and
REST = 20  # times as long as it took


class Crowd:
    """`connections`: all of the listener. `clock`: seconds."""

    def __init__(
        self, listener: str, connections: Collection[Connection], counters: Counters, clock: Callable[[], float]
    ) -> None:
        self._listener = listener
        self._connections = connections
        self._counters = counters
        self._clock = clock
        self._origin = ""
        self._silent: deque[tuple[float, Connection]] = deque()  # heard last then, the first are silent longest
        self._look_after = float("-inf")
        self._said_at = float("-inf")

    def give_place(self, origin: str) -> bool:
        """Disconnect that client of this address which has nothing open and was silent longest; False: there is none,
        as far as we know.
        """
        if origin != self._origin:
            self._origin = origin
            self._silent.clear()
        if self._give(origin):
            return True
        now = self._clock()
        if now < self._look_after:
            return False
        found = [(each.heard_at, each) for each in self._connections if each.origin == origin and self._may_go(each)]
        self._silent.extend(sorted(found, key=lambda pair: pair[0] or pair[1].session.opened_at))
        self._look_after = max(now + LOOK_AGAIN_S, now + (self._clock() - now) * REST)
        return self._give(origin)

    @staticmethod
    def _may_go(connection: Connection) -> bool:
        return not (connection.has_open or connection.is_aborted)

    def _give(self, origin: str) -> bool:
        while self._silent:
            heard_at, connection = self._silent.popleft()
            if connection.heard_at == heard_at and connection in self._connections and self._may_go(connection):
                connection.abort()
                self._counters.places_given += 1
                self._say(origin)
                return True
        return False

    def _say(self, origin: str) -> None:
        now = self._clock()
        if now - self._said_at >= SAY_AGAIN_S:
            self._said_at = now
            log.warning(
                "listener %r is full, and %s has most of its places: clients of it that are silent give theirs away",
                self._listener,
                origin,
            )
