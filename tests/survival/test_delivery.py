"""The other promises, while workers crash: at most once, strict order, no order, and poison."""

import signal
from collections.abc import Callable

import pytest

from survival.checks import assert_kept
from survival.client import ERROR, connected
from survival.cluster import Cluster, eventually
from survival.commands import AT_MOST_ONCE, ECHO, POISON, POISONED, QUERY, STRICT, UNORDERED
from survival.history import History, violations

FAILED_PRECONDITION = 9
ABORTED = 10


def routed(base: int) -> list[int]:
    return [base + ECHO, base + QUERY, base + QUERY]


def test_a_worker_is_killed_with_packets_of_every_route(cluster: Cluster, measured: Callable[[str], None]) -> None:
    commands = [routed(AT_MOST_ONCE), routed(STRICT), routed(UNORDERED)]
    for _ in range(3):  # in case the killed ones had none of a kind in flight
        with cluster.load(commands=commands, burst=8) as (load, history):
            for worker in cluster.workers:
                worker.kill()
                worker.restart()
                cluster.wait_links()
                load.wait_answers(500)
        assert_delivered(history)
        again = {execution.command // 10 * 10 for execution in history.again}
        measured(f"{len(history.errors)} outcomes unknown, {len(history.again)} executed again")
        if history.errors and again == {STRICT, UNORDERED}:
            return
    raise AssertionError(f"not every kind was in flight: {len(history.errors)} unknown, again of {again}")


@pytest.mark.row(2)
def test_a_frozen_worker_runs_nothing_a_second_time(cluster: Cluster, measured: Callable[[str], None]) -> None:
    """What was written to it may run there when it wakes, and nowhere else."""
    victim = cluster.workers[0]
    with cluster.load(commands=[routed(AT_MOST_ONCE)], burst=8) as (load, history):
        frozen = cluster.gateway.counter("workers_frozen")
        victim.process.send(signal.SIGSTOP)
        eventually(lambda: cluster.gateway.counter("workers_frozen") > frozen, "found")
        load.wait_answers(500)
        victim.process.send(signal.SIGCONT)
        cluster.wait_links()
        load.wait_answers(500)
    assert_delivered(history)
    assert history.errors, "it had nothing in flight"
    unknown = {(error.session, error.seq) for error in history.errors}
    ran = sum((each.session, each.seq) in unknown for each in history.executed)
    measured(f"{len(unknown)} outcomes unknown, {ran} of them ran")


def assert_delivered(history: History) -> None:
    broken = violations(
        history,
        at_most_once=routed(AT_MOST_ONCE),
        strict=routed(STRICT),
        unordered=routed(UNORDERED),
    )
    assert not broken, f"{len(broken)} violations, the first: {broken[0]}"
    assert not history.ended
    commands = {(each.session, each.seq): each.command for each in history.sent}
    for error in history.errors:
        assert commands[error.session, error.seq] in routed(AT_MOST_ONCE), f"{error}"
        assert error.status == ABORTED, f"{error}"
        assert error.reason.startswith("outcome unknown"), f"{error}"


@pytest.mark.row(10)
def test_a_packet_that_kills_workers_kills_two(cluster: Cluster, measured: Callable[[str], None]) -> None:
    quarantined = cluster.gateway.counter("quarantined")
    with cluster.load() as (load, history):
        with connected(cluster.gateway.address) as client:
            answer = client.ask(POISON, b"poison")
        load.wait_answers(2000)
        dead = [worker for worker in cluster.workers if not worker.is_alive]
        exit_codes = [worker.process.exit_code for worker in cluster.workers]
        # A worker that comes back is not given it either.
        for worker in dead:
            worker.restart()
        cluster.wait_links()
        load.wait_answers(500)
    assert (answer.kind, answer.status) == (ERROR, FAILED_PRECONDITION)
    assert answer.reason.startswith("quarantined")
    assert [exit_code for exit_code in exit_codes if exit_code is not None] == [POISONED, POISONED]
    assert all(worker.is_alive for worker in cluster.workers)
    assert cluster.gateway.counter("quarantined") == quarantined + 1
    assert_kept(history)  # of the innocents
    measured(f"{len(dead)} workers killed, {len(history.again)} innocents executed again")
