"""A packet that kills or blocks whoever handles it, sent again and again: two workers, and never a third."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gatecrew.v1 import gateway_pb2
from survival.client import ERROR, NOTIFY, REPLY, REQUEST, Packet, connected
from survival.cluster import Cluster, Gateway, eventually
from survival.commands import BLOCK, ECHO, POISON

DEADLINE_EXCEEDED, FAILED_PRECONDITION = 4, 9
AGAIN = 3


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, workers=4)
    try:
        yield cluster
    finally:
        for worker in cluster.workers:
            worker.process.kill()  # a blocked one would not hear anything else
        cluster.close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Cluster]:
    """Two gateways that know each other, and the same four workers."""
    cluster = Cluster(tmp_path, workers=4, gateways=2)
    try:
        with connected(cluster.gateway.address):
            eventually(lambda: [sessions_seen(each) for each in cluster.gateways] == [1, 1], "they know each other")
        yield cluster
    finally:
        for worker in cluster.workers:
            worker.process.kill()
        cluster.close()


def sessions_seen(gateway: Gateway) -> int:
    """Of all gateways that it knows."""
    return int(gateway.stub.ListSessions(gateway_pb2.ListSessionsRequest(), timeout=10).total)


def ask(cluster: Cluster, command: int, body: bytes, gateway: Gateway | None = None) -> Packet:
    """From a client of its own: what one has sent is not remembered for that one only."""
    with connected((gateway or cluster.gateway).address) as client:
        return client.ask(command, body)


def blocked_in(directory: Path) -> set[int]:
    """The ids of the processes that are."""
    return {int(file.name.rpartition("-")[2]) for file in directory.glob("blocked-*")}


def dead(cluster: Cluster) -> int:
    return sum(not worker.is_alive for worker in cluster.workers)


def assert_quarantined(answer: Packet) -> None:
    assert (answer.kind, answer.status) == (ERROR, FAILED_PRECONDITION)
    assert answer.reason.startswith("quarantined")


@pytest.mark.row(10)
def test_a_packet_that_crashes_its_worker_is_sent_again(cluster: Cluster, measured: Callable[[str], None]) -> None:
    assert_quarantined(ask(cluster, POISON, b"poison"))
    for _ in range(AGAIN):
        assert_quarantined(ask(cluster, POISON, b"poison"))

    eventually(
        lambda: dead(cluster) >= cluster.gateway.counter("links_lost"), "a stream breaks before its process is gone"
    )
    assert dead(cluster) == 2
    cluster.restore()
    for _ in range(AGAIN):
        assert_quarantined(ask(cluster, POISON, b"poison"))
    assert all(worker.is_alive for worker in cluster.workers)
    assert ask(cluster, ECHO, b"s 1 x n").kind == REPLY
    counters = cluster.gateway.status().counters
    measured(f"2 workers killed, {counters['quarantine_refused']} refused")
    assert (counters["quarantined"], counters["quarantine_refused"]) == (1, 2 * AGAIN)


@pytest.mark.row(10)
def test_a_notify_that_crashes_its_worker_is_sent_again(cluster: Cluster) -> None:
    """It is never sent a second time by the gateway; a client that repeats it takes two workers, not all."""
    for times in range(1, 3):
        with connected(cluster.gateway.address) as client:
            client.send(NOTIFY, POISON, 0, b"poison")
            eventually(lambda times=times: sum(not each.is_alive for each in cluster.workers) == times, "dead")  # type: ignore[misc]
            eventually(lambda times=times: cluster.gateway.counter("links_lost") == times, "lost")  # type: ignore[misc]
    for _ in range(AGAIN):
        with connected(cluster.gateway.address) as client:
            client.send(NOTIFY, POISON, 0, b"poison")
            assert client.ask(ECHO, b"s 1 x n").kind == REPLY
    assert sum(worker.is_alive for worker in cluster.workers) == 2
    assert cluster.gateway.counter("quarantine_refused") == AGAIN


@pytest.mark.row(10)
def test_three_clients_send_the_same_at_once(cluster: Cluster, measured: Callable[[str], None]) -> None:
    """No more than what was in hand when the second worker died, and one that the first death sent elsewhere."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(cluster.gateway.address)) for _ in range(3)]
        for client in clients:
            client.send(REQUEST, POISON, 1, b"poison")
        for client in clients:
            answer = client.read()
            assert answer is not None
            assert answer.kind == ERROR

    eventually(lambda: dead(cluster) == cluster.gateway.counter("links_lost"), "the dead have ended")
    measured(f"{dead(cluster)} workers killed")
    cluster.restore()
    for _ in range(AGAIN):
        assert_quarantined(ask(cluster, POISON, b"poison"))
    assert all(worker.is_alive for worker in cluster.workers)


@pytest.mark.row(3)
def test_a_packet_that_blocks_its_worker_blocks_two(
    cluster: Cluster, tmp_path: Path, measured: Callable[[str], None]
) -> None:
    def blocked() -> set[int]:
        return blocked_in(tmp_path)

    answer = ask(cluster, BLOCK, b"block")
    # It takes about as long to find two freezes as the client waits.
    assert (answer.kind, answer.status in (DEADLINE_EXCEEDED, FAILED_PRECONDITION)) == (ERROR, True)
    eventually(lambda: cluster.gateway.counter("quarantined") == 1, "quarantined")
    assert len(blocked()) == 2
    for _ in range(AGAIN):
        assert_quarantined(ask(cluster, BLOCK, b"block"))
    for worker in cluster.workers:
        if worker.process.pid in blocked():
            worker.process.kill()
    eventually(lambda: sum(worker.is_alive for worker in cluster.workers) == 2, "the blocked ones are gone")
    cluster.restore()
    for _ in range(AGAIN):
        assert_quarantined(ask(cluster, BLOCK, b"block"))
    assert ask(cluster, ECHO, b"s 1 x n").kind == REPLY
    assert len(blocked()) == 2
    counters = cluster.gateway.status().counters
    measured(f"{len(blocked())} workers blocked, {counters['quarantine_refused']} refused")
    assert counters["workers_frozen"] == 2
    assert (counters["quarantined"], counters["dead_letters"]) == (1, 1)


@pytest.mark.row(10)
def test_a_client_takes_it_from_gateway_to_gateway(pair: Cluster, measured: Callable[[str], None]) -> None:
    for gateway in (*pair.gateways, *pair.gateways):
        assert_quarantined(ask(pair, POISON, b"poison", gateway))
    for gateway in pair.gateways:
        eventually(lambda gateway=gateway: dead(pair) >= gateway.counter("links_lost"), "the dead have ended")  # type: ignore[misc]
    assert dead(pair) == 2
    pair.restore()
    for gateway in pair.gateways:
        assert_quarantined(ask(pair, POISON, b"poison", gateway))
        assert ask(pair, ECHO, b"s 1 x n", gateway).kind == REPLY
    assert all(worker.is_alive for worker in pair.workers)
    first, second = (gateway.status().counters for gateway in pair.gateways)
    measured(f"2 workers killed through 2 gateways, {second['quarantine_refused']} refused at the other one")
    assert (first["quarantined"], first["quarantined_elsewhere"]) == (1, 0)
    assert (second["quarantined"], second["quarantined_elsewhere"]) == (0, 1)
    assert (first["quarantine_refused"], second["quarantine_refused"]) == (2, 3)


def test_a_notify_is_told_at_one_gateway_after_the_other(pair: Cluster) -> None:
    """Each has lost but one worker with it."""
    first, second = pair.gateways
    for times, gateway in enumerate((first, second), start=1):
        with connected(gateway.address) as client:
            client.send(NOTIFY, POISON, 0, b"poison")
            for each in pair.gateways:
                eventually(lambda each=each, times=times: each.counter("links_lost") == times, "lost")  # type: ignore[misc]
        time.sleep(0.5)  # two that are lost in one moment may have been lost with their host

    def refuses(gateway: Gateway) -> bool:
        counters = gateway.status().counters
        return counters["quarantined"] + counters["quarantined_elsewhere"] > 0

    eventually(lambda: all(map(refuses, pair.gateways)), "both have quarantined it")
    for gateway in pair.gateways:
        assert_quarantined(ask(pair, POISON, b"poison", gateway))
    eventually(lambda: dead(pair) == 2, "the dead have ended")


def test_what_blocks_two_workers_by_one_gateway_blocks_none_by_another(pair: Cluster, tmp_path: Path) -> None:
    first, second = pair.gateways
    assert ask(pair, BLOCK, b"block", first).kind == ERROR
    eventually(lambda: second.counter("quarantined_elsewhere") == 1, "the other one has heard of it")
    for gateway in (second, first, second):
        assert_quarantined(ask(pair, BLOCK, b"block", gateway))
        assert ask(pair, ECHO, b"s 1 x n", gateway).kind == REPLY
    assert len(blocked_in(tmp_path)) == 2
    assert (first.counter("quarantined"), second.counter("quarantined")) == (1, 0)
    for gateway in pair.gateways:  # one may see the silence a little later
        eventually(lambda gateway=gateway: gateway.counter("workers_frozen") == 2, "both are given up")  # type: ignore[misc]
