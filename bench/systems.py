"""The systems under test: each a set of real processes, started fresh, ended by their own handle."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# The reference workers of examples/workers, in the order of the table.
LANGUAGES = {"python": "Python", "go": "Go", "java": "Java", "node": "Node", "rust": "Rust", "cpp": "C++"}
READY = re.compile(r"\bready\b.*?(127\.0\.0\.1:\d+)")


@dataclass(frozen=True)
class System:
    key: str
    title: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Running:
    address: str
    pid: int


def _module(name: str, *args: str) -> tuple[str, ...]:
    return (sys.executable, "-m", name, *args)


def _gatecrew(workers: int) -> tuple[str, ...]:
    return _module(
        "gatecrew_cli", "up", "bench.echo_worker:worker", "--workers", str(workers), "--listen", "127.0.0.1:0"
    )


SYSTEMS = (
    System("raw", "raw echo, no gateway", _module("bench.raw_echo")),
    System("gatecrew3", "Gatecrew, three workers", _gatecrew(3)),
    System("gatecrew1", "Gatecrew, one worker", _gatecrew(1)),
    *(
        System(language, f"Gatecrew, three {title} workers", _module("bench.language", language, "3"))
        for language, title in LANGUAGES.items()
    ),
    System("zmq3", "ZeroMQ DEALER/ROUTER, three workers", _module("bench.zmq_gateway", "3")),
    System("unary3", "one unary gRPC call a packet, three workers", _module("bench.unary_gateway", "3")),
)


@contextmanager
def running(system: System) -> Iterator[Running]:
    """Start it; it is ready when it says so.

    Raises:
        SystemExit: it ended instead.
    """
    # A registry of its own, on a port that nobody else has.
    environment = {**os.environ, "GATECREW_REGISTRY__LISTEN": "127.0.0.1:0"}
    environment.pop("CONSUL_HTTP_ADDR", None)
    process = subprocess.Popen(
        system.command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )
    assert process.stdout is not None
    printed = []
    try:
        for line in process.stdout:
            printed.append(line)
            found = READY.search(line)
            if found and not line.startswith("worker"):
                yield Running(found[1], process.pid)
                return
        raise SystemExit(f"bench: {system.title} did not start:\n{''.join(printed)}")
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()
