"""What a handler is given."""

from __future__ import annotations

import math
import time

from gatecrew.v1 import worker_pb2

from .session import Session


class Request:
    """One packet of a client, for a handler to answer.

    Attributes:
        body: the packet's bytes.
        session: the client's session.

    Example:
        @worker.on(1)
        async def say(request: Request) -> bytes:
            return request.body.upper()
    """

    # Only what every handler reads is taken out of the wire message beforehand; each field costs 50 ns.
    __slots__ = ("_arrived_at", "_cancelled", "_wire", "body", "session")

    _cancelled: bool  # unset until it is true: not even that is free here

    def __init__(self, wire: worker_pb2.Request, session: Session, arrived_at: float) -> None:
        self._wire = wire
        self._arrived_at = arrived_at
        self.session = session
        self.body = wire.body

    @property
    def command(self) -> int:
        """The command that the packet carries."""
        return self._wire.command

    @property
    def attempt(self) -> int:
        """0 the first time; above 0 another worker, or this one, may have run the request before."""
        return self._wire.attempt

    @property
    def is_notify(self) -> bool:
        """Whether the client hears nothing of the reply."""
        return self._wire.kind == worker_pb2.KIND_NOTIFY

    @property
    def idempotency_key(self) -> str:
        """The same over all attempts of one packet, and of no other packet."""
        return f"{self._wire.session:x}-{self._wire.id:x}"

    @property
    def deadline(self) -> float:
        """When the client gets an error instead, in seconds of `time.monotonic()` and the loop's clock.

        An `async` handler that still runs then is cancelled; for one in a thread see `cancelled`. Infinite where there
        is no deadline.

        Example:
            async with asyncio.timeout_at(request.deadline - 0.5):
                ...
        """
        remaining_ms = self._wire.remaining_ms
        return self._arrived_at + remaining_ms / 1000 if remaining_ms else math.inf

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline, at least 0."""
        return max(0.0, self.deadline - time.monotonic())

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the reply any more: the deadline has passed, or the client or its gateway has gone.

        An `async` handler need not look: it is cancelled, `asyncio.CancelledError` is raised where it waits, and the
        session's next request begins. A thread can't be cancelled: the session goes on in another one, and a handler
        that works for long had better look from time to time.

        Example:
            @worker.on(7)
            def render(request: Request) -> bytes | None:
                for part in parts:
                    if request.cancelled:
                        return None
                    draw(part)
        """
        return hasattr(self, "_cancelled") or time.monotonic() > self.deadline

    @property
    def what(self) -> str:
        """`command 102, request 1000000001-7`, for people; what a session event has is its kind."""
        kind = self._wire.kind
        name = f"command {self.command}" if kind <= worker_pb2.KIND_NOTIFY else worker_pb2.Kind.Name(kind)
        return f"{name}, request {self.idempotency_key}"

    def __repr__(self) -> str:
        return f"<Request {self.idempotency_key} command={self.command} attempt={self.attempt} {len(self.body)} bytes>"
