"""`gatecrew dead-letters` against gateways that have quarantined something: what is seen, and what a replay does."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from command_line import ALONE, Cluster, describe, run
from processes import PATIENCE_S, Process, free_port, gatecrew
from survival.client import ERROR, connected

from gatecrew.v1 import gateway_pb2, gateway_pb2_grpc

WORKER = """
import os
from pathlib import Path
from gatecrew_worker import Request, Status, StatusError, Worker

worker = Worker("echo")

@worker.on(1)
async def touchy(request: Request) -> bytes:
    with open("met", "a") as met:
        met.write(f"{os.getpid()} {request.idempotency_key} {request.attempt}\\n")
    if not Path("mended").exists():
        os._exit(3)
    if request.body == b"bad":
        raise StatusError(Status.NOT_FOUND, "no such thing")
    return b"now well: " + request.body
"""
WORKERS = 3
EVIL = "\x1b[2Jpoison\x00" + "x" * 20


@dataclass
class Poisoned:
    """A cluster of two gateways. `poison` has it quarantine what it is given."""

    folder: Path
    up: Process
    cluster: Cluster
    gateways: list[str]
    services: list[str]

    def wait_workers(self) -> None:
        """Until every gateway is linked to all; `up` starts those again that have died."""
        give_up_at = time.monotonic() + PATIENCE_S
        for service in self.services:
            with grpc.insecure_channel(service) as channel:
                stub = gateway_pb2_grpc.GatewayStub(channel)
                while True:
                    links = stub.Status(gateway_pb2.StatusRequest(), timeout=10).links
                    if sum(link.state == "ready" for link in links) == WORKERS:
                        break
                    assert time.monotonic() < give_up_at, links
                    time.sleep(0.02)

    def poison(self, body: str, gateway: int = 0) -> None:
        self.wait_workers()
        with connected(self.gateways[gateway]) as client:
            answer = client.ask(1, body.encode())
        assert (answer.kind, answer.status) == (ERROR, 9)
        assert answer.reason.startswith("quarantined")

    def run(self, *arguments: str) -> tuple[int, str, str]:
        return run(*arguments, cwd=self.folder, env=self.cluster.environment)

    def letters(self) -> list[dict[str, object]]:
        code, out, error = self.run("dead-letters", "list", "--json")
        assert (code, error) == (0, "")
        found: list[dict[str, object]] = json.loads(out)
        return found

    @property
    def met(self) -> list[list[str]]:
        """Process, idempotency key and attempt of each time that a worker had one in hand."""
        return [line.split() for line in (self.folder / "met").read_text().splitlines()]

    def mend(self) -> None:
        (self.folder / "mended").touch()


@pytest.fixture
def poisoned(tmp_path: Path) -> Iterator[Poisoned]:
    (tmp_path / "touchy.py").write_text(WORKER)
    listen = '[{"port": 0}]'
    up = Process(
        gatecrew("up", "touchy:worker", "--workers", str(WORKERS), "--gateways", "2"),
        {**ALONE, "GATECREW_LISTENER": listen},
        tmp_path,
    )
    try:
        cluster = describe(up)
        found = [up.wait_line(rf"^gateway-{number}: main on ([\d.:]+), service on ([\d.:]+)") for number in (1, 2)]
        yield Poisoned(tmp_path, up, cluster, [each[1] for each in found], [each[2] for each in found])
    finally:
        up.close()


def test_list_and_show_what_is_quarantined(poisoned: Poisoned) -> None:
    assert poisoned.run("dead-letters", "list") == (0, "no dead letters", "")
    poisoned.poison(EVIL, 0)
    poisoned.poison(EVIL, 0)
    poisoned.poison("other", 1)
    newest, oldest = poisoned.letters()
    assert (newest["command"], newest["size"], newest["refused"], newest["kind"]) == (1, 5, 0, "request")
    assert (oldest["service"], oldest["size"], oldest["refused"]) == ("echo", len(EVIL), 1)
    assert newest["gateway_id"] != oldest["gateway_id"]
    assert len(oldest["workers"]) == 2  # type: ignore[arg-type]
    assert [[key, attempt] for _, key, attempt in poisoned.met[:2]] == [[oldest["id"], "0"], [oldest["id"], "1"]]

    code, out, _ = poisoned.run("dead-letters", "list", "--service", "echo")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["id", newest["id"], oldest["id"]]
    heads, _, last = out.splitlines()
    assert last[heads.index("refused") :].startswith("1 since  ")
    assert poisoned.run("dead-letters", "list", "--service", "nobody") == (0, "no dead letters", "")

    code, out, _ = poisoned.run("dead-letters", "show", str(oldest["id"]))
    assert code == 0
    assert "\x1b" not in out
    assert "00000000  1b 5b 32 4a 70 6f 69 73  6f 6e 00 78 78 78 78 78  |.[2Jpoison.xxxxx|" in out
    code, out, _ = poisoned.run("dead-letters", "show", str(oldest["id"]), "--output", "body")
    assert code == 0
    assert (poisoned.folder / "body").read_bytes() == EVIL.encode()
    code, out, _ = poisoned.run("dead-letters", "show", str(oldest["id"]), "--json")
    assert bytes.fromhex(json.loads(out)["body_hex"]) == EVIL.encode()
    code, out, error = poisoned.run("dead-letters", "show", str(oldest["id"]), "--output", "/no/such/place")
    assert (code, out, error) == (2, "", "gatecrew: --output /no/such/place: No such file or directory")

    code, out, _ = poisoned.run("status")
    assert out.count("  1 dead letter: gatecrew dead-letters list") == 2


def test_replay_what_is_mended(poisoned: Poisoned) -> None:
    poisoned.poison("here", 0)
    poisoned.poison("there", 1)
    poisoned.poison("bad", 1)
    bad, there, here = (str(letter["id"]) for letter in poisoned.letters())
    poisoned.wait_workers()
    poisoned.mend()
    # Asked at one gateway, for a letter of the other.
    one = poisoned.services[0]
    code, out, error = poisoned.run("dead-letters", "replay", there, "--gateway-service", one)
    assert (code, out, error) == (1, "", f"gatecrew: no dead letter {there}; nothing was replayed")
    code, out, error = poisoned.run("dead-letters", "replay", there)
    assert (code, out, error) == (0, f"{there}: OK: now well: there", "")
    assert poisoned.met[-1][1:] == [there, "2"]
    assert poisoned.run("call", "1", "there", "--gateway", poisoned.gateways[1]) == (0, "now well: there", "")

    code, out, error = poisoned.run("dead-letters", "replay", "--all")
    assert (code, error) == (1, "gatecrew: 1 of 2 not answered with OK")
    assert out.splitlines() == [
        f"[1 of 2] {here}: OK: now well: here",
        f"[2 of 2] {bad}: NOT_FOUND: no such thing",
    ]
    assert poisoned.letters() == []
    assert poisoned.run("dead-letters", "replay", "--all") == (0, "no dead letters", "")


def test_replay_what_is_not_mended_takes_one_worker(poisoned: Poisoned) -> None:
    poisoned.poison("first")
    poisoned.poison("second")
    second, first = poisoned.letters()
    met = len(poisoned.met)
    poisoned.wait_workers()
    code, out, error = poisoned.run("dead-letters", "replay", "--all")
    assert code == 1
    assert re.fullmatch(
        rf"\[1 of 2\] {first['id']}: FAILED_PRECONDITION: quarantined again: worker echo-\S+ was lost with it", out
    )
    assert error.startswith("gatecrew: stopped, 1 not replayed")
    assert len(poisoned.met) == met + 1
    poisoned.wait_workers()
    code, out, _ = poisoned.run("dead-letters", "replay", "--all", "--keep-going", "--json")
    assert code == 1
    assert sorted(each["id"] for each in json.loads(out)) == sorted([str(first["id"]), str(second["id"])])
    assert len(poisoned.met) == met + 3
    assert sorted(len(letter["workers"]) for letter in poisoned.letters()) == [3, 4]  # type: ignore[arg-type]
    poisoned.poison("first")
    assert len(poisoned.met) == met + 3


def test_what_can_be_wrong_is_said_in_a_line(poisoned: Poisoned) -> None:
    assert poisoned.run("dead-letters", "show", "7-\x1b[2J") == (
        1,
        "",
        "gatecrew: no dead letter 7-\\x1b[2J; `gatecrew dead-letters list` shows those that there are",
    )
    assert poisoned.run("dead-letters", "replay", "7-1", "nonsense") == (
        1,
        "",
        "gatecrew: no dead letter 7-1; nothing was replayed\ngatecrew: no dead letter nonsense; nothing was replayed",
    )
    for arguments in ((), ("7-1", "--all"), ("7-1", "--service", "echo")):
        code, out, error = poisoned.run("dead-letters", "replay", *arguments)
        assert (code, out, len(error.splitlines())) == (2, "", 1)
    nobody = f"127.0.0.1:{free_port()}"
    code, out, error = poisoned.run("dead-letters", "list", "--gateway-service", nobody)
    assert (code, out, len(error.splitlines())) == (1, "", 1)
    assert error.startswith("gatecrew: gateway service " + nobody)


def test_any_gateway_answers_for_all(poisoned: Poisoned) -> None:
    """The Gateway service, as programs call it: whichever gateway is asked."""
    poisoned.poison("there", 1)
    code, out, _ = poisoned.run("dead-letters", "list", "--json")
    [letter] = json.loads(out)
    poisoned.wait_workers()
    poisoned.mend()
    with grpc.insecure_channel(poisoned.cluster.service) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        listed = stub.ListDeadLetters(gateway_pb2.ListDeadLettersRequest(with_bodies=True), timeout=10)
        assert [(each.id, each.body) for each in listed.dead_letters] == [(letter["id"], b"there")]
        request = gateway_pb2.ReplayDeadLettersRequest(ids=[letter["id"], "nonsense", "1-1"])
        [replayed] = stub.ReplayDeadLetters(request, timeout=30).replayed
        assert (replayed.id, replayed.status, replayed.body) == (letter["id"], 0, b"now well: there")
        assert not stub.ListDeadLetters(gateway_pb2.ListDeadLettersRequest(), timeout=10).dead_letters
