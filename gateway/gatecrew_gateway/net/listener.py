"""One listening port: its socket, its limits, its online list."""

from __future__ import annotations

import asyncio
import random
import socket
import sys
from collections import deque
from contextlib import suppress
from itertools import islice

from ..codec import Status, encode_error, encode_goaway
from ..config import ListenerConfig
from ..counters import Counters
from ..dispatcher import Dispatcher
from ..memory import Memory
from ..session import SessionTable
from .acceptor import Acceptor
from .connection import CLOSE_WITHIN_S, Connection
from .crowd import Crowd
from .entrance import FULL, NO_MEMORY, Entrance, House, origin_of
from .heartbeats import Heartbeats
from .outflow import Outflow
from .turns import Turns

SOCKET_SEND_BUFFER = 128 * 1024  # bytes; the kernel's default takes 3 MiB from us before a slow client is noticed
BACKLOG = 1024
SOFT_SHARE = 0.5  # of `unsent_timeout_s`: so long a client may have more than `max_unsent` waiting for it
KEEPALIVE_IDLE_S, KEEPALIVE_EVERY_S, KEEPALIVE_TRIES = 60, 10, 3  # the kernel's own: 2 hours, 75 s, 9
UNACKNOWLEDGED_S = 20.0  # a client that takes no bytes for so long, or `unsent_timeout_s` if that is more, has vanished
REFUSED_KEPT = 8  # refused clients whose sockets are kept for a moment, so that they can read why
DISCARDS_PER_TICK = 64  # reads from clients that are being disconnected
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
        memory: Memory,
        house: House,
    ) -> None:
        self.config = config
        self.dispatcher = dispatcher
        self.counters = counters
        self.outflow = outflow
        self.memory = memory
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time()  # of the last tick
        self.turns = Turns(self.loop)
        self.heartbeats = Heartbeats(config, counters, self.loop)
        self.connections: set[Connection] = set()
        self.unfinished: dict[Connection, float] = {}  # since when a packet has been half here
        self.congested: dict[Connection, float] = {}  # since when the client has not kept up with what we write
        self._over_soft: dict[Connection, float] = {}  # since when more than max_unsent has waited for the client
        self.half_closed: set[Connection] = set()  # the client sends no more, but waits for answers
        self.closing: dict[Connection, float] = {}  # we have closed; when to abort
        self.address = ""
        self._sessions = sessions
        self._held_back: deque[tuple[socket.socket, Connection]] = deque()  # they came while memory was tight
        self._entrance = Entrance(config, house, counters)
        self._crowd = Crowd(config.name, self.connections, counters, self.loop.time)
        self._acceptor: Acceptor | None = None
        self._opening: set[asyncio.Task[None]] = set()
        self._refused: deque[tuple[float, socket.socket]] = deque()  # until when
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
            self._set_inherited(sock)
            sock.setblocking(False)
            sock.bind((self.config.host, self.config.port))
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            where = f"{self.config.host}:{self.config.port}"
            raise OSError(error.errno, f"can't listen on {where} for clients: {error.strerror}") from None
        self.address = f"{self.config.host}:{sock.getsockname()[1]}"
        self._acceptor = Acceptor(self.loop, sock, self.config.max_accepts_per_s, self.counters, self._accepted)

    def _set_inherited(self, sock: socket.socket) -> None:
        """What accepted sockets have from the listening one."""
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_SEND_BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        unacknowledged_ms = int(max(UNACKNOWLEDGED_S, self.config.unsent_timeout_s) * 1000)
        for name, value in (
            ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
            ("TCP_KEEPINTVL", KEEPALIVE_EVERY_S),
            ("TCP_KEEPCNT", KEEPALIVE_TRIES),
            ("TCP_USER_TIMEOUT", unacknowledged_ms),
        ):
            if hasattr(socket, name):  # not every system has them
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    # Coming in.

    def _accepted(self, sock: socket.socket, host: str, port: int) -> None:
        origin = origin_of(host)
        reason = NO_MEMORY if self.memory.refuses else self._entrance.refusal(origin)
        if reason and not (reason is FULL and self._make_room(origin)):
            self._entrance.refused(reason, f"{host}:{port}", self.now)
            self._refuse(sock, encode_error(0, 0, Status.RESOURCE_EXHAUSTED, reason))
            return
        self._entrance.entered(origin)
        connection = Connection(self, f"{host}:{port}", origin)
        if self.memory.is_tight or self._held_back:
            self._held_back.append((sock, connection))
        else:
            self._let_in(sock, connection)

    def _make_room(self, origin: str) -> bool:
        """Let somebody who is here give its place to a newcomer from this address; False: there is nobody."""
        if self.heartbeats.give_place():
            return True
        crowding = self._entrance.crowding
        return crowding not in ("", origin) and self._crowd.give_place(crowding)

    def _let_in(self, sock: socket.socket, connection: Connection) -> None:
        task = self.loop.create_task(self._open(sock, connection))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, sock: socket.socket, connection: Connection) -> None:
        try:
            await self.loop.connect_accepted_socket(lambda: connection, sock)
        except OSError:  # gone already
            sock.close()
        if not connection.was_made:
            self._entrance.left(connection.origin)

    def _refuse(self, sock: socket.socket, packet: bytes) -> None:
        """One write, and no session. The socket is kept for a moment: closing it while the client still sends would
        reset the connection, and the client might not read why. Not many are, or they would use up the descriptors.
        """
        with suppress(OSError):
            sock.send(packet)
            sock.shutdown(socket.SHUT_WR)
        self._refused.append((self.now + CLOSE_WITHIN_S, sock))
        if len(self._refused) > REFUSED_KEPT:
            self._refused.popleft()[1].close()

    # From connections.

    def opened(self, connection: Connection) -> None:
        now = self.loop.time()
        session = connection.session = self._sessions.open(connection.peer, self.config, connection, now)
        self.connections.add(connection)
        self._emptied.clear()
        self.counters.sessions_opened += 1
        self.heartbeats.opened(connection, now)
        self.dispatcher.opened(session)

    def lost(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self.unfinished.pop(connection, None)
        self.half_closed.discard(connection)
        self.congested.pop(connection, None)
        self._over_soft.pop(connection, None)
        self.closing.pop(connection, None)
        self.heartbeats.lost(connection)
        self._entrance.left(connection.origin)
        self.counters.sessions_closed += 1
        session = connection.session
        self._sessions.close(session)
        self.dispatcher.closed(session)
        if not self.connections:
            self._emptied.set()

    def sweep(self, now: float) -> None:
        """Every tick: disconnect who began a packet and did not end it in time, does not read, or says nothing; close
        who has its last answer; end what was closed long enough ago.
        """
        self.now = now
        late = [c for c, since in self.unfinished.items() if now - since > self.config.packet_timeout_s]
        for connection in late:
            del self.unfinished[connection]
            connection.timed_out()
        for connection in [c for c, since in self.congested.items() if now - since > self.config.unsent_timeout_s]:
            del self.congested[connection]
            connection.cut_as_slow()
        self._sweep_over_soft(now)
        for _ in range(min(len(self._held_back), self.memory.newcomers)):  # what they bring is not here yet
            self._let_in(*self._held_back.popleft())
        for connection in [c for c in self.half_closed if not c.has_open]:
            self.half_closed.discard(connection)
            connection.close_at_once()
        self.heartbeats.sweep(now)
        self._sweep_closing(now)

    def _sweep_closing(self, now: float) -> None:
        for connection in [c for c, until in self.closing.items() if now > until]:
            del self.closing[connection]
            connection.close_in_time()
        for connection in tuple(islice(self.closing, DISCARDS_PER_TICK)):
            self.closing[connection] = self.closing.pop(connection)  # others first, the next time
            connection.discard_more()
        while self._refused and self._refused[0][0] < now:
            self._refused.popleft()[1].close()

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
        if self._acceptor is not None:
            self._acceptor.close()

    async def drain(self, spread_s: float, within_s: float, reason: str) -> None:
        """Ask every client to leave, spread over `spread_s` seconds so that they do not all reconnect at once, and
        close each one when nothing of it is open or can be on its way any more. Returns when all are gone or
        `within_s` passed.
        """
        on_the_way_s = min(ON_THE_WAY_S, within_s / 4)
        told: dict[Connection, float] = {}  # since when
        for sock, connection in self._held_back:
            self._entrance.left(connection.origin)
            self._refuse(sock, _goaway(reason))
        self._held_back.clear()
        untold = list(self.connections)
        random.shuffle(untold)
        count = len(untold)
        started = self.loop.time()
        while self.connections or self._opening:
            now = self.loop.time()
            passed = now - started
            if passed > within_s:
                return
            if not untold:  # who had just been accepted when it began has come in since
                untold = [connection for connection in self.connections if connection not in told]
            due = sys.maxsize if passed >= spread_s else int(count * passed / spread_s) + 1
            while untold and len(told) < due:
                connection = untold.pop()
                told[connection] = now
                connection.session.out.append(_goaway(reason))
                connection.session.flush()
            for connection, since in told.items():
                if now - since >= on_the_way_s and connection.is_settled:
                    connection.close()
            await asyncio.sleep(DRAIN_TICK_S)

    async def aclose(self) -> None:
        self.stop_accepting()
        while self._refused:
            self._refused.popleft()[1].close()
        while self._held_back:
            sock, connection = self._held_back.pop()
            sock.close()
            self._entrance.left(connection.origin)
        if self._opening:
            await asyncio.wait(self._opening)
        for connection in tuple(self.connections):
            connection.abort()
        if self.connections:
            await self._emptied.wait()


def _goaway(reason: str) -> bytes:
    """Come again at once, but not all in one moment."""
    return encode_goaway(random.randrange(1000), reason)
