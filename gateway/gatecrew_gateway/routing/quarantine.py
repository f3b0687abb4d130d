"""The packets that took two workers with them: kept to be seen and replayed, and refused when they come again.

Pure. Bounded: the oldest letter goes when there are too many, or too many bytes of bodies, and with it goes the memory
that its packet is dangerous. A packet is the same as another if service, command and body are.

What a lost worker had in hand is accused for a while. A packet that is not sent again, since it may run once at most or
its client has given it up, is known again by that when its client sends another one.

Two workers may be lost for reasons of their own while they have the same innocent packet. If everybody sends it, an
empty one say, refusing its like would be the outage. So whatever a worker answers is acquitted, and so is all that is
the same: it is accused no longer, and refused no longer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING

from ..config import ListenerConfig
from ..counters import Counters

if TYPE_CHECKING:
    from .lane import Pending

MAX_LETTERS = 1000
MAX_LETTER_BYTES = 16 << 20  # of all bodies together
MAX_ACQUITTED = 1000
MAX_ACCUSED = 1000
ACCUSED_S = 60.0
MOST_HASHED = 256  # packets of one lost worker, and
MOST_HASHED_BYTES = 1 << 20  # of their bodies: a millisecond


def digest(body: bytes) -> bytes:
    """What stands for a body. 128 bits: nobody finds two bodies that share one."""
    return blake2b(body, digest_size=16).digest()


@dataclass(slots=True, eq=False)
class DeadLetter:
    """A quarantined packet, and where it came from. `at`: seconds, on the dispatcher's clock."""

    id: str  # the idempotency key that its workers saw: unique over all gateways
    service: str
    command: int
    kind: int  # the contract's Kind by value
    session: int
    user: str
    attributes: dict[str, str]
    peer: str
    listener: ListenerConfig
    number: int  # the packet's id
    attempt: int  # the last one
    body: bytes
    workers: tuple[str, ...]  # lost with it
    at: float
    refused: int = 0  # packets that were the same, since
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.digest = digest(self.body)

    @property
    def key(self) -> tuple[str, bytes]:
        return self.service, self.digest


class Quarantine:
    """`watched` is empty while nothing is refused: whoever asks for each packet may look at that first."""

    def __init__(self, remember_s: float, counters: Counters) -> None:
        self.letters: dict[str, DeadLetter] = {}  # by id, oldest first
        self.watched: dict[int, dict[tuple[str, bytes], DeadLetter]] = {}  # by command; what is refused now
        self.expires_at = 0.0  # the first of those that are watched
        self.accused: dict[int, dict[tuple[str, bytes], tuple[str, float]]] = {}  # by command; the worker, and until
        self._accused_until = 0.0  # the last of them
        self._accused_count = 0
        self._remember_s = remember_s
        self._counters = counters
        self._bytes = 0
        self._acquitted: dict[tuple[int, str, bytes], float] = {}  # command, service, digest -> until, oldest first

    def add(self, packet: Pending, worker_id: str, now: float) -> DeadLetter:
        """Keep a packet with which a further worker was lost, and refuse its like from now on."""
        session = packet.lane.session
        id = f"{session.id:x}-{packet.id:x}"
        before = self.letters.get(id)  # it was replayed
        if before is not None:
            self.forget(before)
        service = packet.lane.pool.service
        accused_by = self.accused.get(packet.command, {}).get((service, digest(packet.body)), ("", 0.0))[0]
        lost = before.workers if before else (packet.suspect or accused_by,)
        letter = DeadLetter(
            id=id,
            service=service,
            command=packet.command,
            kind=packet.kind,
            session=session.id,
            user=session.user,
            attributes=dict(session.attributes or {}),
            peer=session.peer,
            listener=session.listener,
            number=packet.id,
            attempt=packet.attempt,
            body=packet.body,
            workers=(*lost, worker_id),
            at=now,
            refused=before.refused if before else 0,
        )
        self.letters[id] = letter
        self._bytes += len(letter.body)
        acquitted = self._acquitted.get((letter.command, *letter.key), 0.0) > now
        if self._remember_s and packet.route is not None and not acquitted:  # an event has no body to know it by
            if not self.watched:
                self.expires_at = now + self._remember_s
            self.watched.setdefault(letter.command, {})[letter.key] = letter
        while len(self.letters) > MAX_LETTERS or self._bytes > MAX_LETTER_BYTES:
            self.forget(next(iter(self.letters.values())))
            self._counters.dead_letters_dropped += 1
        self._counters.dead_letters = len(self.letters)
        return letter

    def find(self, service: str, command: int, body: bytes) -> DeadLetter | None:
        """The letter for which this packet is refused, if there is one."""
        entries = self.watched.get(command)
        return None if entries is None else entries.get((service, digest(body)))

    def accuse(self, packets: Iterable[Pending], worker_id: str, now: float) -> None:
        """This worker was lost, and one of these may have done it. Only the first so many are taken."""
        if not self._remember_s:
            return
        if now > self._accused_until or self._accused_count > MAX_ACCUSED:
            self._clear_accused()
        for packet, key in self._hashed(packets):
            if self._acquitted.get((packet.command, *key), 0.0) <= now:
                accused = self.accused.setdefault(packet.command, {})
                self._accused_count += key not in accused
                accused[key] = worker_id, now + ACCUSED_S
        self._accused_until = now + ACCUSED_S

    def met_before(self, packets: Iterable[Pending], now: float) -> Pending | None:
        """The one of these that is the same as one that is accused; None if there are others too."""
        if not self.accused:
            return None
        known = (packet for packet in packets if packet.command in self.accused)
        found: dict[tuple[int, str, bytes], Pending] = {}
        for packet, key in self._hashed(known):
            if self.accused[packet.command].get(key, ("", 0.0))[1] > now:
                found.setdefault((packet.command, *key), packet)
        return next(iter(found.values())) if len(found) == 1 else None

    @staticmethod
    def _hashed(packets: Iterable[Pending]) -> Iterable[tuple[Pending, tuple[str, bytes]]]:
        count = size = 0
        for packet in packets:
            if packet.route is None:
                continue
            count += 1
            size += len(packet.body)
            if count > MOST_HASHED or size > MOST_HASHED_BYTES:
                return
            yield packet, (packet.lane.pool.service, digest(packet.body))

    def acquit(self, packet: Pending, now: float) -> None:
        """A worker has answered it: if it was in doubt, what is the same is not dangerous."""
        command = packet.command
        if packet.route is None:
            return
        if not packet.suspect and command not in self.watched and command not in self.accused:
            return
        key = packet.lane.pool.service, digest(packet.body)
        letter = self.watched.get(command, {}).get(key)
        accused = self.accused.get(command, {})
        if not packet.suspect and letter is None and key not in accused:
            return
        if letter is not None:
            self._unwatch(letter)
        if accused.pop(key, None):
            self._accused_count -= 1
            if not accused:
                del self.accused[command]
        while len(self._acquitted) >= MAX_ACQUITTED:
            del self._acquitted[next(iter(self._acquitted))]
        self._acquitted[command, *key] = now + self._remember_s

    def forget_accused(self, now: float) -> None:
        """All of them, if the last was accused long ago."""
        if self.accused and now > self._accused_until:
            self._clear_accused()

    def _clear_accused(self) -> None:
        self.accused.clear()
        self._accused_count = 0

    def tidy(self, now: float) -> None:
        """Refuse no longer what was quarantined long enough ago; its letter stays. Due at `expires_at`."""
        watched = [letter for entries in self.watched.values() for letter in entries.values()]
        for letter in watched:
            if letter.at + self._remember_s <= now:
                self._unwatch(letter)
        left = [letter.at for entries in self.watched.values() for letter in entries.values()]
        self.expires_at = min(left, default=now) + self._remember_s

    def forget(self, letter: DeadLetter) -> None:
        """As if it had never been."""
        self._unwatch(letter)
        if self.letters.get(letter.id) is letter:
            del self.letters[letter.id]
            self._bytes -= len(letter.body)
            self._counters.dead_letters = len(self.letters)

    def _unwatch(self, letter: DeadLetter) -> None:
        entries = self.watched.get(letter.command, {})
        if entries.get(letter.key) is letter:
            del entries[letter.key]
            if not entries:
                del self.watched[letter.command]
