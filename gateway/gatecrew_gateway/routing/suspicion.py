"""What gateways tell each other of the packets with which workers were lost, and the memory of those accused. Pure."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

MAX_ACCUSED = 1000
ACCUSED_S = 60.0
DIGEST_BYTES = 16
MAX_NAME = 256  # characters of a service's name and of a worker's

Key = tuple[str, bytes]  # service, digest of the body


class Finding(IntEnum):
    """The contract's SuspicionKind by value."""

    ACCUSED = 0  # a worker was lost with these, and one of them may have done it
    QUARANTINED = 1  # two were
    ACQUITTED = 2  # a worker has answered what is the same


class Lost(NamedTuple):
    """A worker that was lost. `incarnation`: of its process, by which it differs from the next one with its name; empty
    if it has said none.
    """

    worker_id: str
    incarnation: str = ""

    def may_be(self, other: Lost) -> bool:
        """Whether both may be one process."""
        if self.worker_id != other.worker_id:
            return False
        return self.incarnation == other.incarnation or not (self.incarnation and other.incarnation)


class Suspicion(NamedTuple):
    """Of packets of one service. `packets`: command and digest of the body."""

    finding: Finding
    service: str
    lost: Lost
    packets: tuple[tuple[int, bytes], ...]

    @property
    def is_sound(self) -> bool:
        """Whether it can be kept: it comes from another process, which may be wrong."""
        names = (self.service, self.lost.worker_id, self.lost.incarnation)
        return all(len(name) <= MAX_NAME for name in names) and all(
            command <= 0xFFFF and len(digest) == DIGEST_BYTES for command, digest in self.packets
        )


class Accusation(NamedTuple):
    lost: Lost
    at: float
    until: float
    is_heard: bool  # from another gateway, and not our own


class Accused:
    """Bounded: with too many of its own it forgets all; what others say is not taken then."""

    def __init__(self) -> None:
        self._by_command: dict[int, dict[Key, Accusation]] = {}
        self._until = 0.0  # the last of them
        self._count = 0

    def __bool__(self) -> bool:
        return bool(self._by_command)

    def __len__(self) -> int:
        return self._count

    def has_command(self, command: int) -> bool:
        return command in self._by_command

    def find(self, command: int, key: Key) -> Accusation | None:
        return self._by_command.get(command, {}).get(key)

    def begin(self, now: float) -> None:
        """A worker of ours was lost: make room for what it had."""
        if now > self._until or self._count > MAX_ACCUSED:
            self._clear()

    def add(self, command: int, key: Key, lost: Lost, now: float) -> None:
        known = self.find(command, key)
        if known is None or known.is_heard or known.until <= now:
            self._set(command, key, Accusation(lost, now, now + ACCUSED_S, is_heard=False))

    def hear(self, command: int, key: Key, lost: Lost, now: float) -> None:
        """Another gateway accuses it: that does not take the place of an accusation of our own."""
        known = self.find(command, key)
        if known is None and self._count >= MAX_ACCUSED:
            return
        if known is None or known.is_heard or known.until <= now:
            self._set(command, key, Accusation(lost, now, now + ACCUSED_S, is_heard=True))

    def _set(self, command: int, key: Key, accusation: Accusation) -> None:
        accused = self._by_command.setdefault(command, {})
        self._count += key not in accused
        accused[key] = accusation
        self._until = accusation.until

    def pop(self, command: int, key: Key) -> bool:
        """It is accused no longer; returns whether it was."""
        accused = self._by_command.get(command, {})
        if accused.pop(key, None) is None:
            return False
        self._count -= 1
        if not accused:
            del self._by_command[command]
        return True

    def tidy(self, now: float) -> None:
        """Forget all, if the last was accused long ago."""
        if self._by_command and now > self._until:
            self._clear()

    def _clear(self) -> None:
        self._by_command.clear()
        self._count = 0
