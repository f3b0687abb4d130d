"""Heartbeats of a listener's clients: who is silent is sent a ping and has to say something; who sends more pings than
any heart beats is not read for the rest of the second, and disconnected if it goes on.

An idle client costs nothing between its checks: it waits in the slot of the time at which the next one is due.
"""

from __future__ import annotations

import asyncio
import sys
from itertools import islice
from typing import TYPE_CHECKING

from ..config import ListenerConfig
from ..counters import Counters

if TYPE_CHECKING:
    from .connection import Connection

SLOT_S = 0.1
STALL_S = 0.5  # a sweep so late says that we stood still, and may have heard nobody
FORGIVEN_S = 1.0  # after that, nobody is called silent
CHECKS_PER_TURN = 16  # of the event loop: many came in one moment, and are due in one
FLOOD_SECONDS = 2  # in a row with too many pings, then the client is disconnected


class Heartbeats:
    """`now` everywhere: the loop's clock, in seconds."""

    def __init__(self, config: ListenerConfig, counters: Counters, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        self._first_s = config.first_packet_timeout_s or config.idle_timeout_s
        self._idle_s = config.idle_timeout_s
        self._most = config.max_pings_per_s or sys.maxsize
        self._counters = counters
        self._due: dict[int, dict[Connection, None]] = {}  # by the number of the slot
        self._ripe: dict[Connection, None] = {}  # to be checked now
        self._loop = loop
        self._swept_at = now
        self._forgiven_until = 0.0
        self._mute: dict[Connection, None] = {}  # did not even answer our ping yet, the oldest first
        self._second_began = now
        self._pings: dict[Connection, int] = {}  # of this second
        self._floods: dict[Connection, int] = {}  # seconds in a row with too many

    def __len__(self) -> int:
        """Of all tables."""
        return (
            len(self._ripe) + len(self._mute) + len(self._pings) + len(self._floods) + sum(map(len, self._due.values()))
        )

    def opened(self, connection: Connection, now: float) -> None:
        if self._first_s:
            self._look_again(connection, now + min(self._first_s, self._idle_s or self._first_s) / 2)

    def lost(self, connection: Connection) -> None:
        slot = self._due.get(connection.slot)
        if slot is not None:
            slot.pop(connection, None)
        self._ripe.pop(connection, None)
        self._mute.pop(connection, None)
        self._pings.pop(connection, None)
        self._floods.pop(connection, None)

    def pinged(self, connection: Connection) -> None:
        """A ping or a pong came."""
        count = self._pings[connection] = self._pings.get(connection, 0) + 1
        if count == self._most + 1:
            connection.throttle()

    def give_place(self) -> bool:
        """Disconnect a client that has never sent anything and left our ping unanswered; False: there is none."""
        while self._mute:
            connection = next(iter(self._mute))
            del self._mute[connection]
            if not connection.heard_at:
                self._counters.silent_clients_cut += 1
                connection.abort()
                return True
        return False

    def sweep(self, now: float) -> None:
        """Every SLOT_S."""
        before, self._swept_at = self._swept_at, now
        if now - before > SLOT_S + STALL_S:
            self._forgiven_until = now + FORGIVEN_S
        for number in range(int(before / SLOT_S), int(now / SLOT_S)):
            if number in self._due:
                if not self._ripe:
                    self._loop.call_soon(self._check_ripe)
                self._ripe.update(self._due.pop(number))
        if now - self._second_began >= 1:
            self._count_floods(now)

    def _check_ripe(self) -> None:
        for connection in tuple(islice(self._ripe, CHECKS_PER_TURN)):
            del self._ripe[connection]
            self._check(connection, self._swept_at)
        if self._ripe:
            self._loop.call_soon(self._check_ripe)

    def _check(self, connection: Connection, now: float) -> None:
        heard_at = connection.heard_at
        wait_s = (self._idle_s if heard_at else self._first_s) / 2
        if not wait_s:
            return
        since = heard_at or connection.session.opened_at
        if connection.is_busy:  # not read, or waiting for its answers: it need not say anything
            if heard_at:
                connection.heard_at = now
            self._look_again(connection, now + wait_s)
        elif connection.pinged_at <= since:
            if now - since < wait_s:
                self._look_again(connection, since + wait_s)
            else:
                connection.pinged_at = now
                connection.ping()
                self._look_again(connection, now + wait_s)
                if not heard_at:
                    self._mute[connection] = None
        elif now < self._forgiven_until:
            self._look_again(connection, self._forgiven_until)
        else:
            self._counters.silent_clients_cut += 1
            connection.silent_for(wait_s * 2)

    def _look_again(self, connection: Connection, at: float) -> None:
        number = connection.slot = max(int(at / SLOT_S), int(self._swept_at / SLOT_S))
        self._due.setdefault(number, {})[connection] = None

    def _count_floods(self, now: float) -> None:
        most = self._most * (now - self._second_began)
        counted, self._pings = self._pings, {}
        before, self._floods = self._floods, {}
        self._second_began = now
        for connection, count in counted.items():
            if count > self._most:
                connection.unthrottle()
            if count > most:
                self._floods[connection] = before.get(connection, 0) + 1
        for connection in [each for each, seconds in self._floods.items() if seconds >= FLOOD_SECONDS]:
            del self._floods[connection]
            self._counters.flooding_clients_cut += 1
            connection.floods(self._most)
