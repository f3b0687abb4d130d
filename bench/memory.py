"""What an idle session costs the gateway in memory: 10 000 connections from a process of their own.

The clients' process, `python -m bench.memory HOST:PORT COUNT`, prints `connected` and waits for its stdin to end.
"""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from pathlib import Path

SESSIONS = 10_000


def of_idle_session(address: str, parent: int) -> float:
    """KiB of the gateway process, a child of `parent`, per idle session."""
    gateway = _gateway_process(parent)
    before = _resident_kib(gateway)
    clients = subprocess.Popen(
        [sys.executable, "-m", "bench.memory", address, str(SESSIONS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert clients.stdin is not None
    assert clients.stdout is not None
    try:
        if clients.stdout.readline() != "connected\n":
            raise SystemExit("bench.memory: the clients could not connect")
        return (_resident_kib(gateway) - before) / SESSIONS
    finally:
        clients.stdin.close()
        clients.wait()
        clients.stdout.close()


def _gateway_process(parent: int) -> int:
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if b"\0gateway\0" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    raise SystemExit("bench.memory: no gateway process found")


def _resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1])
    raise SystemExit(f"bench.memory: no memory figure of process {pid}")


def main() -> None:
    host, _, port = sys.argv[1].rpartition(":")
    count = int(sys.argv[2])
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, count + 200), most))
    # A round trip on each, so that the gateway has taken it in when we say so: a ping and its pong.
    ping = bytes([0, 0, 0, 8, 5, 0, 0, 0, 0, 0, 0, 1])
    clients = []
    for _ in range(count):
        client = socket.create_connection((host, int(port)))
        client.sendall(ping)
        clients.append(client)
    for client in clients:
        if len(client.recv(12)) != 12:
            sys.exit("bench.memory: a connection was not served")
    print("connected", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
