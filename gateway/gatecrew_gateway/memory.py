"""The bound on what a gateway holds for its clients: unsent bytes, packets read and not taken, packets in flight.

What is held is counted in two ways. The growth of the process since its start costs one read; it lags, and it keeps
what was freed. Adding up what all sessions hold is exact but for what their sockets share of a push. The lesser of both
is what counts. So nothing is counted packet by packet: ten times a second, and while workers send much or clients
begin many packets, the size is read, and only if it is above half of the limit all that is held is added up. With very
many clients that takes long, so it rests ten times as long; what the process has grown since is taken for held until
then. What comes may lie where something was freed, so that the process does not grow: if that may be too much, the rest
ends.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from .counters import Counters

SCAN_AT = 0.5  # of the limit: below that, what is held is not added up
TIGHT_AT = 0.8  # no new client is read
REFUSE_AT = 0.9  # new clients and packets are refused
CUT_AT = 0.95  # the clients that hold most are cut, until less than TIGHT_AT is held
REFUSING_TICKS = 5  # so long at REFUSE_AT, and they are cut as well: others must not pay for them
LITTLE_BYTES = 4096  # who holds less is not cut: it is not the one; or
LITTLE = 0.0001  # of the limit: then 10 000 of them can't fill it
GROWN = 0.02  # of the limit: so much more since the last look, and all is added up again
REST = 10  # times as long as it took, before all is added up again
FIRST_READ_BYTES = 64 * 1024  # that a new client may bring at once
NEWCOMERS = 0.1  # of the limit: so much all that are let in between two ticks may bring; from TIGHT_AT to REFUSE_AT
UNKNOWN_REST = 100  # where nobody says how large the process is: then nothing says that there is no need


class Holder(Protocol):
    """A client's connection."""

    @property
    def held(self) -> int:
        """Bytes that are free once the connection is cut, without its packets in flight."""
        ...

    def cut_for_memory(self) -> None: ...


class Memory:
    """`resident()`: the size of the process in bytes, None where that is unknown. `holders()`: all connections.
    `in_flight()`: bytes of packets with workers. `in_flight_of()`: the same, by connection.
    `timer`: seconds, by which we see what adding up takes.
    """

    def __init__(
        self,
        limit: int,
        resident: Callable[[], int | None],
        holders: Callable[[], Iterable[Holder]],
        in_flight: Callable[[], int],
        in_flight_of: Callable[[], Mapping[Holder, int]],
        counters: Counters,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.is_tight = False
        self.refuses = False
        self.has_cut = False  # since the last tick: the packets of who was cut go before the next one
        self._limit = limit
        self._resident = resident
        self._holders = holders
        self._in_flight = in_flight
        self._in_flight_of = in_flight_of
        self._counters = counters
        self._timer = timer
        self._base: int | None = None  # the program itself, at the first tick
        self._looked_at = 0  # what it had grown by the last look
        self._scanned_at = 0  # and when all was added up
        self._scanned = 0  # what was held then
        self._scan_after = 0.0  # timer; not before
        self._is_known = True
        self._refusing_ticks = 0
        self._came = 0  # bytes, since the last look
        self._came_since_scan = 0
        self._forfeit = 0  # bytes in flight of who was cut, until the next tick
        counters.memory_limit_bytes = limit

    def took(self, size: int) -> None:
        """So many bytes came in, and may stay: between two ticks it may be more than there is room for."""
        self._came += size
        if self._came > self._limit * GROWN:
            self._came_since_scan += self._came
            self._came = 0
            growth = self._growth()
            if growth - self._looked_at > self._limit * GROWN or self._may_be_too_much(growth):
                self._look()

    @property
    def newcomers(self) -> int:
        """So many new clients may be let in until the next tick."""
        return 0 if self.is_tight else max(1, int(self._limit * NEWCOMERS) // FIRST_READ_BYTES)

    def tick(self) -> None:
        """Ten times a second, after the sweep of what nobody waits for: find out what is held, and act on it."""
        self.has_cut = False
        self._forfeit = 0
        self._look()
        self._refusing_ticks = self._refusing_ticks + 1 if self.refuses else 0

    def _look(self) -> None:
        growth = self._looked_at = self._growth()
        held = min(growth, self._scanned + max(0, growth - self._scanned_at))
        if growth < self._limit * SCAN_AT:
            held = self._scanned = self._scanned_at = growth
            self._came_since_scan = 0
        elif self._timer() >= self._scan_after or self._may_be_too_much(growth):
            held = self._add_up(growth)
        self.is_tight = held > self._limit * TIGHT_AT
        self.refuses = held > self._limit * REFUSE_AT
        self._counters.memory_held_bytes = held

    def _may_be_too_much(self, growth: int) -> bool:
        """What has come since all was added up may lie where something was freed."""
        more = max(growth - self._scanned_at, self._came_since_scan)
        return more > self._limit * GROWN and min(growth, self._scanned + more) > self._limit * CUT_AT

    def _add_up(self, growth: int) -> int:
        """All that is held, after those are cut who hold too much."""
        began = self._timer()
        in_flight = max(0, self._in_flight() - self._forfeit)
        holders = [(holder.held, holder) for holder in self._holders()]
        held = min(growth, in_flight + sum(size for size, _ in holders))
        if held > self._limit * CUT_AT or (held > self._limit * REFUSE_AT and self._refusing_ticks >= REFUSING_TICKS):
            held -= self._cut(holders, held - int(self._limit * TIGHT_AT))
        self._scanned, self._scanned_at, self._came_since_scan = held, growth, 0
        now = self._timer()
        self._scan_after = now + (now - began) * (REST if self._is_known else UNKNOWN_REST)
        return held

    def _growth(self) -> int:
        size = self._resident()
        self._is_known = size is not None
        if size is None:
            return self._limit
        if self._base is None:
            self._base = size
        return max(0, size - self._base)

    def _cut(self, holders: list[tuple[int, Holder]], too_much: int) -> int:
        """Cut those who hold most; returns how many bytes that frees. `holders`: with what each holds."""
        freed = 0
        little = min(LITTLE_BYTES, self._limit * LITTLE)
        in_flight = self._in_flight_of()
        fattest = [(-size - in_flight.get(holder, 0), number, holder) for number, (size, holder) in enumerate(holders)]
        heapq.heapify(fattest)
        while fattest and freed < too_much:
            held, _, holder = heapq.heappop(fattest)
            if -held <= little:
                break
            self._forfeit += in_flight.get(holder, 0)
            holder.cut_for_memory()
            self.has_cut = True
            self._counters.memory_clients_cut += 1
            freed -= held
        return freed
