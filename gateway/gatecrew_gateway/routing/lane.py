"""The unit of order: a lane, and the packets that travel in it.

A lane is one session's packets for one service. Its states:

    quiet    no link, nothing waiting
    ready    no link, packets waiting; listed in its pool (`ready`, `suspects` or `detours`) until a link takes it
    bound    has a link and packets open there; a new packet joins them
    held     bound, but new packets wait: a packet that travels alone is open, or the link is draining

On failover the unanswered packets go back to the head of `waiting` as one block, so newer ones stay behind them. What a
worker gives back waits there until the lane has nothing open; if the worker then ran a later one, it fails.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..session import Session
    from .link import Link
    from .pool import Pool
    from .route import Route


REQUEST, NOTIFY, OPEN, CLOSE = 0, 1, 2, 3  # the contract's Kind


class Pending:
    """One accepted packet, until its outcome. `kind` is the contract's Kind by value."""

    __slots__ = (
        "attempt",
        "body",
        "command",
        "deadline",
        "id",
        "kind",
        "lane",
        "resend",
        "route",
        "seq",
        "suspect",
        "written_at",
    )

    written_at: float  # when it went to a worker, the last time; unset before

    def __init__(
        self,
        id: int,
        lane: Lane,
        route: Route | None,
        kind: int,
        command: int,
        seq: int,
        body: bytes,
        deadline: float,
        resend: bool,
    ) -> None:
        self.id = id
        self.lane = lane
        self.route = route  # None: an open or close event, or forfeit
        self.kind = kind
        self.command = command
        self.seq = seq
        self.body = body
        self.deadline = deadline  # on the loop's clock, seconds
        self.resend = resend  # may go to a second worker after it was written to a first
        self.attempt = 0
        self.suspect = ""  # the worker that was lost with it; travels alone until it is cleared

    @property
    def alone(self) -> bool:
        return bool(self.suspect) or (self.route is not None and self.route.alone)

    @property
    def is_slow(self) -> bool:
        return self.route is not None and self.route.slow

    @property
    def is_unheard(self) -> bool:
        """A request whose client has gone. What a client tells, and events, are worth running all the same, but what
        one tells that was cut because it held too much does not hold that any longer.
        """
        session = self.lane.session
        return session.port is None and (self.kind == REQUEST or (session.is_forfeit and self.kind == NOTIFY))

    def drop_body(self) -> None:
        """A worker has it, nobody waits for it, and its room is needed. It can't be known again by its body."""
        self.body = b""
        self.route = None


_id = attrgetter("id")


class Lane:
    __slots__ = ("avoid", "held", "link", "open", "opened", "pool", "session", "waiting")

    def __init__(self, session: Session, pool: Pool) -> None:
        self.session = session
        self.pool = pool
        self.link: Link | None = None
        self.open = 0  # packets with the link: queued there or in flight
        self.held = False
        self.avoid: Link | None = None  # a worker that has not answered this lane in time: it may hang there
        self.opened = False  # the service was told of the session, so it must be told of its end
        self.waiting: list[Pending] = []  # in order

    @property
    def is_untold(self) -> bool:
        """The client has gone before any worker heard of it, and has told nothing: none needs to hear of it."""
        waiting = self.waiting
        if self.session.port is not None or self.link is not None or waiting[0].kind != OPEN:
            return False
        return all(packet.is_unheard or (packet.route is None and not packet.attempt) for packet in waiting)

    def take_back(self, packets: list[Pending]) -> None:
        """What was with a link and did not run there waits again: in order, which ids are."""
        waiting = self.waiting
        if waiting and packets and waiting[0].id < packets[-1].id:
            self.waiting = sorted(packets + waiting, key=_id)
        else:
            waiting[:0] = packets

    def __repr__(self) -> str:
        where = "quiet" if self.link is None and not self.waiting else f"link={self.link} held={self.held}"
        return f"<Lane {self.session} {where} open={self.open} waiting={len(self.waiting)}>"
