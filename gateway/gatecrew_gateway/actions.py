"""What workers do to sessions: push, bind, set attributes, join, leave, kick. On this gateway's sessions only."""

from __future__ import annotations

from collections.abc import Iterable

from gatecrew.v1 import worker_pb2

from .codec import Kind, encode
from .config import MAX_PACKET, PACKET_OVERHEAD
from .counters import Counters
from .session import Session, SessionTable, dismiss

MAX_NAME = 256  # characters of a user, group or attribute name
MAX_ATTRIBUTES = 64  # of a session
MAX_GROUPS = 1024  # of a session


class ActionError(ValueError):
    """An action that can't be meant; the text says why."""


class Actions:
    def __init__(self, sessions: SessionTable, counters: Counters) -> None:
        self._sessions = sessions
        self._counters = counters

    def apply(self, action: worker_pb2.Action, touched: list[Session]) -> int:
        """Do it; returns how many sessions it reached. Sessions with something to write are added to `touched`.

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

    def push(self, push: worker_pb2.Push, touched: list[Session]) -> int:
        if push.command > 0xFFFF or len(push.body) > MAX_PACKET - PACKET_OVERHEAD:
            raise ActionError(f"push of command {push.command} and {len(push.body)} bytes does not fit into a packet")
        packet = encode(Kind.PUSH, push.command, 0, push.body)
        skip = push.except_session
        reached = 0
        for session in self._targets(push):
            if session.id != skip and session.port is not None:
                if session.congested and session.port.unsent() > session.listener.max_unsent:
                    session.port.cut_as_slow()
                    continue
                if not session.out:
                    touched.append(session)
                session.out.append(packet)
                reached += 1
        self._counters.pushes += 1
        self._counters.pushes_delivered += reached
        if not reached:
            self._counters.pushes_no_session += 1
        return reached

    def _targets(self, push: worker_pb2.Push) -> Iterable[Session]:
        match push.WhichOneof("target"):
            case "session":
                session = self._sessions.by_id.get(push.session)
                return () if session is None else (session,)
            case "user":
                return self._sessions.of_user(push.user)
            case "group":
                return self._sessions.in_group(push.group)
            case "everyone":
                return self._sessions.by_id.values() if push.everyone else ()
        raise ActionError("a push without a target")

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
