"""`gatecrew run` as its users meet it: a real registry, real worker programs, signals."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import ALONE, run
from processes import PATIENCE_S, Process, free_port, gatecrew

from gatecrew_cli import ports

Start = Callable[..., Process]

# Answers every command with its own process id; ends with exit code 3 on command 2.
HANDLE = """
import asyncio, os, signal
import grpc.aio
from grpc_health.v1 import health, health_pb2_grpc
from gatecrew.v1 import worker_pb2, worker_pb2_grpc

class Program(worker_pb2_grpc.LogicWorkerServicer):
    async def Handle(self, request, context):
        if request.command == 2:
            os._exit(3)
        return worker_pb2.Reply(id=request.id, body=f"{os.getpid()} {os.environ['SERVICE']}".encode())

    async def Link(self, messages, context):
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "only Handle")

async def main():
    server = grpc.aio.server()
    worker_pb2_grpc.add_LogicWorkerServicer_to_server(Program(), server)
    if "HEALTH" not in os.environ:
        health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    server.add_insecure_port(f"{os.environ['HOST']}:{os.environ['PORT']}")
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    print("asked to stop", flush=True)
    await server.stop(1)

asyncio.run(main())
"""


@pytest.fixture
def registry(start: Start) -> str:
    process = start(gatecrew("registry", "--listen", "127.0.0.1:0"), ALONE)
    return process.wait_line(r"address=(127\.0\.0\.1:\d+)")[1]


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    (tmp_path / "program.py").write_text(HANDLE)
    return [sys.executable, str(tmp_path / "program.py")]


@pytest.fixture
def start_run(start: Start, registry: str) -> Callable[..., Process]:
    def start_one(*arguments: str, env: dict[str, str] | None = None) -> Process:
        return start(gatecrew("run", *arguments), {**ALONE, "CONSUL_HTTP_ADDR": registry, **(env or {})})

    return start_one


def entries(registry: str, service: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"http://{registry}/v1/health/service/{service}") as answer:
        found: list[dict[str, Any]] = json.load(answer)
        return found


def until(true: Callable[[], Any], what: str) -> Any:
    give_up_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up_at:
        if result := true():
            return result
        time.sleep(0.02)
    raise AssertionError(f"not within {PATIENCE_S} s: {what}")


def test_replicas_are_registered_once_they_serve_and_deregistered_when_stopped(
    start_run: Start, program: list[str], registry: str
) -> None:
    process = start_run("--service", "upper", "--replicas", "2", "--commands", "1-9", "--", *program)
    process.wait_line("^ready: 2 of upper")
    listed = entries(registry, "upper")
    assert len(listed) == 2
    for each in listed:
        service = each["Service"]
        assert service["Tags"] == ["gatecrew-worker"]
        assert service["Meta"]["commands"] == "1-9"
        assert service["ID"] == f"upper-127.0.0.1-{service['Port']}"
        assert {check["Type"] for check in each["Checks"] if check["ServiceID"]} == {"grpc"}
    assert process.stop() == 0
    assert process.output.count("asked to stop") == 2
    assert entries(registry, "upper") == []


def test_a_replica_that_dies_starts_again_at_its_address(start_run: Start, program: list[str], registry: str) -> None:
    process = start_run("--service", "upper", "--", *program)
    first = process.wait_line(r"serves on ([\d.:]+), pid (\d+)")
    os.kill(int(first[2]), signal.SIGKILL)
    second = process.wait_line(r"serves on ([\d.:]+), pid (\d+)", count=2)
    assert second[1] == first[1]
    assert second[2] != first[2]
    assert process.wait_line("ended by SIGKILL; starts again in 0.1 s")
    [entry] = until(lambda: entries(registry, "upper"), "registered again")
    assert f"127.0.0.1:{entry['Service']['Port']}" == first[1]


def test_a_client_reaches_it_through_a_gateway_and_a_crash_is_answered(
    start_run: Start, start: Start, program: list[str], registry: str
) -> None:
    process = start_run("--service", "upper", "--replicas", "2", "--", *program)
    process.wait_line("^ready: 2 of upper")
    env: dict[str, str | None] = {"CONSUL_HTTP_ADDR": registry}
    gateway = start(gatecrew("gateway", "--listen", "127.0.0.1:0"), {**ALONE, **env})
    clients = gateway.wait_line(r"main=(127\.0\.0\.1:\d+)")[1]
    until(lambda: run("call", "1", "--gateway", clients, env=env)[0] == 0, "an answer")
    # It kills two workers and never a third: `run` starts both again.
    code, _, error = run("call", "2", "--gateway", clients, env=env)
    assert code == 1
    assert "FAILED_PRECONDITION" in error
    process.wait_line("ended with exit code 3", count=2)
    process.wait_line("serves on", count=4)
    until(lambda: run("call", "1", "--gateway", clients, env=env)[0] == 0, "an answer after the crash")
    assert re.fullmatch(r"\d+ upper", run("call", "1", "--gateway", clients, env=env)[1])


def test_a_crash_loop_is_left_alone_and_said(start_run: Start, registry: str) -> None:
    process = start_run("--service", "broken", "--", sys.executable, "-c", "print('no database'); raise SystemExit(7)")
    assert process.wait() == 1
    assert process.output.count("broken-1 | no database") == 5
    assert "ended with exit code 7; 5 times in a row within 10 s: not started again" in process.output
    assert process.stderr[-1] == "gatecrew: every worker of broken ended again and again: gave up"
    assert entries(registry, "broken") == []


def test_one_in_a_crash_loop_leaves_the_others_alone(
    start_run: Start, program: list[str], registry: str, tmp_path: Path
) -> None:
    script = tmp_path / "worker.sh"
    first = free_port()
    script.write_text(f'#!/bin/sh\n[ "$PORT" = {first} ] && exec {" ".join(program)}\nexit 1\n')
    script.chmod(0o755)
    process = start_run("--service", "upper", "--replicas", "2", "--listen", f"127.0.0.1:{first}", "--", str(script))
    process.wait_line(r"upper-2 \| .* not started again")
    process.wait_line(r"upper-1 \| serves on")
    assert len(entries(registry, "upper")) == 1
    assert process.stop() == 0


def test_a_port_that_was_given_to_another_replica_is_not_given_again() -> None:
    """Although nobody may listen on it yet."""
    free = free_port()
    assert ports.free_port("127.0.0.1", set(ports.LISTENING_PORTS) - {free}) == free
    with pytest.raises(OSError, match="in use"):
        ports.free_port("127.0.0.1", ports.LISTENING_PORTS)


def test_a_program_without_health_service_is_served_and_not_checked(
    start_run: Start, program: list[str], registry: str
) -> None:
    process = start_run("--service", "upper", "--", *program, env={"HEALTH": "no"})
    process.wait_line("serves on .* it has no health service, so the registry does not check it")
    [entry] = entries(registry, "upper")
    assert [check for check in entry["Checks"] if check["ServiceID"]] == []


def test_a_program_that_does_not_stop_is_killed(start_run: Start, program: list[str], tmp_path: Path) -> None:
    stubborn = tmp_path / "stubborn.py"
    stubborn.write_text(HANDLE.replace("stop.set)", "lambda: print('no', flush=True))"))
    process = start_run("--service", "upper", "--stop-after", "0.3", "--", sys.executable, str(stubborn))
    pid = int(process.wait_line(r"serves on [\d.:]+, pid (\d+)")[1])
    assert process.stop() == 0
    assert "upper-1 | did not stop within 0.3 s: killed" in process.output
    assert not Path(f"/proc/{pid}").exists()


def test_children_die_with_a_killed_parent(start_run: Start, program: list[str]) -> None:
    process = start_run("--service", "upper", "--", *program)
    pid = int(process.wait_line(r"serves on [\d.:]+, pid (\d+)")[1])
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    until(lambda: not is_running(pid), "the end of the program")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_the_supervising_process_is_without_grpc() -> None:
    code = "import sys, gatecrew_cli.commands.run, gatecrew_cli.crew; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--service", "a", "--", "no-such-program"], "no-such-program: no such program"),
        (["--service", "A b", "--", "true"], "--service 'A b': give lower-case letters, digits and dashes"),
        (["--service", "a", "--commands", "x", "--", "true"], "--commands: "),
        (
            ["--service", "a", "--replicas", "5", "--listen", "127.0.0.1:65533", "--", "true"],
            "--listen: there are no 5",
        ),
        (
            ["--service", "a", "--listen", "a..b:0", "--", "true"],
            "Invalid value for '--listen': 'a..b:0' is not HOST:PORT",
        ),
        (["--service", "a", "--listen", "nosuch.invalid:0", "--", "true"], "nosuch.invalid:0: "),
        (["--service", "a", "--commands", "9" * 5000, "--", "true"], "--commands: "),
        (
            ["--service", "a", "--stop-after", "nan", "--", "true"],
            "Invalid value for '--stop-after': 'nan' is not a number of seconds",
        ),
        (["--service", "a"], "Missing argument"),
        (["--", "true"], "Missing option '--service'"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], complaint: str) -> None:
    code, _, error = run("run", *arguments)
    assert code == 2
    assert error.startswith(f"gatecrew: {complaint}")
    assert "\n" not in error


def test_a_registry_that_comes_later_hears_of_it(start: Start, program: list[str]) -> None:
    address = f"127.0.0.1:{free_port()}"
    process = start(gatecrew("run", "--service", "upper", "--", *program), {**ALONE, "CONSUL_HTTP_ADDR": address})
    process.wait_line("^ready: 1 of upper")
    process.wait_line(r"does not answer \(connection refused\): no gateway can find this worker yet\. Start it, or set")
    start(gatecrew("registry", "--listen", address), ALONE).wait_line("^gatecrew ready")
    process.wait_line("the registry answers; upper-.* is registered")
    until(lambda: len(entries(address, "upper")) == 1, "registered")
    assert process.stop() == 0
    assert entries(address, "upper") == []


def test_what_a_program_left_running_does_not_hide_that_it_ended(start_run: Start) -> None:
    leave = "import os; os.fork() or os.execvp('sleep', ['sleep', '60']); os._exit(5)"  # the child keeps both pipes
    process = start_run("--service", "upper", "--", sys.executable, "-c", leave)
    process.wait_line("ended with exit code 5; starts again")
    assert process.stop() == 0


def test_it_stops_though_nobody_reads_what_its_programs_print(start: Start) -> None:
    """A pipeline's `head`, or a log collector, may be gone: the programs are stopped all the same."""
    flood = f"{sys.executable} -m gatecrew_cli run --service upper -- yes"
    shell = start(["bash", "-c", f"{flood} > >(head -n 2) & echo run $!; wait $!; echo rc $?"], ALONE)
    pid = int(shell.wait_line(r"^run (\d+)")[1])
    assert [shell.wait_line(r"^upper-1 \| y$") for _ in range(2)]
    os.kill(pid, signal.SIGTERM)
    assert int(shell.wait_line(r"^rc (\d+)")[1]) < 128  # it ended by itself


def test_a_program_that_does_not_serve_is_said_and_not_registered(start_run: Start, registry: str) -> None:
    process = start_run("--service", "mute", "--", "sleep", "1000")
    process.wait_line(r"does not serve on 127\.0\.0\.1:\d+ yet")
    assert entries(registry, "mute") == []
    assert process.stop() == 0


def test_it_stops_though_its_output_stays_unread(start: Start, tmp_path: Path) -> None:
    """A terminal stopped with Ctrl-S: far more than a pipe holds is printed, and nobody is kept waiting for that."""
    printed = tmp_path / "printed"
    much = f"import time; print('y' * 99 * 50_000); open('{printed}', 'w'); time.sleep(1000)"
    command = shlex.join([*gatecrew("run", "--service", "upper", "--", sys.executable, "-c", much)])
    shell = start(["bash", "-c", f"{command} > >(sleep 1000) & echo run $!; wait $!; echo rc $?; kill %%; true"], ALONE)
    pid = int(shell.wait_line(r"^run (\d+)")[1])
    until(printed.exists, "all is printed")
    os.kill(pid, signal.SIGTERM)
    assert int(shell.wait_line(r"^rc (\d+)")[1]) < 128


def test_a_signal_without_a_name_is_one_too(start_run: Start, program: list[str]) -> None:
    process = start_run("--service", "upper", "--", *program)
    os.kill(int(process.wait_line(r"pid (\d+)$")[1]), signal.SIGRTMIN + 6)
    process.wait_line(f"ended by signal {signal.SIGRTMIN + 6}; starts again")
    assert process.stop() == 0


@pytest.mark.parametrize("how", ["stopped", "wrapper killed"])
def test_a_program_behind_a_shell_is_stopped_too(start_run: Start, program: list[str], registry: str, how: str) -> None:
    process = start_run("--service", "upper", "--", "sh", "-c", f"{shlex.join(program)}; true")
    pid = int(process.wait_line(r"serves on .* pid (\d+)$")[1])
    if how == "wrapper killed":
        os.kill(pid, signal.SIGKILL)
        process.wait_line("asked to stop")
        process.wait_line("ended by SIGKILL; starts again")
        until(lambda: process.output.count("serves on") == 2, "it serves again")
    assert process.stop() == 0
    assert process.output.count("asked to stop") == (2 if how == "wrapper killed" else 1)
    assert entries(registry, "upper") == []


def test_somebody_elses_worker_is_not_taken_for_ours(start_run: Start, program: list[str], registry: str) -> None:
    port = free_port()
    first = start_run("--service", "upper", "--listen", f"127.0.0.1:{port}", "--", *program)
    first.wait_line("^ready")
    second = start_run("--service", "upper", "--listen", f"127.0.0.1:{port}", "--", *program)
    assert second.wait() == 2
    assert second.stderr == [f"gatecrew: 127.0.0.1:{port}: Address already in use; choose another with --listen"]
    assert len(entries(registry, "upper")) == 1
