"""What those feel whom a fault does not concern: the p99 of a probe, in a process of its own, beside that of a calm
moment before.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from survival.checks import assert_kept
from survival.cluster import Cluster, RunningLoad
from survival.probe import probing

BYSTANDERS_MS = 50.0
TRIES = 3  # the best counts: a busy machine can only add


def a_worker_is_killed(cluster: Cluster, load: RunningLoad) -> None:
    cluster.workers[0].kill()
    load.wait_answers(1000)
    cluster.workers[0].restart()


def all_are_replaced(cluster: Cluster, load: RunningLoad) -> None:
    for worker in cluster.workers:
        assert worker.process.stop(signal.SIGTERM) == 0
        worker.restart()
        cluster.wait_links()


def the_registry_is_killed(cluster: Cluster, load: RunningLoad) -> None:
    cluster.registry.stop(signal.SIGKILL)
    load.wait_answers(2000)
    cluster.start_registry()


def the_registry_is_frozen(cluster: Cluster, load: RunningLoad) -> None:
    cluster.registry.send(signal.SIGSTOP)
    load.wait_answers(2000)
    cluster.registry.send(signal.SIGCONT)


@pytest.mark.parametrize(
    "fault",
    [a_worker_is_killed, all_are_replaced, the_registry_is_killed, the_registry_is_frozen],
    ids=lambda fault: fault.__name__.replace("_", " "),
)
@pytest.mark.timeout(240)
def test_others_do_not_feel_it(
    cluster: Cluster, fault: Callable[[Cluster, RunningLoad], None], measured: Callable[[str], None]
) -> None:
    for _ in range(TRIES):
        with probing(cluster.gateway.address) as probe, cluster.load(rate=1000) as (load, history):
            probe.phase()  # in which all connected
            load.wait_answers(2000)
            calm = probe.phase()
            fault(cluster, load)
            load.wait_answers(1000)
            faulty = probe.phase()
            cluster.wait_links()
        measured(f"calm {calm}")
        measured(f"then {faulty}")
        assert_kept(history)
        assert calm.errors == calm.unanswered == faulty.errors == faulty.unanswered == 0
        if faulty.p99_ms <= calm.p99_ms + BYSTANDERS_MS:
            return
    raise AssertionError(f"p99 {calm.p99_ms:.1f} ms in calm, {faulty.p99_ms:.1f} ms with the fault")
