"""Accepts connections on a listening socket: so many in a turn of the loop, so many in a second; the others wait in the
kernel's queue.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from ..counters import Counters

log = logging.getLogger("gatecrew.gateway")

ACCEPTS_PER_TURN = 8
PAUSE_S = 0.05  # when those of this second are used up
NO_DESCRIPTOR_PAUSE_S = 1.0


class Acceptor:
    """Owns the socket, which listens already. `accepted(socket, host, port)` gets each connection."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        max_per_s: int,
        counters: Counters,
        accepted: Callable[[socket.socket, str, int], None],
    ) -> None:
        self._loop = loop
        self._socket = sock
        self._max_per_s = max_per_s
        self._counters = counters
        self._accepted = accepted
        self._allowed = float(max_per_s)  # for now; grows with the time
        self._counted_at = loop.time()
        self._pause: asyncio.TimerHandle | None = None
        self._loop.add_reader(sock, self._accept)

    def close(self) -> None:
        """Listen no more; whoever waits in the queue is reset. May be called again."""
        if self._socket.fileno() < 0:
            return
        if self._pause is not None:
            self._pause.cancel()
        else:
            self._loop.remove_reader(self._socket)
        self._socket.close()

    def _accept(self) -> None:
        now = self._loop.time()
        self._allowed = min(self._max_per_s, self._allowed + (now - self._counted_at) * self._max_per_s)
        self._counted_at = now
        for _ in range(ACCEPTS_PER_TURN):
            if self._allowed < 1:
                self._counters.accepts_delayed += 1
                self._rest(PAUSE_S)
                return
            try:
                client, peer = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:  # gone while it waited
                continue
            except OSError as error:
                log.error("no client can come in: %s", error)
                self._rest(NO_DESCRIPTOR_PAUSE_S)
                return
            self._allowed -= 1
            client.setblocking(False)
            self._accepted(client, *peer[:2])

    def _rest(self, seconds: float) -> None:
        self._loop.remove_reader(self._socket)
        self._pause = self._loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        self._loop.add_reader(self._socket, self._accept)
        self._accept()
