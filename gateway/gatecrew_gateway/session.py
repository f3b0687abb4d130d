"""Sessions, and the one place that knows users and groups. Pure: a session writes to a port that it is given."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from sys import getrefcount
from typing import Protocol

from .codec import encode_goaway
from .config import ListenerConfig
from .routing.lane import Lane
from .routing.pool import Pool

PREFIX_BITS = 28  # of a session id: the gateway process
COUNTER_BITS = 36  # the session in it; never used again, so that an old id can't reach a new session
DIRECT_BYTES = 64 * 1024  # pushes of more than this to one session are written in turns, see net/outflow.py
JOIN_BYTES = 16 * 1024  # packets under this are joined for one write; greater ones are shared by all who get them
MAX_REASON = 1024  # characters of a worker's text that a client gets


class ClientPort(Protocol):
    """The connection as its session sees it."""

    def write(self, data: bytes) -> None: ...
    def unsent(self) -> int:
        """Bytes that wait for the client to read."""
        ...

    def postpone(self) -> None:
        """Much waits in the session's `out`: call its `write_some` in later turns, while the client reads."""
        ...

    def cut_as_slow(self) -> None: ...
    def pinged(self, kind: int, command: int, seq: int, body: bytes) -> None:
        """A ping or a pong came."""
        ...

    def resume(self) -> None:
        """Give the dispatcher what was read and not taken yet, later, and read on."""
        ...

    def close(self) -> None:
        """Close when what was written is out."""


class Session:
    __slots__ = (
        "address",
        "attributes",
        "blocked",
        "bulk",
        "congested",
        "ended",
        "groups",
        "id",
        "in_flight",
        "is_forfeit",
        "lane",
        "lanes",
        "listener",
        "opened_at",
        "out",
        "overdue",
        "paused",
        "peer",
        "port",
        "user",
        "version",
    )

    def __init__(self, id: int, peer: str, listener: ListenerConfig, port: ClientPort, opened_at: float) -> None:
        self.id = id
        self.peer = peer
        self.address = peer.rpartition(":")[0]  # of the client's host
        self.listener = listener  # its name and limits
        self.opened_at = opened_at
        self.port: ClientPort | None = port  # None: the client has gone
        self.user = ""
        self.attributes: Mapping[str, str] | None = None
        self.groups: set[str] | None = None
        self.version = 0  # of what workers are told: user and attributes
        self.in_flight = 0  # accepted and without an outcome
        self.is_forfeit = False  # cut because it held too much: nothing of it is kept, be it accepted
        self.paused = False  # over max_in_flight, or blocked: its port reads nothing
        self.blocked = False  # a service has no room for it now (see admission.py)
        self.overdue = False  # it has been blocked for too long: what it sent is refused now
        self.ended = False  # the client has ended its side: it sends nothing more, and waits for its answers
        self.congested = False  # the client does not keep up: its port reads nothing, and pushes are limited
        self.out: list[bytes] = []  # packets for the client, until the end of the batch, or longer if `bulk` is much
        self.bulk = 0  # bytes of pushes in `out`
        self.lane: Lane | None = None  # the one used last
        self.lanes: dict[Pool, Lane] | None = None  # only where the session uses several services

    def lane_in(self, pool: Pool) -> Lane:
        """The session's lane for this service."""
        lane = self.lane
        if lane is None:
            lane = self.lane = Lane(self, pool)
        elif lane.pool is not pool:
            if self.lanes is None:
                self.lanes = {lane.pool: lane}
            found = self.lanes.get(pool)
            if found is None:
                found = self.lanes[pool] = Lane(self, pool)
            lane = self.lane = found
        return lane

    def all_lanes(self) -> Iterable[Lane]:
        if self.lanes is not None:
            return self.lanes.values()
        return () if self.lane is None else (self.lane,)

    def flush(self) -> None:
        """Write what gathered in `out`, or leave it to the turns to come if pushes make it much; read on if the client
        has few enough packets open.
        """
        out = self.out
        port = self.port
        if port is None:
            self.discard()
            return
        if self.bulk:
            if self.bulk > DIRECT_BYTES or self.congested:
                port.postpone()
                return
            self.bulk = 0
        if len(out) == 1:
            port.write(out[0])
        elif out:
            port.write(b"".join(out))
        out.clear()
        if self.paused and not (self.congested or self.blocked) and self.in_flight <= self.listener.max_in_flight >> 1:
            self.paused = False
            port.resume()

    def write_some(self, most: int) -> int:
        """Write about `most` bytes of `out`, in order, unless the client stops reading; returns how many."""
        out = self.out
        port = self.port
        if port is None:
            self.discard()
            return 0
        written = end = 0
        while end < len(out) and written < most and not self.congested:
            start = end
            size = len(out[start])
            end += 1
            while end < len(out) and size + len(out[end]) <= JOIN_BYTES:
                size += len(out[end])
                end += 1
            port.write(out[start] if end == start + 1 else b"".join(out[start:end]))
            written += size
        del out[:end]
        # Replies between the pushes were not counted into it: then it is too low, never too high.
        self.bulk = max(0, self.bulk - written) if out else 0
        return written

    def write_all(self) -> None:
        """Write everything, however much: nothing can follow."""
        out, self.out, self.bulk = self.out, [], 0
        if self.port is not None:
            for packet in out:
                self.port.write(packet)

    @property
    def held(self) -> int:
        """Bytes of `out`; of a packet that several sessions have, this one's share."""
        total = 0
        for packet in self.out:
            total += len(packet) // max(1, getrefcount(packet) - 2)  # without the loop's own two references
        return total

    def discard(self) -> None:
        """The client has gone."""
        self.out.clear()
        self.bulk = 0

    def __repr__(self) -> str:
        return f"<Session {self.id:x} {self.peer} user={self.user!r} in_flight={self.in_flight}>"


class SessionTable:
    """All sessions of this gateway process."""

    def __init__(self, prefix: int) -> None:
        self.prefix = prefix
        self.by_id: dict[int, Session] = {}
        self._users: dict[str, dict[int, Session]] = {}
        self._groups: dict[str, dict[int, Session]] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self.by_id)

    @property
    def names(self) -> tuple[int, int]:
        """How many users, and how many groups, have a session here."""
        return len(self._users), len(self._groups)

    def open(self, peer: str, listener: ListenerConfig, port: ClientPort, now: float) -> Session:
        self._next += 1
        session = Session(self.prefix << COUNTER_BITS | self._next, peer, listener, port, now)
        self.by_id[session.id] = session
        return session

    def close(self, session: Session) -> None:
        session.port = None
        session.discard()
        del self.by_id[session.id]
        self._unlist(self._users, session.user, session)
        for group in session.groups or ():
            self._unlist(self._groups, group, session)

    def bind(self, session: Session, user: str) -> None:
        """Name the session's user; an empty one unbinds. A user may have many sessions."""
        if session.user != user:
            self._unlist(self._users, session.user, session)
            session.user = user
            session.version += 1
            if user:
                self._users.setdefault(user, {})[session.id] = session

    def set_attributes(self, session: Session, changes: Mapping[str, str]) -> None:
        """Merge; an empty value removes."""
        merged = {**(session.attributes or {}), **changes}
        session.attributes = {name: value for name, value in merged.items() if value} or None
        session.version += 1

    def join(self, session: Session, group: str) -> None:
        if session.groups is None:
            session.groups = set()
        session.groups.add(group)
        self._groups.setdefault(group, {})[session.id] = session

    def leave(self, session: Session, group: str) -> None:
        if session.groups is not None and group in session.groups:
            session.groups.remove(group)
            self._unlist(self._groups, group, session)

    def of_user(self, user: str) -> Collection[Session]:
        return self._users.get(user, {}).values() if user else ()

    def in_group(self, group: str) -> Collection[Session]:
        return self._groups.get(group, {}).values()

    @staticmethod
    def _unlist(index: dict[str, dict[int, Session]], name: str, session: Session) -> None:
        members = index.get(name)
        if members is not None:
            members.pop(session.id, None)
            if not members:
                del index[name]


def dismiss(session: Session, reconnect_after_ms: int, reason: str) -> None:
    """Tell the client to leave, and close when it is told."""
    port = session.port
    if port is not None:
        session.out.append(encode_goaway(reconnect_after_ms, reason[:MAX_REASON]))
        session.write_all()
        port.close()
