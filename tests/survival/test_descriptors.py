"""More clients than file descriptors: those that are there are served, and the gateway can be asked and linked to."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from command_line import ALONE, run
from processes import PATIENCE_S, Process, gatecrew

from survival.client import ERROR, REPLY, Client, connected
from survival.cluster import eventually

LIMIT, RESERVE = 200, 64
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


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="NOT TESTED: file descriptors; prlimit is not here")
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
    with connected(address) as late:  # when they have gone
        assert late.ask(1, b"late").body == b"late"
