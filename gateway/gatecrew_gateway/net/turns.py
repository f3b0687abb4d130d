"""Turns: what a client has sent in excess of its share waits for the event loop's next turns, whoever sent it.

A client that sends as fast as it can would keep the loop to itself: all others wait while its packets are taken. So
each read is taken up to a bound; the rest stays with its connection, which is not read meanwhile and waits here. A turn
of the loop takes a slice of each in order, up to a bound for all together; sockets, timers and workers are between.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .connection import Connection

SLICE_PACKETS = 64  # of one read, and of one connection in a turn
TURN_PACKETS = 128  # of all connections that wait, in one turn: less than a millisecond
LONG_READ_BYTES = 64 * 1024  # who delivers so much at once is not read again in this turn; libuv would, 32 times
PACKET_BYTES = 1024  # of a long read, cost as much as a packet
REST_S = 0.005  # before the next slice of a client of whose last one nothing went to a worker


class Turns:
    """Connections that wait for a turn, each at most once; they mind that themselves."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Connection] = deque()
        self._armed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def rest(self, connection: Connection) -> None:
        """As `wait`, after a rest."""
        self._loop.call_later(REST_S, self.wait, connection)

    def wait(self, connection: Connection) -> None:
        """`connection.take_turn` is called in a later turn of the loop."""
        self._waiting.append(connection)
        if not self._armed:
            self._armed = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        left = TURN_PACKETS
        try:
            for _ in range(len(self._waiting)):  # who has more goes to the end, and is not called again in this turn
                left -= self._waiting.popleft().take_turn()
                if left <= 0:
                    break
        finally:
            self._armed = bool(self._waiting)
            if self._armed:
                self._loop.call_soon(self._run)
