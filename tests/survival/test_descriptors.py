"""More clients than file descriptors: those that are there are served, and the gateway can be asked and linked to."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from command_line import ALONE, run
from processes import PATIENCE_S, Process, gatecrew

from survival.client import ERROR, REPLY, Client, connected
from survival.cluster import eventually

LIMIT, RESERVE = 200, 64
TESTS = Path(__file__).parent.parent
CLIENTS = 300
ECHO = "from gatecrew_worker import Worker\nworker = Worker('echo')\n@worker.on(1)\nasync def echo(r): return r.body\n"

Environment = dict[str, str | None]


def gateway_status(env: Environment) -> dict[str, Any]:
    code, printed, error = run("status", "--json", env=env)
    assert code == 0, error
    [found] = json.loads(printed)["gateways"]
    assert isinstance(found, dict)
    return found


def wait_for_links(count: int, env: Environment) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while sum(link["state"] == "ready" for link in gateway_status(env)["links"]) != count:
        assert time.monotonic() < give_up_at, f"not linked to {count} workers"


def is_refused(client: Client) -> bool:
    """Told so and closed; or no word yet, then it is one of those that are in."""
    client.send(0, 1, 1, b"in?")
    try:
        answer = client.read()
    except ConnectionError:
        return True
    assert answer is None or answer.kind in (REPLY, ERROR)
    return answer is None or answer.kind == ERROR


def open_descriptors(process: Process) -> int:
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


needs_prlimit = pytest.mark.skipif(
    shutil.which("prlimit") is None, reason="NOT TESTED: file descriptors; prlimit is not here"
)


@needs_prlimit
def test_clients_never_have_the_last_descriptor(start: Callable[..., Process], tmp_path: Any) -> None:
    (tmp_path / "echo.py").write_text(ECHO)
    registry = start(gatecrew("registry", "--listen", "127.0.0.1:0"), ALONE)
    env: Environment = {**ALONE, "CONSUL_HTTP_ADDR": registry.wait_line(r"address=(127\.0\.0\.1:\d+)")[1]}
    start(gatecrew("worker", "echo:worker"), env, tmp_path).wait_line("^gatecrew ready")
    gateway = start(["prlimit", f"--nofile={LIMIT}:{LIMIT}", *gatecrew("gateway", "--listen", "127.0.0.1:0")], env)
    address = gateway.wait_line(r"main=(127\.0\.0\.1:\d+)")[1]
    wait_for_links(1, env)
    with ExitStack() as stack:
        crowd = [stack.enter_context(connected(address)) for _ in range(CLIENTS)]
        refused = [client for client in crowd if is_refused(client)]
        assert CLIENTS - (LIMIT - RESERVE) <= len(refused) < CLIENTS
        inside = CLIENTS - len(refused)
        eventually(lambda: sum(each["sessions"] for each in gateway_status(env)["listeners"]) == inside, "told so")
        start(gatecrew("worker", "echo:worker"), env, tmp_path).wait_line("^gatecrew ready")
        wait_for_links(2, env)
        assert all(client.ask(1, b"still").body == b"still" for client in crowd if client not in refused)
    eventually(lambda: sum(each["sessions"] for each in gateway_status(env)["listeners"]) == 0, "they have gone")
    with connected(address) as late:  # when they have gone
        assert late.ask(1, b"late").body == b"late"


@needs_prlimit
@pytest.mark.slow
@pytest.mark.parametrize("per_s", [33, 100, 1000])
def test_a_flood_of_connections_takes_no_reserved_descriptor(
    start: Callable[..., Process], tmp_path: Any, per_s: int, measured: Callable[[str], None]
) -> None:
    """Held for ten seconds at a gateway that is full: it can be asked and linked to all the time."""
    (tmp_path / "echo.py").write_text(ECHO)
    registry = start(gatecrew("registry", "--listen", "127.0.0.1:0"), ALONE)
    env: Environment = {**ALONE, "CONSUL_HTTP_ADDR": registry.wait_line(r"address=(127\.0\.0\.1:\d+)")[1]}
    gateway = start(["prlimit", f"--nofile={LIMIT}:{LIMIT}", *gatecrew("gateway", "--listen", "127.0.0.1:0")], env)
    address = gateway.wait_line(r"main=(127\.0\.0\.1:\d+)")[1]
    before = open_descriptors(gateway)
    attack = [sys.executable, "-m", "survival.attacker"]
    silent = start([*attack, "silent", address, str(LIMIT - RESERVE)], {}, TESTS)
    silent.wait_line("^attacking$")
    flood = start([*attack, "connects", address, str(per_s)], {}, TESTS)
    flood.wait_line("^attacking$")
    began = time.monotonic()
    worker = start(gatecrew("worker", "echo:worker"), env, tmp_path)
    worker.wait_line("^gatecrew ready")
    wait_for_links(1, env)
    linked_s = time.monotonic() - began
    most = 0
    while not most or time.monotonic() - began < 10:
        gateway_status(env)
        most = max(most, open_descriptors(gateway))
    measured(f"worker linked within {linked_s:.1f} s, at most {most} of {LIMIT} descriptors open")
    assert most < LIMIT - RESERVE // 3
    refusals = [line for line in gateway.stderr if "refused" in line]
    assert 1 <= len(refusals) <= 4
    silent.close()
    flood.close()
    eventually(lambda: open_descriptors(gateway) <= before + 8, "descriptors are back")
    with connected(address) as late:
        assert late.ask(1, b"late").body == b"late"
