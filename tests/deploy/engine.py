"""A cluster made by docker-compose.yml as it is, on this machine's engine, under a project name of the tests' own."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
WORKERS = ("worker", "tour")
COMMAND_S = 60.0  # generous: it only ends a test that has failed already
BUILD_S = 600.0


def skip_without_engine() -> None:
    """Skip the whole module, in one line, where no engine runs; not where GATECREW_REQUIRE_DOCKER=1 forbids it."""
    if os.environ.get("GATECREW_REQUIRE_DOCKER") != "1" and (missing := _what_is_missing()):
        pytest.skip(_no_docker(missing), allow_module_level=True)


def require_engine() -> None:
    if missing := _what_is_missing():
        pytest.fail(_no_docker(missing), pytrace=False)


def _no_docker(missing: str) -> str:
    return f"NO DOCKER ({missing}): the compose file is not tried; get all it needs with tests/tools/get_docker.sh"


def _what_is_missing() -> str:
    if shutil.which("docker") is None:
        return "no docker command"
    for what, command in (
        ("no engine answers", ["docker", "info"]),
        ("no docker compose", ["docker", "compose", "version"]),
    ):
        if subprocess.run(command, capture_output=True, timeout=COMMAND_S).returncode != 0:
            return what
    return ""


def published_ports() -> list[int]:
    """Of this machine, as the compose file has them without variables."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values()
    ports = [re.sub(r"\$\{\w+:-(\d+)\}", r"\1", port) for service in services for port in service.get("ports", ())]
    return [int(port.split(":")[-2]) for port in ports]


def require_ports() -> None:
    """Fail where somebody listens on a port that the compose file publishes."""
    for port in published_ports():
        if reason := _reason_not_to_bind(port):
            pytest.fail(f"port {port}, which docker-compose.yml publishes: {reason}; end who listens there", False)


def _reason_not_to_bind(port: int) -> str:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError as error:
            return error.strerror or str(error)
    return ""


class Deployment:
    """`up`, then `close`. Its services are those of the compose file in `folder`; a container is named by its id."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project = f"gatecrew-test-{os.getpid()}"
        self.gateways = {"gateway-1": "127.0.0.1:7000", "gateway-2": "127.0.0.1:7001"}

    def compose(self, *arguments: str, timeout_s: float = COMMAND_S) -> str:
        command = ("docker", "compose", "--project-name", self.project, *arguments)
        return _run(*command, timeout_s=timeout_s, cwd=self.folder)

    def up(self, *arguments: str) -> None:
        """As a user brings it up; returns when the containers run, or with `--wait` when they are healthy."""
        self.compose("up", "--detach", *arguments, timeout_s=BUILD_S)

    def containers(self, service: str) -> list[str]:
        """Those of it that exist, whether they run or not."""
        return self.compose("ps", "--all", "--quiet", service).split()

    def paused(self) -> list[str]:
        return self.compose("ps", "--quiet", "--status", "paused").split()

    def workers(self) -> dict[str, str]:
        """Of all services, those that run: address -> container."""
        found = [each for service in WORKERS for each in self.containers(service)]
        return {address: each for each in found if (address := self.address_of(each))}

    def address_of(self, container: str) -> str:
        """In the cluster's network; empty when it does not run."""
        networks = inspect(container)["NetworkSettings"]["Networks"]
        return str(networks[f"{self.project}_default"]["IPAddress"])

    def state_of(self, container: str) -> dict[str, Any]:
        state: dict[str, Any] = inspect(container)["State"]
        return state

    def answered(self, gateway: str) -> dict[str, int]:
        """Of the workers that a gateway is linked to: address -> requests that they answered it.

        Asked in its own container; empty when it does not answer.
        """
        ask = ("exec", "-T", gateway, "gatecrew", "status", "--json", "--gateway-service", "127.0.0.1:7070")
        done = _try("docker", "compose", "--project-name", self.project, *ask, timeout_s=COMMAND_S, cwd=self.folder)
        if done.returncode != 0:
            return {}
        links = [link for each in json.loads(done.stdout)["gateways"] for link in each["links"]]
        return {link["address"].partition(":")[0]: link["answered"] for link in links if link["state"] == "ready"}

    def consul(self, path: str) -> Any:
        """What Consul answers, on the port where its users find it."""
        with urllib.request.urlopen(f"http://127.0.0.1:8500/v1/{path}", timeout=COMMAND_S) as answer:
            return json.load(answer)

    def health(self, service: str) -> dict[str, str]:
        """Of a service's instances, as Consul sees it: address -> the worst status of its checks."""
        rank = ("passing", "warning", "critical")
        return {
            row["Service"]["Address"]: max((check["Status"] for check in row["Checks"]), key=rank.index)
            for row in self.consul(f"health/service/{service}")
        }

    def logs(self) -> str:
        return self.compose("logs", "--no-color")

    def close(self) -> None:
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "5")


def docker(*arguments: str) -> str:
    return _run("docker", *arguments, timeout_s=COMMAND_S)


def inspect(name: str) -> dict[str, Any]:
    """Of a container or an image."""
    [found] = json.loads(docker("inspect", name))
    assert isinstance(found, dict)
    return found


def checkout(folder: Path) -> None:
    """Put there what a clone has, with what is not committed yet, and without anything that builds have left."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def _run(*command: str, timeout_s: float, cwd: Path = ROOT) -> str:
    done = _try(*command, timeout_s=timeout_s, cwd=cwd)
    assert done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def _try(*command: str, timeout_s: float, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout_s)
