"""A worker that is frozen for seconds, under load: nobody's request fails for it."""

import asyncio
import signal
from collections.abc import Callable

import pytest
from survival.cluster import Cluster

from overload.load import at_rate, close, connect, good

pytestmark = pytest.mark.uvloop_only


async def test_no_request_fails_while_a_worker_is_frozen(
    cluster_of: Callable[..., Cluster], measured: Callable[[str], None]
) -> None:
    """100 sessions that send 2 000 requests a second: those bound to the frozen worker send on all the time."""
    cluster = cluster_of("async", 0.002)
    clients = await connect(cluster.gateway.address, 100)
    load = asyncio.ensure_future(at_rate(clients, 1, 2000, 14))
    for frozen_s in (3.5, 2.6):
        await asyncio.sleep(2)
        victim = cluster.workers[0].process
        victim.send(signal.SIGSTOP)
        await asyncio.sleep(frozen_s)
        victim.send(signal.SIGCONT)
    answers = await load
    lost = (await asyncio.to_thread(cluster.gateway.status)).counters["workers_frozen"]
    slowest = max(answer.took_s for answer in answers)
    statuses = {status: sum(a.status == status for a in answers) for status in {a.status for a in answers}}
    measured(f"{len(answers)} requests, given up {lost} times, statuses {statuses}, slowest {slowest:.1f} s")
    await close(clients)
    assert lost >= 1
    assert len(good(answers)) == len(answers)
