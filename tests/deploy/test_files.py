"""The compose file and the Dockerfile say what they must. That they run is proven on an engine."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.engine import published_ports

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def test_what_there_is(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert compose["name"] == "gatecrew"
    assert services.keys() == {"consul", "gateway-1", "gateway-2", "worker", "tour"}
    assert re.fullmatch(r"hashicorp/consul:\d+\.\d+\.\d+", services["consul"]["image"])
    assert "-ui" in services["consul"]["command"]
    assert services["worker"]["deploy"] == {"replicas": 3}


def test_ports_are_the_variables_or_the_usual_ones(compose: dict[str, Any]) -> None:
    ports = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert ports == {
        "consul": ["127.0.0.1:${GATECREW_CONSUL_PORT:-8500}:8500"],
        "gateway-1": ["${GATECREW_PORT:-7000}:7000"],
        "gateway-2": ["${GATECREW_PORT_2:-7001}:7000"],
    }
    assert published_ports() == [8500, 7000, 7001]


def test_a_consul_without_acls_is_published_to_this_machine_only(compose: dict[str, Any]) -> None:
    """Whoever may write to it can register a worker, and gets the clients' packets."""
    consul = compose["services"]["consul"]
    assert all(port.startswith("127.0.0.1:") for port in consul["ports"])


@pytest.mark.parametrize("name", ["worker", "tour"])
def test_workers_can_be_scaled(compose: dict[str, Any], name: str) -> None:
    assert not {"ports", "container_name", "hostname"} & compose["services"][name].keys()


def test_each_image_is_built_once(compose: dict[str, Any]) -> None:
    """Built by two services it is new each time, and `up --build` restarts what runs it."""
    built = [service["image"] for service in compose["services"].values() if "build" in service]
    assert sorted(built) == ["gatecrew-tour:local", "gatecrew:local"]


@pytest.mark.parametrize("name", ["consul", "gateway-1", "gateway-2", "worker", "tour"])
def test_every_container_is_locked_up(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["init"] is True
    assert "stop_grace_period" in service


@pytest.mark.parametrize("name", ["gateway-1", "gateway-2", "worker", "tour"])
def test_processes_wait_for_a_healthy_consul(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    assert service["depends_on"] == {"consul": {"condition": "service_healthy"}}
    assert service["environment"]["CONSUL_HTTP_ADDR"] == "consul:8500"


def test_the_image() -> None:
    text = (ROOT / "Dockerfile").read_text()
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert bases == ["python:3.12-slim", "python:3.12-slim", "golang:1.26", "gatecrew", "gatecrew"]
    for line in ("USER 10001:10001", "STOPSIGNAL SIGTERM", 'ENTRYPOINT ["gatecrew"]'):
        assert line in text.splitlines()
    assert "HEALTHCHECK" in text


def test_all_that_the_image_copies_gets_through_dockerignore() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    assert sources >= allowed
    assert all(any(Path(source).is_relative_to(each) for each in allowed) for source in sources)
    assert all((ROOT / source).exists() for source in sources)


def test_compose_itself_takes_the_file() -> None:
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    ):
        pytest.skip("docker compose is not installed")
    subprocess.run(["docker", "compose", "config", "--quiet"], cwd=ROOT, check=True)
