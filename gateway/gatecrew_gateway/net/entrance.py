"""The entrance: who may come in. Counts clients by address, by listener and in all; refuses who is over a limit."""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import dataclass

from ..config import ListenerConfig
from ..counters import Counters

log = logging.getLogger("gatecrew.gateway")

SAY_AGAIN_S = 10.0  # one line of log in so many seconds

FULL = "this listener is full, try later"
NO_MEMORY = "the gateway is full, try later"
TOO_MANY = "your address has too many connections, close some"


@dataclass(slots=True)
class House:
    """The clients of all listeners of a gateway."""

    room: int  # as far as `max_sessions` and file descriptors go
    clients: int = 0


class Entrance:
    """Of one listener."""

    def __init__(self, config: ListenerConfig, house: House, counters: Counters) -> None:
        self.clients = 0
        self._config = config
        self._house = house
        self._counters = counters
        self._of_address: dict[str, int] = {}
        self._most_of = ""  # the address that had more than half of the places last
        self._refused = 0  # since the last line of log
        self._said_at = float("-inf")

    def __len__(self) -> int:
        """How many addresses are known."""
        return len(self._of_address)

    def refusal(self, origin: str) -> str:
        """Why one from there can't come in; empty: it can."""
        most = self._config.max_sessions_per_address
        if most and self._of_address.get(origin, 0) >= most:
            return TOO_MANY
        if self.clients >= self._config.max_sessions or self._house.clients >= self._house.room:
            return FULL
        return ""

    @property
    def crowding(self) -> str:
        """The address that has more than half of the places; empty: none has."""
        return self._most_of if self._has_most(self._of_address.get(self._most_of, 0)) else ""

    def _has_most(self, count: int) -> bool:
        return count * 2 > min(self._config.max_sessions, self._house.room)

    def entered(self, origin: str) -> None:
        self.clients += 1
        self._house.clients += 1
        count = self._of_address[origin] = self._of_address.get(origin, 0) + 1
        if self._has_most(count):
            self._most_of = origin

    def left(self, origin: str) -> None:
        self.clients -= 1
        self._house.clients -= 1
        count = self._of_address[origin] - 1
        if count:
            self._of_address[origin] = count
        else:
            del self._of_address[origin]

    def refused(self, reason: str, peer: str, now: float) -> None:
        """Count it, and say so now and then."""
        if reason is TOO_MANY:
            self._counters.addresses_refused += 1
        elif reason is NO_MEMORY:
            self._counters.memory_refused += 1
        else:
            self._counters.sessions_refused += 1
        self._refused += 1
        if now - self._said_at >= SAY_AGAIN_S:
            log.warning(
                "listener %r refused %d clients since the last such line, now one of %s: %s (%d are here, %d in all)",
                self._config.name,
                self._refused,
                peer,
                reason,
                self.clients,
                self._house.clients,
            )
            self._said_at = now
            self._refused = 0


def origin_of(host: str) -> str:
    """What an address is counted by: an IPv4 one itself, an IPv6 one its /64, which one host has as a rule."""
    if ":" not in host:
        return host
    address = ipaddress.IPv6Address(host.partition("%")[0])
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return address.packed[:8].hex()
