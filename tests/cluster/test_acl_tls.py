"""A cluster with a Consul that denies by default and speaks HTTPS only, by the files of deploy/consul as they are."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from command_line import ALONE, run
from processes import PATIENCE_S, Process, free_port, gatecrew
from survival.history import Answered, Ended, Sent, read
from survival.load import Load
from tools.consul import require_consul

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "consul"
MANAGEMENT = "6e1c47a2-9f0b-4d0e-8a37-b5a1f2c3d4e5"
NEW_TOKEN_WITHIN_S = 10.0  # catalogue row 50
ECHO = "from gatecrew_worker import Worker\nworker = Worker('chat')\n@worker.on(1)\nasync def echo(r): return r.body\n"

pytestmark = pytest.mark.timeout(300)
Environment = dict[str, str | None]


def until(true: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> None:
    give_up_at = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < give_up_at, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


class Consul:
    """The agent, and tokens made by the commands of the README."""

    def __init__(self, folder: Path) -> None:
        self.binary = require_consul("current")
        authority = Authority(folder / "tls")
        cert, key = authority.issue("consul", "IP:127.0.0.1", "localhost")
        ports = {name: free_port() for name in ("server", "serf-lan", "serf-wan")}
        https = free_port()
        self.address = f"https://127.0.0.1:{https}"
        self.environment: Environment = {**ALONE, "CONSUL_HTTP_ADDR": self.address, "CONSUL_CACERT": authority.ca}
        command = [str(self.binary), "agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=warn"]
        command += [f"-{name}-port={port}" for name, port in ports.items()]
        command += ["-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1", f"-config-file={DEPLOY / 'agent.hcl'}"]
        command += [f"-hcl=ports {{ https = {https} }}"]
        command += [f'-hcl=tls {{ defaults {{ ca_file="{authority.ca}" cert_file="{cert}" key_file="{key}" }} }}']
        command += [f'-hcl=acl {{ tokens {{ initial_management = "{MANAGEMENT}" agent = "{MANAGEMENT}" }} }}']
        self.process = Process(command, dict.fromkeys(name for name in os.environ if name.startswith("CONSUL_")))
        until(lambda: self._cli("acl", "token", "list").returncode == 0, f"ready\n{self.process.output[-2000:]}")

    def _cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "CONSUL_HTTP_TOKEN": MANAGEMENT}
        environment |= {name: value for name, value in self.environment.items() if value and name.startswith("CONSUL")}
        command = [str(self.binary), *arguments]
        return subprocess.run(command, env=environment, cwd=DEPLOY, capture_output=True, text=True, check=False)

    def cli(self, *arguments: str) -> str:
        done = self._cli(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def follow_readme(self) -> dict[str, dict[str, str]]:
        """Run its commands; returns accessor and secret of each policy's token."""
        [block] = re.findall(r"^```sh\n(.*?)^```$", (DEPLOY / "README.md").read_text(), re.MULTILINE | re.DOTALL)
        tokens = {}
        for line in block.splitlines():
            words = re.findall(r'"[^"]*"|\S+', line)
            printed = self.cli(*(word.strip('"') for word in words[1:]))
            if "token" in words:
                policy = words[words.index("-policy-name") + 1]
                tokens[policy] = dict(re.findall(r"^(AccessorID|SecretID): +(\S+)$", printed, re.MULTILINE))
        return tokens


@pytest.fixture(scope="module")
def consul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consul]:
    consul = Consul(tmp_path_factory.mktemp("consul"))
    try:
        yield consul
    finally:
        consul.process.kill()
        consul.process.close()


@pytest.fixture(scope="module")
def tokens(consul: Consul) -> dict[str, dict[str, str]]:
    return consul.follow_readme()


class Cluster:
    """A gateway, two workers by the SDK and one by `gatecrew run`, each with the token of its policy in a file."""

    def __init__(self, consul: Consul, tokens: dict[str, dict[str, str]], folder: Path, start: Callable[..., Process]):
        self.consul = consul
        self.folder = folder
        self.secrets = {each["SecretID"] for each in tokens.values()}
        (folder / "echo.py").write_text(ECHO)
        for name, policy in (("gateway", "gatecrew-gateway"), ("worker", "gatecrew-worker-chat")):
            self.write_token(name, tokens[policy]["SecretID"])
        self.workers = [
            start(gatecrew("worker", "echo:worker"), self.environment("worker"), folder),
            start(gatecrew("worker", "echo:worker"), self.environment("worker"), folder),
        ]
        command = [sys.executable, "-m", "gatecrew_cli", "worker", "echo:worker", "--no-register"]
        self.crew = start(gatecrew("run", "--service", "chat", "--", *command), self.environment("worker"), folder)
        for worker in self.workers:
            worker.wait_line("^gatecrew ready")
        self.crew.wait_line("^ready: 1 of chat")
        self.gateway = start(gatecrew("gateway", "--listen", "127.0.0.1:0"), self.environment("gateway"))
        found = self.gateway.wait_line(r"main=(127\.0\.0\.1:\d+) service=(127\.0\.0\.1:\d+)")
        self.clients, self.service = found[1], found[2]
        until(lambda: self.linked() == 3, "a link to each worker")

    def write_token(self, name: str, secret: str) -> None:
        self.secrets.add(secret)
        (self.folder / f"{name}.token").write_text(secret + "\n")

    def environment(self, name: str) -> Environment:
        return {**self.consul.environment, "CONSUL_HTTP_TOKEN_FILE": str(self.folder / f"{name}.token")}

    def linked(self) -> int:
        code, printed, error = run("status", "--json", "--gateway-service", self.service, env=ALONE)
        assert code == 0, error
        [gateway] = json.loads(printed)["gateways"]
        return sum(link["state"] == "ready" for link in gateway["links"])

    @property
    def processes(self) -> list[Process]:
        return [*self.workers, self.crew, self.gateway]


@pytest.fixture
def cluster(
    consul: Consul, tokens: dict[str, dict[str, str]], tmp_path: Path, start: Callable[..., Process]
) -> Iterator[Cluster]:
    cluster = Cluster(consul, tokens, tmp_path, start)
    yield cluster
    for process in cluster.processes:  # in no log, whatever went wrong
        assert not [secret for secret in cluster.secrets if secret in process.output]


def test_the_cluster_serves_with_the_least_rights(
    cluster: Cluster, tokens: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    assert run("call", "1", "hello", "--gateway", cluster.clients)[:2] == (0, "hello")
    operator = {**cluster.consul.environment, "CONSUL_HTTP_TOKEN": tokens["gatecrew-operator"]["SecretID"]}
    code, printed, error = run("status", env=operator)
    assert code == 0, error
    assert printed.count("worker chat-") == 3
    for process in cluster.processes:
        assert "ermission denied" not in process.output, process.output
    # What a token may not do is one line, and gives the secret away to nobody.
    code, _, error = run("status", env={**operator, "CONSUL_HTTP_TOKEN": "8a1f0000-0000-4000-8000-000000000000"})
    assert code == 2
    assert "ACL not found" in error
    assert "\n" not in error
    assert "8a1f" not in error


def test_a_right_less_is_too_little(consul: Consul, tmp_path: Path) -> None:
    """Each rule of the worker's and the gateway's policy is needed, for the one thing that it is there for."""
    rules = (DEPLOY / "gateway.hcl").read_text()
    rules = re.sub(r"#.*\n", "", rules)
    for gone, needed_for in (
        (r'service "gatecrew-gateway" \{.*?\}\n', "write"),
        (r'service_prefix "" \{.*?\}\n', "read"),
    ):
        name = f"less-{needed_for}"
        less = re.sub(gone, "", rules, flags=re.DOTALL)
        assert less != rules
        consul.cli("acl", "policy", "create", "-name", name, "-rules", less)
        secret = re.findall(r"SecretID: +(\S+)", consul.cli("acl", "token", "create", "-policy-name", name))[0]
        env = {**consul.environment, "CONSUL_HTTP_TOKEN": secret}
        process = Process(gatecrew("gateway", "--listen", "127.0.0.1:0"), env)
        try:
            process.wait_line("^gatecrew ready")
            if needed_for == "write":
                process.wait_line("gatecrew-gateway-.* is not registered yet.*|.*Permission denied.*gatecrew-gateway")
            else:
                clients = process.wait_line(r"main=(127\.0\.0\.1:\d+)")[1]
                assert run("call", "1", "--gateway", clients)[0] == 1  # it sees no worker
        finally:
            process.close()


def test_revoked_tokens_lose_nothing_and_new_ones_are_live_at_once(
    cluster: Cluster,
    tokens: dict[str, dict[str, str]],
    start: Callable[..., Process],
    tmp_path: Path,
    measured: Callable[[str], None],
) -> None:
    load = Load(name="acl", gateways=[cluster.clients], history=str(tmp_path / "h"), rate=500.0, commands=[[1]])
    sending = start([sys.executable, "-m", "survival.load", json.dumps(asdict(load))], cwd=ROOT / "tests")
    sending.wait_line("^connected")
    sending.wait_line("^answered", count=5)

    def more_answers() -> None:
        answered = sum("answered" in line for line in sending.lines)
        sending.wait_line("^answered", count=answered + 5)

    # Nobody else's tests use these: they are made here.
    fresh = {}
    for name, policy in (("gateway", "gatecrew-gateway"), ("worker", "gatecrew-worker-chat")):
        printed = cluster.consul.cli("acl", "token", "create", "-policy-name", policy)
        fresh[name] = dict(re.findall(r"^(AccessorID|SecretID): +(\S+)$", printed, re.MULTILINE))
        cluster.write_token(name, fresh[name]["SecretID"])
    time.sleep(3)  # every process has used it by now: a registration is looked at every 2 s
    for name in fresh:
        cluster.consul.cli("acl", "token", "delete", "-accessor-id", fresh[name]["AccessorID"])
    cluster.gateway.wait_line("ACL not found")
    cluster.workers[0].wait_line("ACL not found")
    more_answers()
    until(lambda: cluster.linked() == 3, "all are linked")
    # A worker dies while nobody may ask the registry: the others take over, and it comes back at its address.
    cluster.workers[0].kill()
    more_answers()
    for name, policy in (("gateway", "gatecrew-gateway"), ("worker", "gatecrew-worker-chat")):
        cluster.write_token(name, tokens[policy]["SecretID"])
    written_at = time.monotonic()
    newcomer = start(gatecrew("worker", "echo:worker"), cluster.environment("worker"), cluster.folder)
    newcomer.wait_line("^gatecrew ready")
    until(lambda: cluster.linked() == 3, "the new worker is found with the new token", 60)
    took = time.monotonic() - written_at
    measured(f"new tokens were live, and a new worker was linked, {took:.1f} s after they were written")
    more_answers()
    sending.send(signal.SIGTERM)
    sending.wait_line("^done")
    records = list(read(Path(load.history)))
    sent = {(each.session, each.seq) for each in records if isinstance(each, Sent) and not each.oneway}
    answers = [each for each in records if isinstance(each, Answered)]
    assert [each for each in records if isinstance(each, Ended)] == []
    assert [each for each in answers if each.status] == []
    assert sorted((each.session, each.seq) for each in answers) == sorted(sent)
    assert took < 3 * NEW_TOKEN_WITHIN_S
