"""A client's connection as its worker sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from gatecrew.v1 import gateway_pb2, worker_pb2

from .lane import Lane

if TYPE_CHECKING:
    from .links import Links
    from .sent import Sent

NO_ATTRIBUTES: Mapping[str, str] = MappingProxyType({})


class Session:
    """One client connection and its context. The gateway keeps the truth; this follows it.

    Every method queues what it does at once, in the order of the program, and returns a `Sent`: await it to be slowed
    down while the gateway is behind, or leave it.

    Attributes:
        id: the same on every worker.
        user: who was bound to it; empty until a worker binds one.
        peer: address of the client, host:port.
        listener: name of the gateway's listener that it came to.
        attributes: what workers have set; read only.
    """

    __slots__ = ("__weakref__", "_lane", "_links", "attributes", "id", "listener", "peer", "user")

    def __init__(self, session_id: int, links: Links) -> None:
        self.id = session_id
        self.user = ""
        self.peer = ""
        self.listener = ""
        self.attributes = NO_ATTRIBUTES
        self._links = links
        self._lane = Lane()

    def _update(self, context: worker_pb2.SessionContext) -> None:
        self.user = context.user
        self.peer = context.peer
        self.listener = context.listener
        self.attributes = MappingProxyType(dict(context.attributes)) if context.attributes else NO_ATTRIBUTES

    def push(self, body: bytes, command: int = 0, *, receipt: bool = False) -> Sent:
        """Send a packet to this session; see `Worker.push_session`."""
        return self._links.push_session(self.id, body, command, receipt)

    def bind(self, user: str) -> Sent:
        """Say who the client is, so that `push_user` finds it.

        Args:
            user: empty to unbind.

        Raises:
            StatusError: UNAVAILABLE, no link to the session's gateway.
        """
        sent = self._links.act(self.id, worker_pb2.Action(bind=worker_pb2.Bind(session=self.id, user=user)))
        self.user = user
        return sent

    def set(self, **attributes: str) -> Sent:
        """Set attributes beside those there are; an empty value removes one.

        Raises:
            StatusError: UNAVAILABLE, no link to the session's gateway.

        Example:
            await request.session.set(room="lobby", seat="")
        """
        action = worker_pb2.Action(set_attributes=worker_pb2.SetAttributes(session=self.id, attributes=attributes))
        sent = self._links.act(self.id, action)
        merged = {**self.attributes, **attributes}
        self.attributes = MappingProxyType({key: value for key, value in merged.items() if value})
        return sent

    def join(self, group: str) -> Sent:
        """Make it hear what `push_group` says to a group.

        Raises:
            StatusError: UNAVAILABLE, no link to the session's gateway.
        """
        return self._links.act(self.id, worker_pb2.Action(join=worker_pb2.Join(session=self.id, group=group)))

    def leave(self, group: str) -> Sent:
        """Take it out of a group.

        Raises:
            StatusError: UNAVAILABLE, no link to the session's gateway.
        """
        return self._links.act(self.id, worker_pb2.Action(leave=worker_pb2.Leave(session=self.id, group=group)))

    def kick(self, reason: str = "", reconnect_after_ms: int = 0) -> Sent:
        """Close it, with a goaway packet first.

        Args:
            reason: text for the client.
            reconnect_after_ms: how long the client is asked to stay away, in milliseconds.

        Raises:
            StatusError: UNAVAILABLE, no link to the session's gateway.
        """
        kick = worker_pb2.Kick(session=self.id, reason=reason, reconnect_after_ms=reconnect_after_ms)
        return self._links.act(self.id, worker_pb2.Action(kick=kick))

    def __repr__(self) -> str:
        return f"<Session {self.id:x} user={self.user!r} peer={self.peer} listener={self.listener}>"


@dataclass(frozen=True, slots=True)
class SessionName:
    """One line of `Worker.list_names`: a session's id, and its user if one is bound."""

    id: int
    user: str


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One line of `Worker.list_sessions`."""

    id: int
    user: str
    peer: str
    listener: str
    attributes: Mapping[str, str]
    groups: tuple[str, ...]
    gateway_id: str
    in_flight: int
    connected_s: float  # how long ago it came

    @classmethod
    def _of(cls, info: gateway_pb2.SessionInfo) -> SessionInfo:
        context = info.context
        return cls(
            id=context.session,
            user=context.user,
            peer=context.peer,
            listener=context.listener,
            attributes=dict(context.attributes),
            groups=tuple(info.groups),
            gateway_id=info.gateway_id,
            in_flight=info.in_flight,
            connected_s=info.connected_ms / 1000,
        )
