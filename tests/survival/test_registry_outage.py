"""The registry is gone for half a minute, and comes back with an empty memory."""

import signal
import time
from collections.abc import Callable

from survival.checks import CRASH_LATENCY_S, assert_kept, slowest
from survival.cluster import Cluster, eventually

OUTAGE_S = 30.0


def test_the_registry_is_killed_and_nothing_fails(cluster: Cluster, measured: Callable[[str], None]) -> None:
    killed, left, stayed = cluster.workers
    with cluster.load(rate=1000) as (load, history):
        assert cluster.registry.stop(signal.SIGKILL) == -signal.SIGKILL
        down_at = time.monotonic()
        load.wait_answers(500)
        killed.kill()
        load.wait_answers(500)
        killed.restart()  # where the gateway remembers it
        cluster.wait_links()
        left.process.stop(signal.SIGTERM)
        load.wait_answers(1000)
        left.restart()
        while time.monotonic() < down_at + OUTAGE_S:
            load.wait_answers(1000)
        assert stayed.is_alive
        eventually(lambda: stayed.id in cluster.gateway.ready_links(), "the one that stayed is linked")
        cluster.start_registry()
        new = cluster.add_worker("new")
        new.wait_ready()
        started_at = time.monotonic()
        cluster.wait_links()  # all four: those that it forgot have stayed, the new one was found
        found_s = time.monotonic() - started_at
        load.wait_answers(1000)
    assert_kept(history)
    assert any(each.worker == "new" for each in history.executed)
    measured(f"down for {OUTAGE_S:.0f} s, a new worker linked {found_s:.1f} s after it was ready")
    assert slowest(history, measured, f"{len(history.again)} executed again") <= CRASH_LATENCY_S
