"""deploy/kubernetes and deploy/nomad: what their own validators say, and that they name what there is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from command_line import run

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes" / "gatecrew.yaml"
NOMAD = ROOT / "deploy" / "nomad" / "gatecrew.nomad.hcl"
NOMAD_CHECK = ROOT / "tests" / "tools" / "nomad-check"
KUBERNETES_VERSIONS = ("1.30", kubernetes_validate.latest_version())  # preStop.sleep is on by default since 1.30


def documents() -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(KUBERNETES.read_text("utf-8")) if each]


def validate(document: dict[str, Any]) -> None:
    for version in KUBERNETES_VERSIONS:
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("document", documents(), ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
def test_kubernetes_takes_it(document: dict[str, Any]) -> None:
    validate(document)


def test_the_validator_finds_mistakes() -> None:
    [gateway] = [each for each in documents() if (each["kind"], each["metadata"]["name"]) == ("Deployment", "gateway")]
    gateway["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(gateway)


def containers() -> dict[str, dict[str, Any]]:
    return {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]["containers"][0]
        for each in documents()
        if "template" in each.get("spec", {})
    }


def test_kubernetes_objects_fit_together() -> None:
    found = containers()
    names = {name: {port["name"]: port["containerPort"] for port in each["ports"]} for name, each in found.items()}
    for name, container in found.items():
        for probe in ("readinessProbe", "livenessProbe"):
            port = container.get(probe, {}).get("grpc", {}).get("port")
            assert port is None or port in names[name].values()
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert security["capabilities"] == {"drop": ["ALL"]}
    for service in (each for each in documents() if each["kind"] == "Service"):
        ports = names[service["spec"]["selector"]["app"]]
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports.keys()
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    assert found["consul"]["image"] == compose["services"]["consul"]["image"]


@pytest.mark.parametrize("name", ["gateway", "chat"])
def test_the_arguments_of_containers_are_commands_of_ours(name: str) -> None:
    """With --help at the end, everything before it is parsed and nothing is started."""
    code, _, error = run(*containers()[name]["args"], "--help", cwd=ROOT)
    assert code == 0, error


def nomad_check(*paths: Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("go") is None:
        if os.environ.get("GATECREW_REQUIRE_WORKERS"):
            pytest.fail("deploy/nomad is checked with Nomad's parser, which needs go")
        pytest.skip("NOT TESTED: deploy/nomad; go is not here to build Nomad's parser")
    binary = ROOT / ".build" / "nomad-check"
    build = ["go", "build", "-buildvcs=false", "-o", str(binary), "."]
    subprocess.run(build, cwd=NOMAD_CHECK, check=True, timeout=300)
    return subprocess.run([str(binary), *map(str, paths)], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.timeout(400)
def test_nomad_takes_it(tmp_path: Path) -> None:
    done = nomad_check(NOMAD)
    assert done.returncode == 0, done.stderr
    assert "job gatecrew, 3 groups" in done.stdout
    broken = tmp_path / "broken.nomad.hcl"
    broken.write_text(NOMAD.read_text("utf-8").replace("kill_timeout", "kill_time_out", 1))
    done = nomad_check(broken)
    assert done.returncode != 0
    assert "kill_time_out" in done.stderr


def test_the_arguments_of_nomad_tasks_are_commands_of_ours() -> None:
    text = re.sub(r"\$\{NOMAD_PORT_\w+\}", "7070", NOMAD.read_text("utf-8"))
    text = re.sub(r"\$\{NOMAD_IP_\w+\}", "192.0.2.1", text)
    found = [re.findall(r'"([^"]*)"', each) for each in re.findall(r"\bargs\s*=\s*\[(.*?)\]", text, re.DOTALL)]
    assert [each[0] for each in found] == ["gateway", "worker", "run"]
    for arguments in found:
        program = arguments.index("--") if "--" in arguments else len(arguments)
        code, _, error = run(*arguments[:program], "--help", cwd=ROOT)
        assert code == 0, error
