"""More work than can be done: what can be is done, the rest is refused, and it is over when it is over."""

import asyncio
import time
from collections.abc import Callable

import pytest
from survival.cluster import Cluster

from overload.load import Answer, Client, at_rate, close, connect, good, steady

pytestmark = pytest.mark.uvloop_only

RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED = 8, 4
# Ways in which a handler waits for its turn, and how long one takes: three workers do some 300 a second.
KINDS = {"blocking": 0.01, "semaphore": 0.04, "thread": 0.16}
SECONDS = 8


def per_second(answers: list[Answer], since: float, seconds: float) -> float:
    return sum(since <= answer.at < since + seconds for answer in good(answers)) / seconds


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.row(13)
async def test_twice_as_much_as_can_be_done(
    kind: str, cluster_of: Callable[..., Cluster], measured: Callable[[str], None]
) -> None:
    cluster = cluster_of(kind, KINDS[kind])
    clients = await connect(cluster.gateway.address, 200)
    saturated = await steady(clients[:96], 1, 3)
    capacity = len(good(saturated)) / 3
    loop = asyncio.get_running_loop()
    began = loop.time()
    flood = asyncio.ensure_future(at_rate(clients, 1, 2 * capacity, SECONDS))
    await asyncio.sleep(SECONDS)
    after = asyncio.ensure_future(at_rate(clients, 1, capacity / 2, 8))
    during, later = await flood, await after
    goodput = per_second(during, began + 1, SECONDS - 1) / capacity
    # Each second's share of what was asked in it, from the fifth second after the flood on.
    whole = [answer for answer in later if answer.at - answer.took_s > began + SECONDS + 5]
    statuses = {status: sum(answer.status == status for answer in during) for status in {a.status for a in during}}
    measured(
        f"capacity {capacity:.0f}/s, goodput at twice {goodput:.0%}, statuses {statuses}; "
        f"5 s later {len(good(whole))} of {len(whole)}"
    )
    await close(clients)
    assert goodput >= 0.8
    assert whole
    assert len(good(whole)) == len(whole)
    assert statuses.get(RESOURCE_EXHAUSTED)


async def keep_asking(client: Client, until: float) -> None:
    """64 slow requests at a time."""

    async def one() -> None:
        while time.monotonic() < until:
            if (await client.ask(3, b"4")).status:
                await asyncio.sleep(0.05)

    await asyncio.gather(*(one() for _ in range(64)))


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.2"])
async def test_a_slow_command_shuts_nobody_out(
    source: str, cluster_of: Callable[..., Cluster], measured: Callable[[str], None]
) -> None:
    """70 clients of one address hold as many slow requests as they may, for ten seconds. Those who ask for the fast
    command are served, from the same address and from another one. What was slow is served as well when it is over.
    """
    cluster = cluster_of("async", 0.001)
    greedy = await connect(cluster.gateway.address, 70)
    modest = await connect(cluster.gateway.address, 10, source)
    until = time.monotonic() + 10
    attack = asyncio.gather(*(keep_asking(client, until) for client in greedy))
    fast = await at_rate(modest, 2, 50, 10)
    await attack
    slow = await asyncio.gather(*(client.ask(3, b"4") for client in greedy))
    measured(f"fast {len(good(fast))} of {len(fast)}, slow afterwards {len(good(slow))} of {len(slow)}")
    await close([*greedy, *modest])
    assert len(good(fast)) >= 0.99 * len(fast)
    assert len(good(slow)) == len(slow)


async def test_clients_that_come_all_at_once_are_all_served(
    cluster_of: Callable[..., Cluster], measured: Callable[[str], None]
) -> None:
    """8 000 of them, each with a request: more than the service holds, and 50 ms of work."""
    cluster = cluster_of("blocking", 0.0)
    clients = await connect(cluster.gateway.address, 8000)
    asked = [client.ask(2) for client in clients]
    answers = await asyncio.gather(*asked)
    measured(f"{len(good(answers))} of {len(answers)}, the last after {max(a.took_s for a in answers):.2f} s")
    await close(clients)
    assert len(good(answers)) == len(answers)
