"""A worker that fails everything, or beats and answers nothing, loses its share."""

import asyncio
from collections.abc import Callable

import pytest
from survival.cluster import Cluster

from overload.load import at_rate, close, connect, good

pytestmark = pytest.mark.uvloop_only

ROUTE = '[[route]]\ncommands = "1"\ndeadline_ms = 500\n'


@pytest.mark.parametrize("how", ["fails", "silent"])
async def test_a_sick_worker_gets_next_to_nothing(
    how: str, cluster_of: Callable[..., Cluster], measured: Callable[[str], None]
) -> None:
    cluster = cluster_of(how, sick="w1", settings=ROUTE)
    clients = await connect(cluster.gateway.address, 60)
    load = asyncio.ensure_future(at_rate(clients, 1, 300, 14))
    sick = cluster.workers[0].id
    states = set()
    while not load.done():
        await asyncio.sleep(0.2)
        for link in (await asyncio.to_thread(cluster.gateway.status)).links:
            if link.state == "ejected":
                states.add(link.worker_id)
    answers = sorted(await load, key=lambda answer: answer.at)
    late = answers[len(answers) // 2 :]
    failed = 1 - len(good(late)) / len(late)
    measured(f"of the later half {failed:.1%} failed; ejected were {states}")
    await close(clients)
    assert states == {sick}
    assert failed < 0.15  # a third before
