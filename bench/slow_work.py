"""Bursts of slow requests on three workers: how evenly they are shared, and how long they take against the ideal."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from statistics import median

from .report import Floor
from .slow_worker import WORK_S
from .systems import System, running
from .wire import COMMAND, HEADER, REQUEST

WORKERS = 3
BURSTS = 5
CLIENTS = {"threads": 36, "asynchronous": 36, "one_at_a_time": 30}  # each with one request of a burst


async def _bursts(address: str, count: int) -> list[tuple[float, Counter[bytes]]]:
    """Of each burst, the seconds until the last answer, and how many each worker had. One goes before, unmeasured."""
    host, _, port = address.rpartition(":")
    streams = [await asyncio.open_connection(host, int(port)) for _ in range(count)]

    async def ask(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(HEADER.pack(8, REQUEST, 0, COMMAND, number))
        length, *_ = HEADER.unpack(await reader.readexactly(HEADER.size))
        return await reader.readexactly(length - 8)

    results = []
    for number in range(1 + BURSTS):
        began = time.perf_counter()
        answers = await asyncio.gather(*(ask(number, *stream) for stream in streams))
        results.append((time.perf_counter() - began, Counter(answers)))
    for _, writer in streams:
        writer.close()
    return results[1:]


def measure() -> list[Floor]:
    """Medians of the bursts, of each way in which a handler can be slow."""
    found = []
    for way, count in CLIENTS.items():
        command = (sys.executable, "-m", "gatecrew_cli", "up", f"bench.slow_worker:{way}")
        command += ("--workers", str(WORKERS), "--listen", "127.0.0.1:0")
        print(f"slow work: {way}, {BURSTS} bursts of {count}", file=sys.stderr, flush=True)
        with running(System(way, way, command)) as up:
            bursts = asyncio.run(_bursts(up.address, count))
        even = count / WORKERS
        ideal_s = WORK_S * (even if way == "one_at_a_time" else 1)
        title = f"{count} requests of 100 ms at once, {way.replace('_', ' ')}"
        took = median(seconds for seconds, _ in bursts) / ideal_s
        share = median(max(shares.values()) for _, shares in bursts) / even
        found.append(Floor(f"{title}: time, of the ideal", took, 1.5, 1.2, False))
        found.append(Floor(f"{title}: largest share, of an even one", share, 1.5, 1.1, False))
    return found
