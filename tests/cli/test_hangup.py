"""SIGHUP, which a terminal that is closed sends, drains as SIGTERM does."""

import signal
from collections.abc import Callable

import pytest
from command_line import ALONE, describe
from processes import Process, gatecrew

Start = Callable[..., Process]


def test_up_drains(start: Start, project: object) -> None:
    cluster = describe(start(gatecrew("up", "chat:worker", "--listen", "127.0.0.1:0"), ALONE, project))
    client = start(gatecrew("call", "4", "2", "--gateway", cluster.gateway, "--timeout", "30"), ALONE)
    cluster.process.wait_line(r"^worker-1 +\| dawdling")
    cluster.process.send(signal.SIGHUP)
    cluster.process.send(signal.SIGHUP)  # a shell and its kernel may both send one: it is no second request
    assert client.wait() == 0
    assert cluster.process.wait() == 0
    assert cluster.process.stdout[-1] == "stopped"


def test_nohup_is_heeded(start: Start, project: object) -> None:
    process = start(["nohup", *gatecrew("up", "chat:worker", "--listen", "127.0.0.1:0")], ALONE, project)
    cluster = describe(process)
    process.send(signal.SIGHUP)
    assert start(gatecrew("call", "1", "x", "--gateway", cluster.gateway), ALONE).wait() == 0
    assert "stopping" not in process.output
    assert process.stop() == 0


@pytest.mark.parametrize("what", ["gateway", "worker", "registry", "run"])
def test_a_single_process_drains(start: Start, project: object, what: str) -> None:
    registry = start(gatecrew("registry", "--listen", "127.0.0.1:0"), ALONE)
    address = registry.wait_line(r"address=(127\.0\.0\.1:\d+)")[1]
    worker = gatecrew("worker", "chat:worker", "--no-register")
    arguments, ready = {
        "gateway": (gatecrew("gateway", "--listen", "127.0.0.1:0"), "^gatecrew ready"),
        "worker": (worker, "^gatecrew ready"),
        "registry": (gatecrew("registry", "--listen", "127.0.0.1:0"), "^gatecrew ready"),
        "run": (gatecrew("run", "--service", "chat", "--", *worker), "^ready: 1 of chat"),
    }[what]
    process = start(arguments, {**ALONE, "CONSUL_HTTP_ADDR": address}, project)
    process.wait_line(ready)
    assert process.stop(signal.SIGHUP) == 0
