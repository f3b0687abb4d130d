"""Consul as those who operate a cluster see it: a real agent, and its own UI in a real browser."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Process, gatecrew
from survival.client import PONG, connected
from tools.browser import Browser
from tools.consul import ConsulAgent, require_consul

from deploy.conftest import eventually
from deploy.engine import ROOT
from gatecrew_cli.ready import parse

# Checks run every 5 s, and one failure is no reason yet.
pytestmark = pytest.mark.timeout(300)

WORKERS = 3
# What a check says is shown at once, not minutes later.
OPTIONS = ("-node=consul-1", '-hcl=check_update_interval = "0s"')


class Cluster:
    """A Consul, a gateway and chat workers, each a process."""

    def __init__(self) -> None:
        self.consul = ConsulAgent(require_consul("current"), *OPTIONS)
        self.workers: list[Process] = []
        self._started: list[Process] = []
        try:
            self.consul.start()
            self.workers = [
                self.start("worker", "examples.chat.worker:worker", "--listen", "127.0.0.1:0") for _ in range(WORKERS)
            ]
            gateway = self.start("gateway", "--listen", "127.0.0.1:0")
            self.addresses = [facts(worker, "worker")["address"] for worker in self.workers]
            self.gateway = facts(gateway, "gateway")["listener-main"]
            self.gateway_service = facts(gateway, "gateway")["service"]
        except BaseException:
            self.close()
            raise

    def start(self, *arguments: str) -> Process:
        process = Process(gatecrew(*arguments), {"CONSUL_HTTP_ADDR": self.consul.address}, ROOT)
        self._started.append(process)
        return process

    def ask(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self.consul.address}/v1/{path}", timeout=10) as answer:
            return json.load(answer)

    def checks(self, service: str) -> dict[str, dict[str, Any]]:
        """Of its instances: address -> check by its type."""
        return {
            f"{row['Service']['Address']}:{row['Service']['Port']}": {
                check["Type"]: check for check in row["Checks"] if check["ServiceID"]
            }
            for row in self.ask(f"health/service/{service}")
        }

    def health(self) -> list[str]:
        """Of the workers, in their order."""
        checks = self.checks("chat")
        return [checks[address]["grpc"]["Status"] for address in self.addresses]

    def close(self) -> None:
        for process in reversed(self._started):
            process.close()
        self.consul.stop()


def facts(process: Process, what: str) -> dict[str, str]:
    found = parse(process.wait_line(f"^gatecrew ready: {what} ").string)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def module_cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(module_cluster: Cluster) -> Iterator[Cluster]:
    """With all its workers in good health, before and after."""
    yield module_cluster
    for worker in module_cluster.workers:
        worker.send(signal.SIGCONT)
    eventually(lambda: set(module_cluster.health()) == {"passing"}, "all are green")


def test_what_a_worker_says_of_itself(cluster: Cluster) -> None:
    for row in cluster.ask("health/service/chat"):
        service = row["Service"]
        assert service["ID"] == f"chat-{service['Address']}-{service['Port']}"
        assert service["Tags"] == ["gatecrew-worker"]
        assert service["Meta"]["contract"] == "v1"
        assert service["Meta"]["commands"] == "1-4"
        assert service["Meta"]["incarnation"]
    eventually(
        lambda: all("success" in checks["grpc"]["Output"] for checks in cluster.checks("chat").values()),
        "Consul has asked every worker's health service",
    )


def test_what_a_gateway_says_of_itself(cluster: Cluster) -> None:
    with connected(cluster.gateway) as client:
        client.send(PONG, 0, 0)  # who says nothing is not kept
        [row] = cluster.ask("health/service/gatecrew-gateway")
        assert row["Service"]["Tags"] == ["gatecrew-gateway"]
        assert row["Service"]["Meta"]["listeners"] == f"main={cluster.gateway}"
        [checks] = cluster.checks("gatecrew-gateway").values()
        assert checks.keys() == {"grpc", "ttl"}
        wanted = f"main: 1 sessions; linked to {WORKERS} of {WORKERS} workers"

        def is_told() -> bool:
            [checks] = cluster.checks("gatecrew-gateway").values()
            return checks["ttl"]["Output"] == wanted and "success" in checks["grpc"]["Output"]

        eventually(is_told, wanted)
    assert {check["Status"] for check in checks.values()} == {"passing"}


def test_a_frozen_worker_is_red_until_it_is_back(cluster: Cluster) -> None:
    assert cluster.health() == ["passing"] * WORKERS
    cluster.workers[0].send(signal.SIGSTOP)
    eventually(lambda: cluster.health() == ["critical", *["passing"] * (WORKERS - 1)], "only the frozen one is red")
    cluster.workers[0].send(signal.SIGCONT)
    eventually(lambda: cluster.health() == ["passing"] * WORKERS, "all are green")


@pytest.fixture
def browser() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.close()


# The health of each thing in a list of the UI, by the first line of what it says.
LISTED = """
return Object.fromEntries([...document.querySelectorAll('.consul-service-list li, .consul-service-instance-list li')]
    .filter(item => item.querySelector('.passing, .critical'))
    .map(item => [item.innerText.trim().split('\\n')[0], item.querySelector('.critical') ? 'critical' : 'passing']))
"""


def test_the_ui_shows_who_is_well(cluster: Cluster, browser: Browser) -> None:
    ui = f"http://{cluster.consul.address}/ui/dc1/services"
    by_id = [f"chat-{address.replace(':', '-')}" for address in cluster.addresses]
    with connected(cluster.gateway) as client:
        client.send(PONG, 0, 0)  # who says nothing is not kept
        browser.open(ui)
        wait_listed(browser, {"chat": "passing", "gatecrew-gateway": "passing", "consul": "passing"})
        browser.open(f"{ui}/chat/instances")
        wait_listed(browser, dict.fromkeys(by_id, "passing"))
        # What a gateway holds.
        [row] = cluster.ask("health/service/gatecrew-gateway")
        browser.open(f"{ui}/gatecrew-gateway/instances/{row['Node']['Node']}/{row['Service']['ID']}/health-checks")
        browser.wait(lambda text: f"main: 1 sessions; linked to {WORKERS} of {WORKERS} workers" in text, "the note")
        # The UI follows by itself.
        browser.open(ui)
        cluster.workers[0].send(signal.SIGSTOP)
        wait_listed(browser, {"chat": "critical", "gatecrew-gateway": "passing", "consul": "passing"})
        browser.open(f"{ui}/chat/instances")
        wait_listed(browser, {**dict.fromkeys(by_id, "passing"), by_id[0]: "critical"})
        if path := os.environ.get("GATECREW_SCREENSHOT"):  # such as docs/consul-ui.png
            browser.run("document.activeElement.blur()")
            Path(path).write_bytes(browser.screenshot())
        cluster.workers[0].send(signal.SIGCONT)
        wait_listed(browser, dict.fromkeys(by_id, "passing"))


def wait_listed(browser: Browser, wanted: dict[str, str]) -> None:
    seen: dict[str, str] = {}

    def is_listed() -> bool:
        seen.clear()
        seen.update(browser.run(LISTED))
        return seen == wanted

    try:
        eventually(is_listed, "")
    except AssertionError:
        raise AssertionError(f"the UI shows {seen} instead of {wanted}:\n{browser.text()}") from None


def test_who_takes_a_dead_gateways_address_does_not_look_like_it(cluster: Cluster) -> None:
    gateway = cluster.start("gateway", "--listen", "127.0.0.1:0")
    address = facts(gateway, "gateway")["service"]
    gateway.kill()
    worker = cluster.start("worker", "examples.chat.worker:worker", "--listen", address)
    facts(worker, "worker")

    def is_asked() -> bool:
        ours, its = cluster.checks("gatecrew-gateway")[address]["grpc"], cluster.checks("chat")[address]["grpc"]
        return its["Status"] == "passing" and ours["Status"] == "critical" and "refused" not in ours["Output"]

    eventually(is_asked, "Consul has asked the worker for the gateway, and it said no")
    assert worker.stop(signal.SIGTERM) == 0
