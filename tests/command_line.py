"""The command line called as a user calls it, and clusters made by it."""

from dataclasses import dataclass
from pathlib import Path

from processes import Process, gatecrew

WORKER = """
import asyncio, os
from gatecrew_worker import Request, Status, StatusError, Worker

worker = Worker("chat")

@worker.on(1)
async def echo(request: Request) -> bytes:
    return request.body

@worker.on(2)
async def fail(request: Request) -> bytes:
    raise StatusError(Status.NOT_FOUND, "no such room")

@worker.on(3)
async def push(request: Request) -> bytes:
    await worker.push_session(request.session, b"first", command=30)
    await worker.push_session(request.session, request.body, command=31)
    return b"pushed"

@worker.on(4)
async def dawdle(request: Request) -> bytes:
    print("dawdling", flush=True)
    await asyncio.sleep(float(request.body))
    return b""

@worker.on(5)
async def die(request: Request) -> bytes:
    os._exit(3)
"""

# A developer's Consul, or settings for another cluster, must not be what is tested; nor may a cluster of the tests take
# Consul's port from whoever needs it, as docker-compose.yml does.
ALONE = {
    "CONSUL_HTTP_ADDR": None,
    "CONSUL_HTTP_TOKEN": None,
    "GATECREW_GATEWAY": None,
    "GATECREW_LOOP": None,
    "GATECREW_REGISTRY__LISTEN": "127.0.0.1:0",
}


def run(*arguments: str, cwd: Path | None = None, env: dict[str, str | None] | None = None) -> tuple[int, str, str]:
    """Run the command line to its end: exit code, standard output, standard error."""
    process = Process(gatecrew(*arguments), {**ALONE, **(env or {})}, cwd)
    try:
        code = process.wait()
    finally:
        process.close()
    return code, "\n".join(process.stdout), "\n".join(process.stderr)


@dataclass(frozen=True)
class Cluster:
    process: Process
    gateway: str
    service: str
    environment: dict[str, str | None]  # in which other commands find it

    def pid(self, name: str) -> int:
        return int(self.process.wait_line(rf"^{name}: .*pid (\d+)")[1])


def describe(process: Process) -> Cluster:
    """Wait until `gatecrew up` is ready."""
    process.wait_line("^ready: ")
    registry = process.wait_line(r"^registry: http://([\d.:]+)")[1]
    gateway = process.wait_line(r"^gateway(?:-1)?: main on ([\d.:]+), service on ([\d.:]+)")
    return Cluster(process, gateway[1], gateway[2], {"CONSUL_HTTP_ADDR": registry})
