"""The load: so many clients with so many open requests each, in a process of its own, the same for every system.

It shares two cores with what it measures, so it is cheap: replies have a known size, and kinds and lengths of a whole
read are checked by two strided counts. Of every read the first packet is checked in full. At the end it stops sending
and waits for what is open: every request must have been answered, and nothing more.

Usage: python -m bench.load HOST:PORT --clients 50 --open 1 --seconds 3 --warmup 1
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from array import array
from typing import cast

import uvloop

from .wire import BODY, HEADER, REPLY, REQUEST, SIZE, request

SAMPLE_EVERY = 8  # of a client's reads one is timed
LAST_ANSWERS_WITHIN_S = 10.0


class Client(asyncio.Protocol):
    def __init__(self, load: Load) -> None:
        self.load = load
        self.sent = 0
        self.answered = 0
        self._rest = b""
        self._reads = 0
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, count: int) -> None:
        first = self.sent + 1
        self.sent += count
        if count == 1:
            self._transport.write(request(first))
        else:
            self._transport.write(b"".join(map(request, range(first, first + count))))

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        count, left = divmod(len(data), SIZE)
        self._rest = data[count * SIZE :] if left else b""
        if not count:
            return
        whole = data if not left else data[: count * SIZE]
        length, kind, flags, _, seq = HEADER.unpack_from(whole)
        kinds = whole[4::SIZE]
        if (
            kinds.count(REPLY) + kinds.count(REQUEST) != count
            or whole[3::SIZE].count(SIZE - 4) != count
            or length != SIZE - 4
            or flags
            or not 0 < seq <= self.sent
            or whole[HEADER.size : SIZE] != BODY
        ):
            self.load.fail(f"not a reply: {whole[:SIZE]!r}")
            return
        self.answered += count
        if self.answered > self.sent:
            self.load.fail("more answers than requests")
            return
        self._reads += 1
        if self._reads % SAMPLE_EVERY == 0:
            now = time.perf_counter()
            if self.load.measuring:
                self.load.latencies.append(now - self._sent_at)
        if self.load.sending:
            self.send(count)
            if self._reads % SAMPLE_EVERY == SAMPLE_EVERY - 1:
                self._sent_at = time.perf_counter()
        elif self.answered == self.sent:
            self.load.done()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.load.over:
            self.load.fail(f"connection lost: {exc}")


class Load:
    def __init__(self, clients: int, open_requests: int) -> None:
        self.clients = [Client(self) for _ in range(clients)]
        self.open_requests = open_requests
        self.sending = True
        self.measuring = False
        self.over = False
        self.latencies = array("d")
        self._open_clients = clients
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, reason: str) -> None:
        if not self._finished.done():
            self._finished.set_exception(SystemExit(f"bench.load: {reason}"))

    def done(self) -> None:
        self._open_clients -= 1
        if not self._open_clients and not self._finished.done():
            self._finished.set_result(None)

    def answered(self) -> int:
        return sum(client.answered for client in self.clients)

    async def run(self, host: str, port: int, warmup_s: float, seconds: float) -> dict[str, float]:
        loop = asyncio.get_running_loop()
        for client in self.clients:
            await loop.create_connection(lambda client=client: client, host, port)  # type: ignore[misc]
        for client in self.clients:
            client.send(self.open_requests)
        await asyncio.wait([self._finished], timeout=warmup_s)
        self.measuring = True
        before, cpu_before, at = self.answered(), _cpu(), time.perf_counter()
        await asyncio.wait([self._finished], timeout=seconds)
        passed = time.perf_counter() - at
        count, cpu = self.answered() - before, _cpu() - cpu_before
        self.measuring = self.sending = False
        await asyncio.wait([self._finished], timeout=LAST_ANSWERS_WITHIN_S)
        self.over = True
        if not self._finished.done():
            missing = sum(client.sent - client.answered for client in self.clients)
            raise SystemExit(f"bench.load: {missing} requests were never answered")
        self._finished.result()
        latencies = sorted(self.latencies)
        return {
            "per_second": count / passed,
            "p50_us": _at(latencies, 0.5) * 1e6,
            "p99_us": _at(latencies, 0.99) * 1e6,
            "load_ns_per_request": cpu / max(1, count) * 1e9,
        }


def _at(latencies: list[float], share: float) -> float:
    return latencies[min(len(latencies) - 1, int(len(latencies) * share))] if latencies else float("nan")


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.load")
    parser.add_argument("address", metavar="HOST:PORT")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--open", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--warmup", type=float, default=1.0)
    args = parser.parse_args()
    host, _, port = args.address.rpartition(":")

    async def run() -> dict[str, float]:
        return await Load(args.clients, args.open).run(host, int(port), args.warmup, args.seconds)

    json.dump(uvloop.run(run()), sys.stdout)
    print()


if __name__ == "__main__":
    main()
