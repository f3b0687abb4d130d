"""Lets a dead letter go to a worker once more, for an operator. Pure.

The letter travels as a request of its session, with the same idempotency key and a higher attempt, in a lane of its
own. What comes back goes to the operator: the client had its outcome long ago. It is in doubt from the start, so one
worker is all that it can take with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .codec import FROM_GATEWAY, Decoder, Kind, Status, decode_error
from .dispatcher import Dispatcher
from .routing.lane import NOTIFY
from .routing.quarantine import DeadLetter
from .session import Session, SessionTable

# With these it has not been shown to be harmless: no worker may have seen it.
_UNDECIDED = frozenset(
    {
        Status.CANCELLED,
        Status.DEADLINE_EXCEEDED,
        Status.RESOURCE_EXHAUSTED,
        Status.ABORTED,
        Status.UNIMPLEMENTED,
        Status.UNAVAILABLE,
    }
)


class Outcome(NamedTuple):
    status: int
    message: str = ""
    body: bytes = b""


class Replays:
    """`forget(session_id)`: the workers need not keep the session's context."""

    def __init__(self, dispatcher: Dispatcher, sessions: SessionTable, forget: Callable[[int], None]) -> None:
        self._dispatcher = dispatcher
        self._sessions = sessions
        self._forget = forget
        self._under_way: set[str] = set()  # ids of letters

    def begin(self, letter: DeadLetter, done: Callable[[Outcome], None]) -> None:
        """Let it go; `done` is called once. If a worker gave the outcome, nothing is left of the letter, and its like
        is served again; if the worker was lost with it, it is quarantined again.
        """
        if letter.kind > NOTIFY:
            done(
                Outcome(Status.INVALID_ARGUMENT, "an event of a session is not replayed: it has no body and no answer")
            )
            return
        if letter.id in self._under_way:
            done(Outcome(Status.ABORTED, "it is being replayed already"))
            return
        self._under_way.add(letter.id)

        def ended(outcome: Outcome) -> None:
            self._under_way.discard(letter.id)
            done(self._settle(letter, outcome))

        self._dispatcher.replay(self._session_for(letter, _Port(ended)), letter)

    def _session_for(self, letter: DeadLetter, port: _Port) -> Session:
        """One that has the name of the letter's, and its context as it is now, or as it was at the end."""
        session = Session(letter.session, letter.peer, letter.listener, port, letter.at)
        alive = self._sessions.by_id.get(letter.session)
        if alive is None:
            session.user, session.attributes = letter.user, letter.attributes or None
        else:
            session.user, session.attributes, session.version = alive.user, alive.attributes, alive.version
        return session

    def _settle(self, letter: DeadLetter, outcome: Outcome) -> Outcome:
        if letter.session not in self._sessions.by_id:
            self._forget(letter.session)
        quarantine = self._dispatcher.quarantine
        now = quarantine.letters.get(letter.id)
        if now is letter and outcome.status not in _UNDECIDED:
            quarantine.forget(letter)
        elif now is not None and now is not letter:
            return Outcome(outcome.status, f"quarantined again: worker {now.workers[-1]} was lost with it")
        return outcome


class _Port:
    """The operator, as a session sees the connection of its client."""

    def __init__(self, done: Callable[[Outcome], None]) -> None:
        self._done = done
        self._decoder = Decoder(allowed=FROM_GATEWAY)

    def write(self, data: bytes) -> None:
        for kind, _, _, body in self._decoder.decode(data)[0]:
            if kind == Kind.REPLY:
                self._done(Outcome(Status.OK, body=body))
            elif kind == Kind.ERROR:
                self._done(Outcome(*decode_error(body)))

    def unsent(self) -> int:
        return 0

    def postpone(self) -> None:
        """Nothing but one answer is ever written."""

    def cut_as_slow(self) -> None:
        """It always reads."""

    def pinged(self, kind: int, command: int, seq: int, body: bytes) -> None:
        """It sends none."""

    def resume(self) -> None:
        """It sends nothing more."""

    def close(self) -> None:
        """There is no connection."""
