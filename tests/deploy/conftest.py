"""One cluster of containers for all tests that need one, whole again before each of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from deploy.engine import WORKERS, Deployment, checkout, docker, require_engine, require_ports

HEALTHY_S = 120.0
LINKED_S = 60.0
LOOK_AGAIN_S = 0.1
REPLICAS = {"worker": 3, "tour": 1}


def eventually(condition: Callable[[], object], what: str, timeout_s: float = LINKED_S) -> float:
    """Look until it is so; return how many seconds that took.

    Raises:
        AssertionError: it took too long.
    """
    began_at = time.monotonic()
    while not condition():
        assert time.monotonic() - began_at < timeout_s, f"not within {timeout_s} s: {what}"
        time.sleep(LOOK_AGAIN_S)
    return time.monotonic() - began_at


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The compose file, brought up as it is, in what a new user has just cloned."""
    require_engine()
    require_ports()
    folder = tmp_path_factory.mktemp("checkout")
    checkout(folder)
    deployment = Deployment(folder)
    try:
        deployment.up("--build")
        yield deployment
        logs = deployment.logs()
        assert "Traceback" not in logs, logs[logs.index("Traceback") - 1000 :][:4000]
    finally:
        deployment.close()


@pytest.fixture
def cluster(deployment: Deployment) -> Deployment:
    """All containers run, and every gateway is linked to every worker, whatever the last test has done."""
    for container in deployment.paused():
        docker("unpause", container)
    deployment.up()
    wait_linked(deployment)
    for service in WORKERS:
        assert len(deployment.containers(service)) == REPLICAS[service]
    return deployment


def wait_linked(deployment: Deployment) -> float:
    """Until every gateway is linked to every worker that runs, and to nobody else; how many seconds that took."""

    def is_linked() -> bool:
        workers = deployment.workers().keys()
        return all(deployment.answered(gateway).keys() == workers for gateway in deployment.gateways)

    return eventually(is_linked, "every gateway is linked to every worker")
