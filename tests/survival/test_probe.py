"""The probe tells the truth: calm is calm, and what a phase suffered stands in that phase's figures."""

import signal
import time

from survival.cluster import Cluster
from survival.probe import probing

STOPPED_S = 1.0


def test_the_probe_sees_a_gateway_that_stands_still(cluster: Cluster) -> None:
    with probing(cluster.gateway.address, rate=200) as probe:
        first = probe.phase()
        cluster.gateway.process.send(signal.SIGSTOP)
        time.sleep(STOPPED_S)
        cluster.gateway.process.send(signal.SIGCONT)
        stopped = probe.phase()
    assert first.errors == first.unanswered == stopped.errors == stopped.unanswered == 0
    assert stopped.requests >= 10
    assert stopped.max_ms >= STOPPED_S * 1000 * 0.8
    assert stopped.p99_ms > stopped.p50_ms / 2
