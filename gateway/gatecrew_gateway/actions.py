"""What workers do to sessions: push, bind, set attributes, join, leave, kick. On this gateway's sessions only."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection

from gatecrew.v1 import worker_pb2

from .codec import Kind, encode
from .config import MAX_PACKET, PACKET_OVERHEAD
from .counters import Counters
from .session import DIRECT_BYTES, Session, SessionTable, dismiss

MAX_NAME = 256  # characters of a user, group or attribute name
NAME_BYTES = 24  # of a session in a query's result, beside its user's characters, of 4 bytes at most
MAX_ATTRIBUTES = 64  # of a session
MAX_GROUPS = 1024  # of a session
SLICE = 1000  # sessions that get a push in one turn of the loop: half a millisecond
PACE = 10_000_000  # bytes a second that a client must read to be waited for by those who push to it
BURST = 4  # times `max_unsent`: what may wait for a client that falls behind, for a short time


class ActionError(ValueError):
    """An action that can't be meant; the text says why."""


class FanOut:
    """One push on its way to its sessions, who share the packet. It may take several turns of the loop: until
    `is_done`, call `go_on` in later ones, and do nothing that must come after it.

    For a session for which more than BURST times its `max_unsent` waits, the push waits too: while the client reads
    and waits for us, as long as that takes, since we write to whoever reads; while it does not, for a moment (PACE),
    then it is cut. So one who reads well can be pushed any amount, and one who does not hardly delays the worker.
    """

    __slots__ = ("_at", "_cut_at", "_packet", "_skip", "_targets", "_waiting", "reached")

    def __init__(self, packet: bytes, targets: list[Session], skip: int, now: float) -> None:
        self.reached = 0
        self._packet = packet
        self._targets = targets
        self._skip = skip  # the id of a session
        self._cut_at = now + len(packet) / PACE
        self._at = 0
        self._waiting: list[Session] = []  # their turn comes again

    @property
    def is_done(self) -> bool:
        return self._at >= len(self._targets)

    def go_on(self, touched: list[Session], now: float) -> int:
        """Give it to SLICE more sessions at most; returns to how many it did."""
        before = self.reached
        packet = self._packet
        size = len(packet)
        end = self._at + SLICE
        for session in self._targets[self._at : end]:
            port = session.port
            if port is None or session.id == self._skip:
                continue
            if session.congested or session.bulk > DIRECT_BYTES:
                most = BURST * session.listener.max_unsent
                if session.bulk > most or (session.congested and port.unsent() + session.bulk > most):
                    if session.congested and now >= self._cut_at:
                        port.cut_as_slow()
                    else:
                        self._waiting.append(session)
                    continue
            if not session.out:
                touched.append(session)
            session.out.append(packet)
            session.bulk += size
            self.reached += 1
        self._at = end
        if self.is_done and self._waiting:
            self._targets, self._waiting, self._at = self._waiting, [], 0
        return self.reached - before


class Actions:
    def __init__(self, sessions: SessionTable, counters: Counters, clock: Callable[[], float]) -> None:
        self._sessions = sessions
        self._counters = counters
        self._clock = clock

    def apply(self, action: worker_pb2.Action, touched: list[Session]) -> int | FanOut:
        """Do it; returns how many sessions it reached, or a push that may not be done yet. Sessions with something to
        write are added to `touched`.

        Raises:
            ActionError: nothing was done.
        """
        match action.WhichOneof("action"):
            case "push":
                return self.push(action.push, touched)
            case "bind":
                return self.bind(action.bind)
            case "set_attributes":
                return self.set_attributes(action.set_attributes)
            case "join":
                return self.join(action.join)
            case "leave":
                return self.leave(action.leave)
            case "kick":
                return self.kick(action.kick)
        raise ActionError("an action without content, or of a newer contract")

    def push(self, push: worker_pb2.Push, touched: list[Session]) -> FanOut:
        if push.command > 0xFFFF or len(push.body) > MAX_PACKET - PACKET_OVERHEAD:
            raise ActionError(f"push of command {push.command} and {len(push.body)} bytes does not fit into a packet")
        packet = encode(Kind.PUSH, push.command, 0, push.body)
        now = self._clock()
        fan_out = FanOut(packet, list(self._targets(push)), push.except_session, now)
        fan_out.go_on(touched, now)
        self._counters.pushes += 1
        return fan_out

    def pushed(self, fan_out: FanOut) -> int:
        """Count a push that is done; returns how many sessions it reached."""
        self._counters.pushes_delivered += fan_out.reached
        if not fan_out.reached:
            self._counters.pushes_no_session += 1
        return fan_out.reached

    def _targets(self, action: worker_pb2.Push | worker_pb2.Query) -> Collection[Session]:
        match action.WhichOneof("target"):
            case "session":
                session = self._sessions.by_id.get(action.session)
                return () if session is None else (session,)
            case "user":
                return self._sessions.of_user(action.user)
            case "group":
                return self._sessions.in_group(action.group)
            case "everyone":
                return self._sessions.by_id.values() if action.everyone else ()
        raise ActionError("a push or a query without a target")

    def query(self, query: worker_pb2.Query, room: int) -> worker_pb2.QueryResult:
        """Who is connected.

        Args:
            query: names `limit` sessions at most.
            room: bytes that the names may take.

        Raises:
            ActionError: it has no target, or no receipt.
        """
        if not query.receipt:
            raise ActionError("a query without a receipt: nobody could tell what its result answers")
        targets = self._targets(query)
        result = worker_pb2.QueryResult(receipt=query.receipt, sessions=len(targets))
        add = result.names.add
        for session in itertools.islice(targets, query.limit):
            room -= NAME_BYTES + 4 * len(session.user)
            if room < 0:
                break
            add(session=session.id, user=session.user)
        return result

    def bind(self, bind: worker_pb2.Bind) -> int:
        _check_name("user", bind.user)
        session = self._session(bind.session)
        if session is None:
            return 0
        self._sessions.bind(session, bind.user)
        return 1

    def set_attributes(self, change: worker_pb2.SetAttributes) -> int:
        for name, value in change.attributes.items():
            _check_name("attribute", name)
            if len(value) > 4096:
                raise ActionError(f"attribute {name!r} is {len(value)} characters long, 4096 at most")
        session = self._session(change.session)
        if session is None:
            return 0
        if len({*(session.attributes or ()), *change.attributes}) > MAX_ATTRIBUTES:
            raise ActionError(f"a session has at most {MAX_ATTRIBUTES} attributes")
        self._sessions.set_attributes(session, change.attributes)
        return 1

    def join(self, join: worker_pb2.Join) -> int:
        _check_name("group", join.group)
        session = self._session(join.session)
        if session is None or not join.group:
            return 0
        if len(session.groups or ()) >= MAX_GROUPS and join.group not in (session.groups or ()):
            raise ActionError(f"a session is in at most {MAX_GROUPS} groups")
        self._sessions.join(session, join.group)
        return 1

    def leave(self, leave: worker_pb2.Leave) -> int:
        session = self._session(leave.session)
        if session is None:
            return 0
        self._sessions.leave(session, leave.group)
        return 1

    def kick(self, kick: worker_pb2.Kick) -> int:
        match kick.WhichOneof("target"):
            case "session":
                session = self._session(kick.session)
                targets = [] if session is None else [session]
            case "user":
                targets = list(self._sessions.of_user(kick.user))
            case _:
                raise ActionError("a kick without a target")
        for session in targets:
            dismiss(session, kick.reconnect_after_ms, kick.reason or "kicked")
        return len(targets)

    def _session(self, id: int) -> Session | None:
        session = self._sessions.by_id.get(id)
        if session is None:
            self._counters.actions_refused += 1
        return session


def _check_name(what: str, name: str) -> None:
    if len(name) > MAX_NAME:
        raise ActionError(f"{what} name of {len(name)} characters, {MAX_NAME} at most")
