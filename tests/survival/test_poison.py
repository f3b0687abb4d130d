"""A packet that kills or blocks whoever handles it, sent again and again: two workers, and never a third."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from survival.client import ERROR, REPLY, Packet, connected
from survival.cluster import Cluster, eventually
from survival.commands import BLOCK, ECHO, POISON

FAILED_PRECONDITION = 9
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


def ask(cluster: Cluster, command: int, body: bytes) -> Packet:
    """From a client of its own: what one has sent is not remembered for that one only."""
    with connected(cluster.gateway.address) as client:
        return client.ask(command, body)


def assert_quarantined(answer: Packet) -> None:
    assert (answer.kind, answer.status) == (ERROR, FAILED_PRECONDITION)
    assert answer.reason.startswith("quarantined")


@pytest.mark.row(10)
def test_a_packet_that_crashes_its_worker_is_sent_again(cluster: Cluster, measured: Callable[[str], None]) -> None:
    assert_quarantined(ask(cluster, POISON, b"poison"))
    for _ in range(AGAIN):
        assert_quarantined(ask(cluster, POISON, b"poison"))
    dead = [worker for worker in cluster.workers if not worker.is_alive]
    assert len(dead) == 2
    cluster.restore()
    for _ in range(AGAIN):
        assert_quarantined(ask(cluster, POISON, b"poison"))
    assert all(worker.is_alive for worker in cluster.workers)
    assert ask(cluster, ECHO, b"s 1 x n").kind == REPLY
    counters = cluster.gateway.status().counters
    measured(f"{len(dead)} workers killed, {counters['quarantine_refused']} refused")
    assert (counters["quarantined"], counters["quarantine_refused"]) == (1, 2 * AGAIN)


@pytest.mark.row(3)
def test_a_packet_that_blocks_its_worker_blocks_two(
    cluster: Cluster, tmp_path: Path, measured: Callable[[str], None]
) -> None:
    def blocked() -> set[int]:
        return {int(file.name.rpartition("-")[2]) for file in tmp_path.glob("blocked-*")}

    assert_quarantined(ask(cluster, BLOCK, b"block"))
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
