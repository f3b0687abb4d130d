"""The gateway itself stands still for longer than it takes for a worker's silence: a busy host, a paused machine."""

import signal
import time
from collections.abc import Callable

from survival.checks import slowest
from survival.cluster import Cluster, eventually
from survival.history import violations

STOPPED_S = 3.0  # longer than lost_after_s


def test_a_gateway_that_stood_still_blames_no_worker(cluster: Cluster, measured: Callable[[str], None]) -> None:
    cluster.restore()
    gateway = cluster.gateway
    before = gateway.status().counters
    with cluster.load(rate=100, warm_up=200) as (load, history):
        for round in (1, 2):
            gateway.process.send(signal.SIGSTOP)
            time.sleep(STOPPED_S)
            gateway.process.send(signal.SIGCONT)
            eventually(
                lambda round=round: gateway.counter("loop_stalls") >= before["loop_stalls"] + round,  # type: ignore[misc]
                "it noticed that it had stood still",
            )
            load.wait_answers(300)  # some heartbeats later
    after = gateway.status().counters
    lost = {name: after[name] - before[name] for name in ("links_lost", "workers_frozen", "redelivered")}
    assert lost == {"links_lost": 0, "workers_frozen": 0, "redelivered": 0}
    assert not violations(history)  # errors there may be: 3 s of requests come at once
    slowest(history, measured, f"stopped for {STOPPED_S:g} s twice")
