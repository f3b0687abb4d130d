"""Consul runs, and somebody cannot reach it: workers and gateways that know each other go on."""

from __future__ import annotations

import time
from collections.abc import Callable

from survival.cluster import eventually

from hosts.checks import assert_untouched, executed_by
from hosts.cluster import HostCluster
from hosts.network import both, cut

NEWS_S = 30.0  # after the healing, until a gateway has heard what it missed


def test_a_worker_cannot_reach_it(cluster: HostCluster, measured: Callable[[str], None]) -> None:
    """It becomes critical there, and no gateway cares."""
    _, _, worker = cluster.workers
    with cluster.loads() as (loads, histories):
        with cut(*both(worker.host, cluster.consul)):
            eventually(lambda: "critical" in cluster.checks(worker), "Consul misses it")
            critical_at = time.monotonic()
            for load in loads:
                load.wait_answers(500)
            for gateway in cluster.gateways:
                assert worker.id in gateway.ready_links()
            healed_at = time.monotonic()
        eventually(lambda: cluster.checks(worker) == {"passing"}, "Consul has it back")
        cluster.wait_links()
    for gateway, history in zip(cluster.gateways, histories, strict=True):
        assert executed_by(history, worker.host.name, critical_at, healed_at)
        assert_untouched(history, measured, f"clients of {gateway.host}")


def test_a_gateway_cannot_reach_it(cluster: HostCluster, measured: Callable[[str], None]) -> None:
    """It goes on with the workers that it knows; a new one it finds when it can."""
    blind, sighted = cluster.gateways
    with cluster.loads() as (loads, histories):
        with cut(*both(blind.host, cluster.consul)):
            new = cluster.add_worker("w4")
            new.wait_ready()
            eventually(lambda: new.id in sighted.ready_links(), "the other gateway finds it")
            for load in loads:
                load.wait_answers(500)
            known = blind.ready_links()
            healed_at = time.monotonic()
        cluster.wait_links()
        found_at = time.monotonic()
        for load in loads:
            load.wait_answers(500)
        cluster.remove_worker(new)
        cluster.wait_links()
    assert known == {worker.id for worker in cluster.workers}
    measured(f"a worker that started meanwhile was linked {found_at - healed_at:.1f} s after the healing")
    assert found_at - healed_at <= NEWS_S
    for gateway, history in zip(cluster.gateways, histories, strict=True):
        assert executed_by(history, "w4", found_at), f"{gateway.host} does not use the new one"
        assert_untouched(history, measured, f"clients of {gateway.host}")
