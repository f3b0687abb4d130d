"""The probe: what honest clients feel while something happens, measured from a process of its own.

python -m survival.probe '{"address": "127.0.0.1:7000"}'

Some clients send requests at a steady pace whatever comes back. SIGUSR1 ends a phase and begins the next one; of each
phase that has ended the probe prints the figures as JSON, see Phase, when its requests are answered or given up. With
SIGTERM the last phase and the probe end. In a test:

    with probing(gateway.address) as probe:
        time.sleep(5)
        calm = probe.phase()      # of the five seconds; the next phase has begun
        ...the attack...
        attack = probe.phase()
    assert attack.p99_ms <= calm.p99_ms + 50

A stall of the probe's own process looks like one of the gateway: `own_p99_ms` says how late the probe itself woke up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import uvloop
from processes import Process

HEADER = struct.Struct(">IBBHI")
REQUEST, REPLY, ERROR, PING, PONG = 0, 1, 4, 5, 6
GIVEN_UP_S = 10.0  # after the end of its phase a request has so long to be answered
TESTS = Path(__file__).parent.parent
clock = time.monotonic


@dataclass(frozen=True, kw_only=True)
class Setup:
    address: str  # of a listener
    clients: int = 10
    rate: float = 100.0  # requests a second, of all clients
    command: int = 1
    body: str = "probe 1 s n"  # as the tests' worker wants it


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Figures of the requests that were sent in it. A request without answer counts with the time it was waited for."""

    seconds: float
    requests: int
    errors: int  # error packets, refused ones included
    unanswered: int  # their connection ended, or they were given up
    p50_ms: float
    p99_ms: float
    max_ms: float
    own_p99_ms: float  # how late the probe itself was

    def __str__(self) -> str:
        return (
            f"p50 {self.p50_ms:.1f}, p99 {self.p99_ms:.1f}, slowest {self.max_ms:.0f} ms of {self.requests}"
            f" ({self.errors} errors, {self.unanswered} unanswered; the probe's own p99 {self.own_p99_ms:.1f} ms)"
        )


class Probe:
    """The probe's process, from the outside."""

    def __init__(self, setup: Setup) -> None:
        self.process = Process([sys.executable, "-m", "survival.probe", json.dumps(asdict(setup))], {}, TESTS)
        self._phases = 0
        self.process.wait_line("^connected$")

    def phase(self) -> Phase:
        """End this phase; return its figures when they are whole. The next phase has begun meanwhile."""
        self.process.send(signal.SIGUSR1)
        self._phases += 1
        line = self.process.wait_line("^phase (.*)", count=self._phases)
        return Phase(**json.loads(line[1]))


@contextlib.contextmanager
def probing(address: str, **setup: object) -> Iterator[Probe]:
    """A probe of the listener at `address`; `setup` is a Setup's."""
    probe = Probe(Setup(address=address, **setup))  # type: ignore[arg-type]
    try:
        yield probe
    finally:
        probe.process.close()


# The rest runs in the probe's process.


@dataclass(slots=True)
class Tally:
    began: float = field(default_factory=clock)
    ended: float = 0.0
    took: list[float] = field(default_factory=list)  # seconds
    late: list[float] = field(default_factory=list)
    open: int = 0
    errors: int = 0
    unanswered: int = 0

    def figures(self) -> Phase:
        return Phase(
            seconds=self.ended - self.began,
            requests=len(self.took),
            errors=self.errors,
            unanswered=self.unanswered,
            p50_ms=percentile(self.took, 0.5) * 1000,
            p99_ms=percentile(self.took, 0.99) * 1000,
            max_ms=percentile(self.took, 1) * 1000,
            own_p99_ms=percentile(self.late, 0.99) * 1000,
        )


def percentile(values: Sequence[float], part: float) -> float:
    """The value that `part` of them do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else 0.0


class Client(asyncio.Protocol):
    """Answers pings, as the wire asks."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._body = setup.body.encode()
        self._open: dict[int, tuple[float, Tally]] = {}
        self._seq = 0
        self._tail = b""
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, tally: Tally) -> None:
        tally.open += 1
        self._seq += 1
        self._open[self._seq] = (clock(), tally)
        if self._lost:
            self._give_up(self._seq)
        else:
            header = HEADER.pack(8 + len(self._body), REQUEST, 0, self._setup.command, self._seq)
            self._transport.write(header + self._body)

    def data_received(self, data: bytes) -> None:
        data = self._tail + data
        at = 0
        while len(data) - at >= HEADER.size:
            length, kind, _, command, seq = HEADER.unpack_from(data, at)
            if len(data) - at < 4 + length:
                break
            if kind == PING:
                self._transport.write(
                    HEADER.pack(length, PONG, 0, command, seq) + data[at + HEADER.size : at + 4 + length]
                )
            elif kind in (REPLY, ERROR) and seq in self._open:
                self._settle(seq).errors += kind == ERROR
            at += 4 + length
        self._tail = data[at:]

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        for seq in tuple(self._open):
            self._give_up(seq)

    def _settle(self, seq: int) -> Tally:
        since, tally = self._open.pop(seq)
        tally.took.append(clock() - since)
        tally.open -= 1
        return tally

    def _give_up(self, seq: int) -> None:
        self._settle(seq).unanswered += 1

    def give_up_on(self, old: Tally) -> None:
        for seq in [seq for seq, (_, tally) in self._open.items() if tally is old]:
            self._give_up(seq)


async def main(setup: Setup) -> None:
    loop = asyncio.get_running_loop()
    host, _, port = setup.address.rpartition(":")
    clients = [(await loop.create_connection(lambda: Client(setup), host, int(port)))[1] for _ in range(setup.clients)]
    tally = Tally()
    ending: list[asyncio.Task[None]] = []
    stopping = asyncio.Event()

    async def finish(old: Tally, before: Sequence[asyncio.Task[None]]) -> None:
        """Print a phase's figures when all of it is answered, or nobody waits any longer; after those before it."""
        give_up_at = clock() + GIVEN_UP_S
        await asyncio.gather(*before)
        while old.open and clock() < give_up_at:
            await asyncio.sleep(0.02)
        for client in clients:
            client.give_up_on(old)
        print("phase", json.dumps(asdict(old.figures())), flush=True)

    def end_phase() -> None:
        nonlocal tally
        tally.ended = clock()
        ending.append(asyncio.create_task(finish(tally, tuple(ending))))
        tally = Tally()

    loop.add_signal_handler(signal.SIGUSR1, end_phase)
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    print("connected", flush=True)
    due = clock()
    number = 0
    while not stopping.is_set():
        await asyncio.sleep(max(0.0, due - clock()))
        tally.late.append(max(0.0, clock() - due))
        clients[number % len(clients)].ask(tally)
        number += 1
        due = max(due + 1 / setup.rate, clock() - 0.1)
    end_phase()
    await asyncio.gather(*ending)


if __name__ == "__main__":
    uvloop.run(main(Setup(**json.loads(sys.argv[1]))))
