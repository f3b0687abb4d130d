"""Slow work is spread over the workers as if packets were given out one by one, whatever way a handler is slow in."""

from collections.abc import Callable

import pytest
from survival.cluster import Cluster

from overload.load import Answer, burst, close, connect, good, p99, shares, steady

pytestmark = pytest.mark.uvloop_only

WORK_S = 0.1
KINDS = {"thread": 36, "async": 36, "one_at_a_time": 30}  # and how many ask at once


def even(answers: list[Answer]) -> bool:
    """Each of three workers has its share, give or take half of it."""
    counts = shares(answers)
    mean = len(answers) / 3
    return len(counts) == 3 and all(0.5 * mean <= count <= 1.5 * mean for count in counts.values())


def ideal_s(kind: str, clients: int) -> float:
    """Threads are more than a third of 36."""
    return WORK_S * (clients / 3 if kind == "one_at_a_time" else 1)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_burst_is_shared(
    kind: str, cluster_of: Callable[..., Cluster], measured: Callable[[str], None]
) -> None:
    cluster = cluster_of(kind, WORK_S)
    clients = await connect(cluster.gateway.address, KINDS[kind])
    await burst(clients, 1)  # threads are started, handlers have been timed
    results = [await burst(clients, 1) for _ in range(5)]
    await close(clients)
    best_s, _ = min(results, key=lambda result: result[0])
    measured(f"{[(dict(shares(answers)), round(seconds, 2)) for seconds, answers in results]}")
    for _, answers in results:
        assert len(good(answers)) == KINDS[kind]
        assert even(answers)
    assert best_s <= 1.5 * ideal_s(kind, KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
async def test_a_steady_stream_is_shared(
    kind: str, cluster_of: Callable[..., Cluster], measured: Callable[[str], None]
) -> None:
    cluster = cluster_of(kind, WORK_S)
    clients = await connect(cluster.gateway.address, KINDS[kind])
    answers = await steady(clients, 1, 3)
    await close(clients)
    wait_s = p99(answers)
    measured(f"{dict(shares(answers))}, p99 {wait_s * 1000:.0f} ms")
    assert len(good(answers)) == len(answers)
    assert even(answers)
    # In a closed loop, the mean time is the clients' number over the rate.
    mean_s = sum(answer.took_s for answer in answers) / len(answers)
    assert mean_s <= 1.5 * ideal_s(kind, KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.row(12)
async def test_a_worker_ten_times_slower_gets_less_and_harms_only_what_it_has(
    kind: str, cluster_of: Callable[..., Cluster], measured: Callable[[str], None]
) -> None:
    cluster = cluster_of(kind, 0.02, slow="w1")
    clients = await connect(cluster.gateway.address, 12)
    answers = await steady(clients, 1, 5)
    await close(clients)
    counts = shares(answers)
    others = [answer for answer in answers if answer.body != b"w1"]
    measured(f"{dict(counts)}, p99 of the others {p99(others) * 1000:.0f} ms")
    assert len(good(answers)) == len(answers)
    assert counts["w1"] < 0.5 * min(counts["w2"], counts["w3"])
    # Two workers serve what three do not: at most 6 wait for each at a time, and half of a slow one's turn is room.
    assert p99(others) <= (0.02 * 6 if kind == "one_at_a_time" else 0.02) * 1.5 + 0.1
