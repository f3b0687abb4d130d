"""A registry that is wrong, under load, while a worker is lost (catalogue rows 44 to 50): no request notices."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from survival.checks import CRASH_LATENCY_S, assert_kept, slowest
from survival.cluster import Cluster, eventually

from cluster.faulty_registry import FAULTS, FaultyRegistry

pytestmark = [pytest.mark.timeout(300), pytest.mark.uvloop_only]

BROKEN_S = 6.0
EMPTY_S = 34.0  # longer than the 30 s for which a loss is doubted
BURST = 10  # queries of a watch at once, then one a second at most; a busy loop would make thousands
WATCHES = 2
FOUND_WITHIN_S = 80.0  # after it is mended: a query that was never answered is given up after 63 s


@pytest.fixture(scope="module")
def registry() -> Iterator[list[FaultyRegistry]]:
    made: list[FaultyRegistry] = []
    yield made
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, registry: list[FaultyRegistry]) -> Iterator[Cluster]:
    def proxy(address: str) -> str:
        registry.append(FaultyRegistry(address))
        return registry[0].address

    cluster = Cluster(tmp_path_factory.mktemp("faults"), by_way_of=proxy)
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost(
    cluster: Cluster, registry: list[FaultyRegistry], fault: str, measured: Callable[[str], None]
) -> None:
    [faulty] = registry
    cluster.restore()
    victim = cluster.workers[0]
    with cluster.load(rate=500, warm_up=300) as (load, history):
        faulty.break_(fault)
        broken_at = time.monotonic()
        load.wait_answers(300)
        victim.kill()
        load.wait_answers(300)
        victim.restart()  # where the gateway remembers it
        cluster.wait_links()
        lasts = EMPTY_S if fault == "empty" else BROKEN_S
        while time.monotonic() < broken_at + lasts:
            load.wait_answers(100)
        queries, elapsed = dict(faulty.queries), time.monotonic() - broken_at
        everyone = {worker.id for worker in cluster.workers}
        eventually(lambda: cluster.gateway.ready_links() == everyone, "all are linked")
        faulty.mend()
        mended_at = time.monotonic()
        new = cluster.add_worker(f"new-{FAULTS.index(fault)}")
        new.wait_ready()
        eventually(lambda: new.id in cluster.gateway.ready_links(), "the new worker is found", FOUND_WITHIN_S)
        found_s = time.monotonic() - mended_at
        load.wait_answers(300)
        new.process.stop()
        cluster.workers.remove(new)
        cluster.wait_links()
    assert_kept(history)
    assert all(count <= WATCHES * (BURST + elapsed) for count in queries.values()), queries
    measured(f"{fault}: a new worker was linked {found_s:.1f} s after it was mended; queries {sum(queries.values())}")
    assert slowest(history, measured, fault) <= CRASH_LATENCY_S
