"""Children that live and do nothing any more: `gatecrew up` and `gatecrew run` end them and start them again."""

import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import ALONE, describe, run
from processes import PATIENCE_S, Process, gatecrew

from gatecrew_cli.silence import TICK_S, Silence

Start = Callable[..., Process]

WORKER = """
import asyncio, os, time
from gatecrew_worker import Request, Worker

worker = Worker("chat")
time.sleep(float(os.environ.get("IMPORTS_FOR_S", "0")))

@worker.on(1)
async def echo(request: Request) -> bytes:
    return request.body

@worker.on(2)
async def spins_for_ever(request: Request) -> bytes:
    while True:
        pass

@worker.on(3)
async def dawdle(request: Request) -> bytes:
    print("dawdling", flush=True)
    await asyncio.sleep(float(request.body))
    return b"done"
"""

# Without the SDK. Its loop stands still from SIGUSR2 on.
FOREIGN = """
import asyncio, os, signal
import grpc.aio
from grpc_health.v1 import health, health_pb2_grpc
from gatecrew.v1 import worker_pb2_grpc

def spins_for_ever():
    while True:
        pass

async def main():
    server = grpc.aio.server()
    worker_pb2_grpc.add_LogicWorkerServicer_to_server(worker_pb2_grpc.LogicWorkerServicer(), server)
    if "HEALTH" not in os.environ:
        health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    server.add_insecure_port(f"{os.environ['HOST']}:{os.environ['PORT']}")
    await server.start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, spins_for_ever)
    await asyncio.Event().wait()

asyncio.run(main())
"""

HELLO = struct.pack(">IBBHI", 8 + 5, 0, 0, 1, 1) + b"hello"  # a request, as docs/wire.md has it


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "chat.py").write_text(WORKER)
    return tmp_path


@pytest.fixture
def up(start: Start, folder: Path) -> Callable[..., Process]:
    def start_up(*arguments: str, after_s: float, env: dict[str, str | None] | None = None) -> Process:
        env = {**ALONE, "GATECREW_UNRESPONSIVE_AFTER": str(after_s), **(env or {})}
        return start(gatecrew("up", "chat:worker", *arguments, "--listen", "127.0.0.1:0"), env, folder)

    return start_up


def answers(gateway: str) -> bool:
    """Whether a new client gets its answer, in a second."""
    host, _, port = gateway.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1) as client:
            client.sendall(HELLO)
            return client.recv(100).endswith(b"hello")
    except OSError:
        return False


def until(condition: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)


def test_a_handler_that_never_yields_costs_its_worker_and_the_log_says_where(
    start: Start, up: Callable[..., Process]
) -> None:
    cluster = describe(up("--workers", "2", after_s=3))
    client = start(gatecrew("call", "2", "--gateway", cluster.gateway, "--timeout", "1"), ALONE)
    assert client.wait() == 1
    name = cluster.process.wait_line(r"^(worker-\d) \| silent for 3\.\d s: asked for its stacks")[1]
    cluster.process.wait_line(rf"^{name} \| .*chat\.py.*spins_for_ever")
    cluster.process.wait_line(rf"^{name} \| unresponsive for 3\.\d s: killed; starts again in 0\.1 s")
    cluster.process.wait_line(rf"^{name} +\| is back, pid")
    until(lambda: answers(cluster.gateway))


def test_a_worker_of_up_that_is_stopped_is_replaced(up: Callable[..., Process]) -> None:
    cluster = describe(up("--workers", "2", after_s=3))
    os.kill(cluster.pid("worker-1"), signal.SIGSTOP)
    cluster.process.wait_line(r"^worker-1 \| unresponsive for 3\.\d s: killed; starts again in 0\.1 s")
    cluster.process.wait_line(r"^worker-1 +\| is back, pid")
    assert "worker-2 | " not in "".join(line for line in cluster.process.lines if "killed" in line)


def test_a_gateway_that_is_stopped_is_noticed_and_replaced_on_its_ports(
    up: Callable[..., Process], measured: Callable[[str], None]
) -> None:
    """Within 5 s, and whole again 5 s later. A busy machine gets more time; what it took is printed."""
    cluster = describe(up(after_s=10))
    os.kill(cluster.pid("gateway"), signal.SIGSTOP)
    stopped_at = time.monotonic()
    cluster.process.wait_line(r"^gateway +\| unresponsive for 4\.\d s: killed; starts again in 0\.1 s")
    noticed_s = time.monotonic() - stopped_at
    until(lambda: answers(cluster.gateway))
    whole_s = time.monotonic() - stopped_at - noticed_s
    measured(f"a stopped gateway: noticed after {noticed_s:.1f} s, whole {whole_s:.1f} s later")
    assert noticed_s < 3 * 5
    assert whole_s < 3 * 5


def test_a_worker_that_starts_slowly_is_left_alone(up: Callable[..., Process]) -> None:
    cluster = describe(up(after_s=1, env={"IMPORTS_FOR_S": "4"}))
    assert "unresponsive" not in cluster.process.output
    assert answers(cluster.gateway)


def test_a_worker_that_is_being_drained_is_left_alone(start: Start, up: Callable[..., Process]) -> None:
    cluster = describe(up("--workers", "2", after_s=1))
    client = start(gatecrew("call", "3", "4", "--gateway", cluster.gateway, "--timeout", "20"), ALONE)
    name = cluster.process.wait_line(r"^(worker-\d) +\| dawdling")[1]
    os.kill(cluster.pid(name), signal.SIGTERM)
    cluster.process.wait_line(rf"^{name} +\| ended with exit code 0; starts again")
    assert client.wait() == 0
    assert "unresponsive" not in cluster.process.output


def test_zero_switches_it_off(up: Callable[..., Process]) -> None:
    cluster = describe(up("--workers", "2", after_s=0))
    os.kill(cluster.pid("worker-1"), signal.SIGSTOP)
    assert run("call", "3", "1", "--gateway", cluster.gateway, "--timeout", "20")[0] == 0
    assert "unresponsive" not in cluster.process.output


@pytest.mark.parametrize("who", ["the supervisor", "all"])
def test_a_supervisor_that_stood_still_itself_ends_nobody(up: Callable[..., Process], who: str) -> None:
    cluster = describe(up("--workers", "2", after_s=4))
    pids = [cluster.process.pid]
    if who == "all":
        pids += [cluster.pid(name) for name in ("registry", "worker-1", "worker-2", "gateway")]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(12)  # what is tested is this time
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    assert run("call", "3", "2", "--gateway", cluster.gateway, "--timeout", "20")[0] == 0  # some ticks later
    assert "unresponsive" not in cluster.process.output
    assert "silent for" not in "".join(line for line in cluster.process.lines if "given up" not in line)


def test_silence_does_not_grow_while_the_watcher_stands_still() -> None:
    silence = Silence(4.0)
    assert not silence.tick(100.0)
    for _ in range(13):
        assert not silence.tick(TICK_S)
    assert silence.tick(TICK_S)
    silence.heard()
    assert not silence.tick(TICK_S)


@pytest.fixture
def run_two(start: Start, folder: Path) -> Callable[..., tuple[Process, int]]:
    """`gatecrew run` with two replicas of a program, and the process id of the first."""

    def start_run(*program: str, after_s: float, env: dict[str, str | None] | None = None) -> tuple[Process, int]:
        registry = start(gatecrew("registry", "--listen", "127.0.0.1:0"), ALONE)
        address = registry.wait_line(r"address=(127\.0\.0\.1:\d+)")[1]
        env = {**ALONE, "CONSUL_HTTP_ADDR": address, "GATECREW_UNRESPONSIVE_AFTER": str(after_s), **(env or {})}
        process = start(gatecrew("run", "--service", "it", "--replicas", "2", "--", *program), env, folder)
        process.wait_line("^ready: 2 of it")
        return process, int(process.wait_line(r"^it-1 \| serves on .*pid (\d+)")[1])

    return start_run


PROGRAMS = {
    "the SDK": (*gatecrew("worker", "chat:worker", "--no-register"),),
    "foreign": (sys.executable, "-c", FOREIGN),
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_a_program_of_run_that_is_stopped_is_replaced(
    run_two: Callable[..., tuple[Process, int]], program: tuple[str, ...]
) -> None:
    process, pid = run_two(*program, after_s=3)
    os.kill(pid, signal.SIGSTOP)
    process.wait_line(r"^it-1 \| unresponsive for 3\.\d s: killed; starts again in 0\.1 s")
    process.wait_line(r"^it-1 \| serves on", count=2)
    assert process.stop() == 0
    assert "it-2 | unresponsive" not in process.output


@pytest.mark.parametrize("env", [{}, {"HEALTH": "none"}], ids=["health service", "none"])
def test_a_program_of_run_whose_loop_stands_still_is_replaced(
    run_two: Callable[..., tuple[Process, int]], env: dict[str, str | None]
) -> None:
    process, pid = run_two(sys.executable, "-X", "faulthandler", "-c", FOREIGN, after_s=3, env=env)
    os.kill(pid, signal.SIGUSR2)
    process.wait_line(r"^it-1 \| unresponsive for 3\.\d s: killed; starts again in 0\.1 s")
    process.wait_line(r"^it-1 \| serves on", count=2)
    assert process.stop() == 0


def test_a_program_of_run_that_knows_how_is_asked_for_its_stacks(run_two: Callable[..., tuple[Process, int]]) -> None:
    knows = "import faulthandler, signal; faulthandler.register(signal.SIGUSR1)\n" + FOREIGN
    process, pid = run_two(sys.executable, "-c", knows, after_s=3)
    os.kill(pid, signal.SIGUSR2)
    process.wait_line(r"^it-1 \| silent for 3\.\d s: asked for its stacks")
    process.wait_line(r"^it-1 \| .* in spins_for_ever")
    process.wait_line(r"^it-1 \| unresponsive")


def test_run_ends_nobody_after_it_stood_still_with_all_its_programs(
    run_two: Callable[..., tuple[Process, int]],
) -> None:
    process, _ = run_two(*PROGRAMS["foreign"], after_s=3)
    pids = [process.pid, *descendants(process.pid)]
    assert len(pids) == 4  # itself, two programs, and the process that asks for their health
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(8)  # what is tested is this time
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    time.sleep(4)  # and that nothing comes of it
    assert "unresponsive" not in process.output
    assert process.stop() == 0


def test_the_process_that_asks_for_health_may_die(run_two: Callable[..., tuple[Process, int]]) -> None:
    process, pid = run_two(*PROGRAMS["foreign"], after_s=3)
    [asks] = [each for each in descendants(process.pid) if "--watch-health" in command_line(each)]
    os.kill(asks, signal.SIGKILL)
    os.kill(pid, signal.SIGSTOP)
    process.wait_line(r"^it-1 \| unresponsive for 3\.\d s: killed; starts again in 0\.1 s")


def descendants(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


@pytest.mark.parametrize("after", ["-1", "0.5", "soon"])
def test_nonsense_is_refused(after: str) -> None:
    code, _, error = run("up", "chat:worker", "--unresponsive-after", after)
    assert code == 2
    assert "--unresponsive-after" in error
