"""One listening port: its socket, its limits, its online list."""

from __future__ import annotations

import asyncio
import random
import socket

from ..codec import Status, encode_error, encode_goaway
from ..config import ListenerConfig
from ..counters import Counters
from ..dispatcher import Dispatcher
from ..session import SessionTable
from .connection import Connection
from .outflow import Outflow

SOCKET_SEND_BUFFER = 128 * 1024  # bytes; the kernel's default takes 3 MiB from us before a slow client is noticed
BACKLOG = 1024
SOFT_SHARE = 0.5  # of `unsent_timeout_s`: so long a client may have more than `max_unsent` waiting for it
DRAIN_TICK_S = 0.05
ON_THE_WAY_S = 1.0  # for what a client sent before it read our goaway to come in


class Listener:
    """Accepts clients and owns their connections."""

    def __init__(
        self,
        config: ListenerConfig,
        dispatcher: Dispatcher,
        sessions: SessionTable,
        counters: Counters,
        outflow: Outflow,
        room: int,
    ) -> None:
        """`room`: for sessions of all listeners, as far as file descriptors go."""
        self.config = config
        self.dispatcher = dispatcher
        self.counters = counters
        self.outflow = outflow
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self.unfinished: dict[Connection, float] = {}  # since when a packet has been half here
        self.congested: dict[Connection, float] = {}  # since when the client has not kept up with what we write
        self._over_soft: dict[Connection, float] = {}  # since when more than max_unsent has waited for the client
        self.half_closed: set[Connection] = set()  # the client sends no more, but waits for answers
        self.address = ""
        self._sessions = sessions
        self._room = room
        self._server: asyncio.Server | None = None
        self._emptied: asyncio.Event = asyncio.Event()

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address can't be had.
        """
        family = socket.AF_INET6 if ":" in self.config.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Accepted sockets inherit both.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_SEND_BUFFER)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setblocking(False)
            sock.bind((self.config.host, self.config.port))
            self._server = await self.loop.create_server(lambda: Connection(self), sock=sock, backlog=BACKLOG)
        except OSError as error:
            sock.close()
            where = f"{self.config.host}:{self.config.port}"
            raise OSError(error.errno, f"can't listen on {where} for clients: {error.strerror}") from None
        self.address = f"{self.config.host}:{sock.getsockname()[1]}"

    # From connections.

    def opened(self, connection: Connection, peer: tuple[str, int] | None) -> None:
        config = self.config
        session = connection.session = self._sessions.open(
            f"{peer[0]}:{peer[1]}" if peer else "", config, connection, self.loop.time()
        )
        self.connections.add(connection)
        self._emptied.clear()
        self.counters.sessions_opened += 1
        if len(self.connections) > config.max_sessions or len(self._sessions) > self._room:
            self.counters.sessions_refused += 1
            session.out.append(encode_error(0, 0, Status.RESOURCE_EXHAUSTED, "this listener is full, try later"))
            session.flush()
            connection.close()
        else:
            self.dispatcher.opened(session)

    def lost(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self.unfinished.pop(connection, None)
        self.half_closed.discard(connection)
        self.congested.pop(connection, None)
        self._over_soft.pop(connection, None)
        self.counters.sessions_closed += 1
        session = connection.session
        self._sessions.close(session)
        self.dispatcher.closed(session)
        if not self.connections:
            self._emptied.set()

    def sweep(self, now: float) -> None:
        """Cut clients that began a packet and did not end it in time, or do not read; close those that have their last
        answer.
        """
        late = [c for c, since in self.unfinished.items() if now - since > self.config.packet_timeout_s]
        for connection in late:
            del self.unfinished[connection]
            connection.timed_out()
        for connection in [c for c, since in self.congested.items() if now - since > self.config.unsent_timeout_s]:
            del self.congested[connection]
            connection.cut_as_slow()
        self._sweep_over_soft(now)
        for connection in [c for c in self.half_closed if not c.has_open]:
            self.half_closed.discard(connection)
            connection.close_at_once()

    def _sweep_over_soft(self, now: float) -> None:
        """A burst is allowed, a habit is not: cut those for whom too much has waited for too long."""
        over = self._over_soft
        most = self.config.max_unsent
        for connection in self.congested:
            if connection.waiting > most:
                over.setdefault(connection, now)
        for connection, since in tuple(over.items()):
            if connection.waiting <= most:
                del over[connection]
            elif now - since > self.config.unsent_timeout_s * SOFT_SHARE and connection in self.congested:
                del over[connection], self.congested[connection]
                connection.cut_as_slow()

    # Leaving.

    def stop_accepting(self) -> None:
        if self._server is not None:
            self._server.close()

    async def drain(self, spread_s: float, within_s: float, reason: str) -> None:
        """Ask every client to leave, spread over `spread_s` seconds so that they do not all reconnect at once, and
        close each one when nothing of it is open or can be on its way any more. Returns when all are gone or
        `within_s` passed.
        """
        on_the_way_s = min(ON_THE_WAY_S, within_s / 4)
        told: dict[Connection, float] = {}  # since when
        untold = list(self.connections)
        random.shuffle(untold)
        count = len(untold)
        started = self.loop.time()
        while self.connections:
            now = self.loop.time()
            passed = now - started
            if passed > within_s:
                return
            due = count if passed >= spread_s else int(count * passed / spread_s) + 1
            while untold and len(told) < due:
                connection = untold.pop()
                told[connection] = now
                connection.session.out.append(encode_goaway(random.randrange(1000), reason))
                connection.session.flush()
            for connection, since in told.items():
                if now - since >= on_the_way_s and connection.is_settled:
                    connection.close()
            await asyncio.sleep(DRAIN_TICK_S)

    async def aclose(self) -> None:
        self.stop_accepting()
        for connection in tuple(self.connections):
            connection.abort()
        if self.connections:
            await self._emptied.wait()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None
