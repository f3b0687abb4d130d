"""What links and sessions cost when nothing happens: for docs/sizing.md.

Usage: python -m bench.links            one gateway with 0, 20, 60 workers
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

from gatecrew_registry import Registry, RegistrySettings
from gatecrew_worker import Request, Worker

from .language import start, wait_for

SECONDS = 20.0
COUNTS = (0, 20, 60)
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_kib(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0])


def echo() -> Worker:
    worker = Worker("echo")

    @worker.on(101)
    async def back(request: Request) -> bytes:
        return request.body

    return worker


async def measure(count: int) -> None:
    registry = start("registry", "--listen", "127.0.0.1:0")
    gateway: subprocess.Popen[str] | None = None
    try:
        os.environ["CONSUL_HTTP_ADDR"] = address = wait_for(registry, r"address=(\S+)")
        async with Registry(RegistrySettings(address=address)) as client, AsyncExitStack() as stack:
            for _ in range(count):
                await stack.enter_async_context(echo().serving(registry=client))
            gateway = start("gateway", "--listen", "127.0.0.1:0")
            pid = int(await asyncio.to_thread(wait_for, gateway, r"pid=(\d+)"))
            await asyncio.sleep(5)  # all linked, start-up done
            processes = {"gateway": pid, "registry": registry.pid, "workers (one process)": os.getpid()}
            before, began_at = {name: cpu_s(each) for name, each in processes.items()}, time.monotonic()
            await asyncio.sleep(SECONDS)
            took = time.monotonic() - began_at
            used = ", ".join(f"{n} {(cpu_s(p) - before[n]) / took * 100:.2f} %" for n, p in processes.items())
            print(f"{count} workers: CPU of one core: {used}; gateway {rss_kib(pid) / 1024:.1f} MiB", flush=True)
    finally:
        for process in (gateway, registry):
            if process is not None:
                process.terminate()
                process.wait()


if __name__ == "__main__":
    for each in map(int, sys.argv[1:]) if sys.argv[1:] else COUNTS:
        asyncio.run(measure(each))
