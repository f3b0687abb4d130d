"""Turns of the loop for what would be too much for one: pushes to many sessions, and much for one of them.

Each turn writes to some connections, a share of bytes each, in rotation, and lets one of those go on who wait in
`turn`. Between two turns the loop serves everybody else. What waits is in the sessions' `out`; FanOut bounds it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from ..actions import FanOut
from ..session import Session

TURN_BYTES = 256 * 1024  # the kernel takes them in a quarter of a millisecond
TURN_CONNECTIONS = 64
CATCH_UP_S = 0.001
SHARE_BYTES = 128 * 1024  # of one connection in a turn


class Pourable(Protocol):
    is_pouring: bool  # ours: it is in the queue

    def pour(self, most: int) -> int:
        """Write about so many bytes of what waits; returns how many."""
        ...

    @property
    def can_pour(self) -> bool:
        """Something waits, and the client reads."""
        ...


class Outflow:
    """Of one gateway process. Runs only while there is something to do."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Pourable] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._due = False

    def add(self, connection: Pourable) -> None:
        """Write what waits for it, in the turns to come."""
        if not connection.is_pouring:
            connection.is_pouring = True
            self._queue.append(connection)
            self._schedule()

    def flush(self, touched: list[Session]) -> None:
        """Write what a batch left: at once, or in turns if the sessions are many. Empties the list."""
        if len(touched) <= TURN_CONNECTIONS:
            for session in touched:
                session.flush()
        else:
            for session in touched:
                if session.port is not None:
                    session.port.postpone()
        touched.clear()

    async def turn(self, given: int) -> None:
        """Wait for a turn: one of those who wait has it at a time, so that many are no more work for it than one. Who
        could do nothing in the last one (`given` 0) waits for clients: a little longer, so that we do not spin.
        """
        if not given:
            await asyncio.sleep(CATCH_UP_S)
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        self._schedule()
        await waiter

    async def finish(self, fan_out: FanOut) -> None:
        """Give a push to all its sessions."""
        touched: list[Session] = []
        given = 1
        while not fan_out.is_done:
            await self.turn(given)
            given = fan_out.go_on(touched, self._loop.time())
            self.flush(touched)

    def _schedule(self) -> None:
        if not self._due:
            self._due = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._due = False
        queue = self._queue
        waiters = self._waiters
        left = TURN_BYTES
        try:
            for _ in range(min(len(queue), TURN_CONNECTIONS)):
                connection = queue.popleft()
                connection.is_pouring = False
                left -= connection.pour(SHARE_BYTES)
                if connection.can_pour:
                    connection.is_pouring = True
                    queue.append(connection)
                if left <= 0:
                    break
            while waiters:
                waiter = waiters.popleft()
                if not waiter.done():
                    waiter.set_result(None)
                    break
        finally:
            if queue or waiters:
                self._schedule()
