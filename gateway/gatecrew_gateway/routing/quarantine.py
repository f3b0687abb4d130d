"""The packets that took two workers with them: kept to be seen and replayed, and refused when they come again.

Pure. Bounded: the oldest letter goes when there are too many, or too many bytes of bodies, and with it goes the memory
that its packet is dangerous. A packet is the same as another if service, command and body are.

What a lost worker had in hand is accused for a while. A packet that is not sent again, since it may run once at most or
its client has given it up, is known again by that when its client sends another one.

Two workers may be lost for reasons of their own while they have the same innocent packet. If everybody sends it, an
empty one say, refusing its like would be the outage. So whatever a worker answers is acquitted, and so is all that is
the same: it is accused no longer, and refused no longer.

Gateways tell each other what they find, so that a client that goes from one to the next takes no more workers. A
worker that several gateways lose at once is one worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING

from ..config import ListenerConfig
from ..counters import Counters
from .suspicion import DIGEST_BYTES, Accused, Finding, Key, Lost, Suspicion

if TYPE_CHECKING:
    from .lane import Pending

MAX_LETTERS = 1000
MAX_LETTER_BYTES = 16 << 20  # of all bodies together
MAX_ACQUITTED = 1000
MAX_ELSEWHERE = 1000
AT_ONCE_S = 0.2  # between two losses that gateways tell each other of: one cause may have done both
MOST_HASHED = 256  # packets of one lost worker, and
MOST_HASHED_BYTES = 1 << 20  # of their bodies: a millisecond


def digest(body: bytes) -> bytes:
    """What stands for a body. 128 bits: nobody finds two bodies that share one."""
    return blake2b(body, digest_size=DIGEST_BYTES).digest()


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
    def key(self) -> Key:
        return self.service, self.digest

    def is_of(self, packet: Pending) -> bool:
        """Whether it is this very packet, and not only the same."""
        return (self.session, self.number) == (packet.lane.session.id, packet.id)


@dataclass(slots=True, eq=False)
class Elsewhere:
    """What another gateway has quarantined, which keeps the letter."""

    command: int
    key: Key
    at: float
    refused: int = 0

    def is_of(self, packet: Pending) -> bool:
        return False


Refusal = DeadLetter | Elsewhere


class Quarantine:
    """`watched` is empty while nothing is refused: whoever asks for each packet may look at that first. `tell` is
    called with what the other gateways should know.
    """

    def __init__(self, remember_s: float, counters: Counters) -> None:
        self.letters: dict[str, DeadLetter] = {}  # by id, oldest first
        self.watched: dict[int, dict[Key, Refusal]] = {}  # by command; what is refused now
        self.expires_at = 0.0  # the first of those that are watched
        self.accused = Accused()
        self.tell: Callable[[Suspicion], None] = lambda suspicion: None
        self.moment_s = 0.0  # in which all workers of a host that died are seen to be lost
        self._elsewhere: dict[Elsewhere, None] = {}  # of those that are watched, oldest first
        self._remember_s = remember_s
        self._counters = counters
        self._bytes = 0
        self._acquitted: dict[tuple[int, Key], float] = {}  # by command and key: until; oldest first

    def add(self, packet: Pending, lost: Lost, now: float) -> DeadLetter:
        """Keep a packet with which a further worker was lost, and refuse its like from now on."""
        session = packet.lane.session
        id = f"{session.id:x}-{packet.id:x}"
        before = self.letters.get(id)  # it was replayed
        if before is not None:
            self.forget(before)
        service = packet.lane.pool.service
        accusation = self.accused.find(packet.command, (service, digest(packet.body)))
        accused_by = accusation.lost.worker_id if accusation else ""
        earlier = before.workers if before else (packet.suspect or accused_by,)
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
            workers=(*earlier, lost.worker_id),
            at=now,
            refused=before.refused if before else 0,
        )
        self.letters[id] = letter
        self._bytes += len(letter.body)
        acquitted = self._is_acquitted(letter.command, letter.key, now)
        if self._remember_s and packet.route is not None and not acquitted:  # an event has no body to know it by
            self._watch(letter, now)
            self.tell(Suspicion(Finding.QUARANTINED, service, lost, ((letter.command, letter.digest),)))
        while len(self.letters) > MAX_LETTERS or self._bytes > MAX_LETTER_BYTES:
            self.forget(next(iter(self.letters.values())))
            self._counters.dead_letters_dropped += 1
        self._counters.dead_letters = len(self.letters)
        return letter

    def find(self, service: str, command: int, body: bytes) -> Refusal | None:
        """That for which this packet is refused, if there is one."""
        entries = self.watched.get(command)
        return None if entries is None else entries.get((service, digest(body)))

    def accuse(self, packets: Iterable[Pending], lost: Lost, now: float) -> None:
        """This worker was lost, and one of these may have done it. Only the first so many are taken."""
        if not self._remember_s:
            return
        self.accused.begin(now)
        service = ""
        told: dict[tuple[int, bytes], None] = {}
        for packet, key in self._hashed(packets):
            if not self._is_acquitted(packet.command, key, now):
                self.accused.add(packet.command, key, lost, now)
                service, body = key
                told[packet.command, body] = None
        if told:
            self.tell(Suspicion(Finding.ACCUSED, service, lost, tuple(told)))

    def met_before(self, packets: Iterable[Pending], lost: Lost, now: float) -> Pending | None:
        """The one of these that is the same as one with which another worker was lost than this; None if there are
        others too.
        """
        if not self.accused:
            return None
        known = (packet for packet in packets if self.accused.has_command(packet.command))
        found: dict[tuple[int, Key], Pending] = {}
        for packet, key in self._hashed(known):
            accusation = self.accused.find(packet.command, key)
            if accusation is None or accusation.until <= now:
                continue
            if packet.written_at < accusation.at or now < accusation.at + self.moment_s:
                continue  # both workers had it: a host that dies takes all of its workers at once, whatever they do
            if accusation.is_heard and accusation.lost.may_be(lost):
                continue  # another gateway was quicker to see the same loss
            found.setdefault((packet.command, key), packet)
        return next(iter(found.values())) if len(found) == 1 else None

    def hear(self, suspicion: Suspicion, now: float) -> bool:
        """Take in what another gateway has found; returns whether more is refused than before."""
        if not self._remember_s or not suspicion.is_sound:
            return False
        packets = [(command, (suspicion.service, digest)) for command, digest in suspicion.packets[:MOST_HASHED]]
        if suspicion.finding is Finding.ACQUITTED:
            for command, key in packets:
                self._clear(command, key, now)
            return False
        if now >= self.expires_at:
            self.tidy(now)
        in_doubt = [each for each in dict.fromkeys(packets) if not self._is_acquitted(*each, now)]
        if suspicion.finding is Finding.ACCUSED:
            in_doubt = [(command, key) for command, key in in_doubt if key not in self.watched.get(command, {})]
            again = [each for each in in_doubt if self._is_second(*each, suspicion.lost, now)]
            if len(again) != 1:
                for command, key in in_doubt:
                    self.accused.hear(command, key, suspicion.lost, now)
                return False
            in_doubt = again  # that gateway did not know of the first loss when it told of this one
        for command, key in in_doubt:
            if not isinstance(self.watched.get(command, {}).get(key), DeadLetter):
                elsewhere = Elsewhere(command, key, now)
                self._elsewhere[elsewhere] = None
                self._watch(elsewhere, now)
        while len(self._elsewhere) > MAX_ELSEWHERE:
            self._unwatch(next(iter(self._elsewhere)))
        self._counters.quarantined_elsewhere += len(in_doubt)
        return bool(in_doubt)

    def _is_second(self, command: int, key: Key, lost: Lost, now: float) -> bool:
        accusation = self.accused.find(command, key)
        if accusation is None or accusation.until <= now or accusation.lost.may_be(lost):
            return False
        return now - accusation.at > AT_ONCE_S  # else both workers may have died with their host

    @staticmethod
    def _hashed(packets: Iterable[Pending]) -> Iterable[tuple[Pending, Key]]:
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
        if not packet.suspect and command not in self.watched and not self.accused.has_command(command):
            return
        service, body = key = packet.lane.pool.service, digest(packet.body)
        known = key in self.watched.get(command, {}) or self.accused.find(command, key) is not None
        if known or packet.suspect:
            self._clear(command, key, now)
        if known:
            self.tell(Suspicion(Finding.ACQUITTED, service, Lost(""), ((command, body),)))

    def _clear(self, command: int, key: Key, now: float) -> None:
        """It is not dangerous, and will not be taken for it."""
        refusal = self.watched.get(command, {}).get(key)
        if refusal is not None:
            self._unwatch(refusal)
        self.accused.pop(command, key)
        while len(self._acquitted) >= MAX_ACQUITTED:
            del self._acquitted[next(iter(self._acquitted))]
        self._acquitted[command, key] = now + self._remember_s

    def _is_acquitted(self, command: int, key: Key, now: float) -> bool:
        return self._acquitted.get((command, key), 0.0) > now

    def tidy(self, now: float) -> None:
        """Refuse no longer what was quarantined long enough ago; its letter stays. Due at `expires_at`."""
        watched = [refusal for entries in self.watched.values() for refusal in entries.values()]
        for refusal in watched:
            if refusal.at + self._remember_s <= now:
                self._unwatch(refusal)
        left = [refusal.at for entries in self.watched.values() for refusal in entries.values()]
        self.expires_at = min(left, default=now) + self._remember_s

    def forget(self, letter: DeadLetter) -> None:
        """As if it had never been."""
        self._unwatch(letter)
        if self.letters.get(letter.id) is letter:
            del self.letters[letter.id]
            self._bytes -= len(letter.body)
            self._counters.dead_letters = len(self.letters)

    def _watch(self, refusal: Refusal, now: float) -> None:
        if not self.watched:
            self.expires_at = now + self._remember_s
        entries = self.watched.setdefault(refusal.command, {})
        known = entries.get(refusal.key)
        if isinstance(known, Elsewhere):
            del self._elsewhere[known]
        entries[refusal.key] = refusal

    def _unwatch(self, refusal: Refusal) -> None:
        entries = self.watched.get(refusal.command, {})
        if entries.get(refusal.key) is refusal:
            del entries[refusal.key]
            if not entries:
                del self.watched[refusal.command]
            if isinstance(refusal, Elsewhere):
                del self._elsewhere[refusal]
