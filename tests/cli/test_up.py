"""`gatecrew up` with real gateways and workers: it starts, survives its parts, and leaves nothing behind."""

import contextlib
import json
import os
import re
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import ALONE, Cluster, describe, run
from processes import Process, gatecrew

Start = Callable[..., Process]


@pytest.fixture
def up(start: Start, project: Path) -> Callable[..., Process]:
    def start_up(*arguments: str, env: dict[str, str | None] | None = None) -> Process:
        arguments = ("up", *arguments, "--listen", "127.0.0.1:0")
        return start(gatecrew(*arguments), {**ALONE, **(env or {})}, project)

    return start_up


def call(cluster: Cluster, body: str = "hello") -> tuple[int, str, str]:
    return run("call", "1", body, "--gateway", cluster.gateway)


def ready_links(cluster: Cluster) -> list[tuple[str, str]]:
    """Address and incarnation of the workers that its gateways are linked to."""
    code, out, _ = run("status", "--json", env=cluster.environment)
    if code:
        return []
    gateways = json.loads(out)["gateways"]
    return [(each["address"], each["incarnation"]) for each in gateways[0]["links"] if each["state"] == "ready"]


def until(condition: Callable[[], object], within_s: float = 30) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_it_says_where_the_page_of_the_registry_is(up: Callable[..., Process]) -> None:
    cluster = describe(up("chat:worker"))
    page = cluster.process.wait_line(r"^page: (http://\S+)$")[1]
    with urllib.request.urlopen(page) as answer:
        assert "<title>Gatecrew registry</title>" in answer.read().decode()


def all_pids(cluster: Cluster) -> list[int]:
    return [int(each[1]) for each in map(re.compile(r"^[\w-]+: .*pid (\d+)").match, cluster.process.lines) if each]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_starts_answers_and_stops(up: Callable[..., Process], number: signal.Signals) -> None:
    cluster = describe(up("chat:worker", "--workers", "3"))
    assert call(cluster) == (0, "hello", "")  # the first packet after `ready`, no second try
    assert len(ready_links(cluster)) == 3
    pids = all_pids(cluster)
    assert len(pids) == 5  # registry, gateway, workers
    assert cluster.process.stop(number) == 0
    assert cluster.process.stdout[-2:] == ["stopping", "stopped"]
    assert all(is_gone(pid) for pid in pids)
    assert "Traceback" not in cluster.process.output


def test_a_worker_that_is_killed_comes_back_where_it_was(up: Callable[..., Process]) -> None:
    cluster = describe(up("chat:worker", "--workers", "2"))
    before = dict(ready_links(cluster))
    os.kill(cluster.pid("worker-1"), signal.SIGKILL)
    cluster.process.wait_line(r"^worker-1 +\| ended by SIGKILL; starts again in 0.1 s")
    assert call(cluster)[0] == 0
    until(lambda: len(ready_links(cluster)) == 2 and dict(ready_links(cluster)) != before)
    after = dict(ready_links(cluster))
    assert after.keys() == before.keys()
    assert sum(after[address] != before[address] for address in before) == 1


def test_a_worker_that_crashes_comes_back(up: Callable[..., Process]) -> None:
    cluster = describe(up("chat:worker", "--workers", "2"))
    code, _, error = run("call", "5", "--gateway", cluster.gateway)
    assert code == 1, error
    cluster.process.wait_line(r"ended with exit code 3; starts again")
    until(lambda: len(ready_links(cluster)) == 2)


def test_a_gateway_that_is_killed_comes_back_on_its_ports(up: Callable[..., Process]) -> None:
    cluster = describe(up("chat:worker", "--gateways", "2"))
    gateways = [cluster.process.wait_line(rf"^gateway-{number}: main on ([\d.:]+)")[1] for number in (1, 2)]
    assert len(set(gateways)) == 2
    for gateway in gateways:
        assert run("call", "1", "x", "--gateway", gateway)[:2] == (0, "x")
    os.kill(cluster.pid("gateway-1"), signal.SIGKILL)
    assert run("call", "1", "x", "--gateway", gateways[1])[:2] == (0, "x")
    until(lambda: run("call", "1", "x", "--gateway", gateways[0])[:2] == (0, "x"))
    code, out, _ = run("status", env=cluster.environment)
    assert code == 0
    assert out.count(" service ") == 2


def test_the_registry_may_die_too(up: Callable[..., Process]) -> None:
    cluster = describe(up("chat:worker"))
    os.kill(cluster.pid("registry"), signal.SIGKILL)
    assert call(cluster)[:2] == (0, "hello")
    # It forgets everything; all register again by themselves.
    until(lambda: len(ready_links(cluster)) == 1)
    assert call(cluster)[:2] == (0, "hello")


def test_no_child_outlives_a_killed_parent(up: Callable[..., Process]) -> None:
    cluster = describe(up("chat:worker", "--workers", "2"))
    pids = all_pids(cluster)
    os.kill(cluster.process.pid, signal.SIGKILL)
    until(lambda: all(is_gone(pid) for pid in pids))


def test_the_parent_never_loads_grpc(up: Callable[..., Process]) -> None:
    cluster = describe(up("chat:worker"))
    assert "cygrpc" not in Path(f"/proc/{cluster.process.pid}/maps").read_text()
    assert "cygrpc" in Path(f"/proc/{cluster.pid('worker-1')}/maps").read_text()  # the check itself works


def test_stop_waits_for_what_is_open_and_a_second_signal_does_not(up: Callable[..., Process], start: Start) -> None:
    cluster = describe(up("chat:worker"))
    client = start(gatecrew("call", "4", "60", "--gateway", cluster.gateway, "--timeout", "60"), ALONE)
    cluster.process.wait_line(r"^worker-1 +\| dawdling")
    pids = all_pids(cluster)
    cluster.process.send(signal.SIGINT)
    cluster.process.wait_line("^stopping")
    assert not is_gone(cluster.pid("worker-1"))
    cluster.process.send(signal.SIGINT)
    assert cluster.process.wait(10) == -signal.SIGINT
    until(lambda: all(is_gone(pid) for pid in pids))
    assert client.wait() == 1


def test_a_signal_while_it_starts(up: Callable[..., Process]) -> None:
    process = up("chat:worker", "--workers", "3")
    until(lambda: Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
    assert process.stop(signal.SIGTERM) in (0, -signal.SIGTERM)  # the latter before it listens to signals at all
    assert "Traceback" not in process.output


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (None, "gatecrew: broken:worker: no module 'broken' in {here}, and none installed"),
        (
            "import nowhere",
            "gatecrew: broken:worker: broken.py:1: No module named 'nowhere'; install it beside gatecrew",
        ),
        ("\n1 / 0", "gatecrew: broken:worker: does not import: broken.py:2: ZeroDivisionError: division by zero"),
        ("def f(:", "gatecrew: broken:worker: does not import: SyntaxError: invalid syntax (broken.py, line 1)"),
        ("import sys\nsys.exit('no')", "gatecrew: broken:worker: does not import: broken.py:2: SystemExit: no"),
        ("x = 1", "gatecrew: broken:worker: module 'broken' has no 'worker'"),
        (
            "import gatecrew_worker\nchat = gatecrew_worker.Worker('chat')",
            "gatecrew: broken:worker: module 'broken' has no 'worker'; its Worker objects are: chat",
        ),
        ("worker = 1", 'gatecrew: broken:worker: of type int, not Worker; write: worker = Worker("name")'),
    ],
)
def test_a_worker_that_does_not_import_is_one_line(start: Start, tmp_path: Path, source: str | None, line: str) -> None:
    if source is not None:
        (tmp_path / "broken.py").write_text(source)
    process = start(gatecrew("up", "broken:worker", "--workers", "3", "--listen", "127.0.0.1:0"), ALONE, tmp_path)
    assert process.wait() == 2
    assert process.stderr == [line.format(here=tmp_path)]


def test_a_port_in_use_is_one_line(cluster: Cluster, project: Path) -> None:
    code, out, error = run("up", "chat:worker", "--listen", cluster.gateway, cwd=project)
    assert (code, out) == (2, "")
    assert error == f"gatecrew: listener main: {cluster.gateway}: Address already in use; choose another with --listen"


def test_a_registry_beside_another_takes_a_free_port(up: Callable[..., Process]) -> None:
    with socket.socket() as other:
        with contextlib.suppress(OSError):  # whoever has it already is as good
            other.bind(("127.0.0.1", 8500))
            other.listen()
        cluster = describe(up("chat:worker", env={"GATECREW_REGISTRY__LISTEN": None}))
        address = cluster.environment["CONSUL_HTTP_ADDR"]
        assert address != "127.0.0.1:8500"
        cluster.process.wait_line(rf"^registry: .*; other commands find it with CONSUL_HTTP_ADDR={address}$")
        assert call(cluster)[:2] == (0, "hello")


def test_it_uses_the_consul_of_the_environment(up: Callable[..., Process], cluster: Cluster) -> None:
    own = describe(up("chat:worker", env=cluster.environment))
    assert own.environment == cluster.environment
    assert not any(line.startswith("registry |") for line in own.process.lines)
    assert len(all_pids(own)) == 2
    code, out, _ = run("status", "--json", env=cluster.environment)
    assert code == 0
    assert len(json.loads(out)["gateways"]) == 2
    assert own.process.stop() == 0
    _, out, _ = run("status", "--json", env=cluster.environment)
    assert len(json.loads(out)["gateways"]) == 1  # it deregistered


def test_a_consul_that_is_not_there_is_one_line(project: Path, port: int) -> None:
    where = f"127.0.0.1:{port}"
    code, out, error = run("up", "chat:worker", "--listen", "127.0.0.1:0", cwd=project, env={"CONSUL_HTTP_ADDR": where})
    assert (code, out) == (2, "")
    [line] = error.splitlines()
    named = f"CONSUL_HTTP_ADDR names a registry that does not answer, http://{where}"
    assert line == f"gatecrew: {named}; unset it, and `up` starts its own"


def test_all_can_be_said_in_a_file(start: Start, project: Path, tmp_path: Path) -> None:
    file = tmp_path / "gatecrew.toml"
    file.write_text(
        '[gateway]\nname = "g"\n[[listener]]\nname = "first"\nport = 0\n[[listener]]\nname = "a b"\nport = 0\n'
        '[[worker]]\ntarget = "chat:worker"\ncount = 2\n[registry]\nlisten = "127.0.0.1:0"\n'
    )
    process = start(gatecrew("up", "--config", str(file)), ALONE, project)
    process.wait_line("^ready")
    first, second = process.wait_line(r"^g: first on ([\d.:]+), a b on ([\d.:]+), service").groups()
    for listener in (first, second):
        assert run("call", "1", "x", "--gateway", listener)[:2] == (0, "x")
    assert process.stop() == 0


def test_modules_of_the_user_do_not_hide_ours_from_the_gateway(start: Start, tmp_path: Path, project: Path) -> None:
    (tmp_path / "chat.py").write_text((project / "chat.py").read_text())
    (tmp_path / "grpc.py").write_text("")
    (tmp_path / "protos").mkdir()
    process = start(
        [sys.executable, "-P", "-m", "gatecrew_cli", "up", "chat:worker", "--listen", "127.0.0.1:0"], ALONE, tmp_path
    )
    describe(process)


def test_make_run_says_when_it_is_ready_how_to_talk_to_it(start: Start) -> None:
    root = Path(__file__).parent.parent.parent
    process = start(["make", "-o", "install", "run", "LISTEN=127.0.0.1:0"], ALONE, root)
    told = process.wait_line(r"^ready: clients connect to (\S+), such as `(\S+ -m examples\.chat\.client) (\S+)`")
    assert told[1] == told[3]
    assert "examples.chat.client" not in "".join(process.lines[:-1])  # not before it is ready
    address = told[1]
    second = start(["make", "-o", "install", "run", f"LISTEN={address}"], ALONE, root)
    assert second.wait() == 2
    assert "make run LISTEN=127.0.0.1:PORT takes another port" in second.output
    process.interrupt()
    process.wait()
    assert "stopped" in process.stdout
