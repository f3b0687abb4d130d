"""The bound on what a gateway holds for its clients: unsent bytes, packets read and not taken, packets in flight.

What is held is counted in two ways. The growth of the process since its start costs one read; it lags, and it keeps
what was freed. Adding up what all sessions hold is exact but for what their sockets share of a push. The lesser of both
is what counts. So nothing is counted packet by packet: ten times a second, and while workers send much, the
size is read, and only if it is above half of the limit all that is held is added up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from .counters import Counters

SCAN_AT = 0.5  # of the limit: below that, what is held is not added up
TIGHT_AT = 0.8  # no new client is read
REFUSE_AT = 0.9  # new clients and packets are refused
CUT_AT = 0.95  # the clients that hold most are cut, until less than TIGHT_AT is held
REFUSING_TICKS = 5  # so long at REFUSE_AT, and they are cut as well: others must not pay for them
GROWN = 0.02  # of the limit: so much more since the last look, and all is added up again


class Holder(Protocol):
    """A client's connection."""

    @property
    def held(self) -> int:
        """Bytes that are free once the connection is cut."""
        ...

    def cut_for_memory(self) -> None: ...


class Memory:
    """`resident()`: the size of the process in bytes, None where that is unknown. `holders()`: all connections.
    `in_flight()`: bytes of packets with workers.
    """

    def __init__(
        self,
        limit: int,
        resident: Callable[[], int | None],
        holders: Callable[[], Iterable[Holder]],
        in_flight: Callable[[], int],
        counters: Counters,
    ) -> None:
        self.is_tight = False
        self.refuses = False
        self._limit = limit
        self._resident = resident
        self._holders = holders
        self._in_flight = in_flight
        self._counters = counters
        self._base: int | None = None  # the program itself, at the first tick
        self._scanned_at = 0  # what it had grown by then
        self._refusing_ticks = 0
        self._came = 0  # bytes, since the last look
        counters.memory_limit_bytes = limit

    def took(self, size: int) -> None:
        """So many bytes came in: between two ticks it may be more than there is room for."""
        self._came += size
        if self._came > self._limit * GROWN:
            self._came = 0
            if self._growth() - self._scanned_at > self._limit * GROWN:
                self._add_up()

    def tick(self) -> None:
        """Ten times a second: find out what is held, and act on it."""
        self._add_up()
        self._refusing_ticks = self._refusing_ticks + 1 if self.refuses else 0

    def _add_up(self) -> None:
        growth = self._scanned_at = self._growth()
        if growth < self._limit * SCAN_AT:
            held = growth
        else:
            held = min(growth, self._in_flight() + sum(holder.held for holder in self._holders()))
            if held > self._limit * CUT_AT or (
                held > self._limit * REFUSE_AT and self._refusing_ticks >= REFUSING_TICKS
            ):
                held -= self._cut(held - int(self._limit * TIGHT_AT))
        self.is_tight = held > self._limit * TIGHT_AT
        self.refuses = held > self._limit * REFUSE_AT
        self._counters.memory_held_bytes = held

    def _growth(self) -> int:
        size = self._resident()
        if size is None:
            return self._limit
        if self._base is None:
            self._base = size
        return max(0, size - self._base)

    def _cut(self, too_much: int) -> int:
        """Cut those who hold most; returns how many bytes that frees."""
        freed = 0
        for holder in sorted(self._holders(), key=lambda each: each.held, reverse=True):
            held = holder.held
            if freed >= too_much or not held:
                break
            holder.cut_for_memory()
            self._counters.memory_clients_cut += 1
            freed += held
        return freed
