"""Everything at once: whatever handlers do and links suffer, one reply a request, order, and nothing left behind."""

import asyncio
import random

import pytest

from gatecrew.v1 import worker_pb2
from gatecrew_worker import Request, Status, StatusError, Worker

from .gateway_end import GatewayEnd, eventually

IN_PLACE, SUSPENDED, THREAD, CONCURRENT, FAILING, GROUP = range(1, 7)


def mixed_worker(seen: dict[int, list[int]], one_at_a_time: bool) -> Worker:
    worker = Worker("mixed", max_in_flight=100_000, one_at_a_time=one_at_a_time)
    at_once = 0

    def enter(request: Request) -> None:
        nonlocal at_once
        at_once += 1
        assert at_once == 1 or not one_at_a_time
        if request.command != CONCURRENT:
            seen.setdefault(request.session.id, []).append(int(request.body))

    def leave() -> None:
        nonlocal at_once
        at_once -= 1

    @worker.on(IN_PLACE)
    async def in_place(request: Request) -> bytes:
        enter(request)
        leave()
        return request.body

    async def suspended(request: Request) -> bytes:
        enter(request)
        for _ in range(int(request.body) % 5):
            await asyncio.sleep(0)
        leave()
        return request.body

    worker.on(SUSPENDED)(suspended)
    worker.on(CONCURRENT, concurrent=not one_at_a_time)(suspended)

    @worker.on(THREAD)
    def threaded(request: Request) -> bytes:
        if one_at_a_time:  # the counter is no lock, and needs none here
            enter(request)
            leave()
        else:
            seen.setdefault(request.session.id, []).append(int(request.body))
        return request.body

    @worker.on(FAILING)
    async def failing(request: Request) -> bytes:
        enter(request)
        leave()
        if int(request.body) % 2:
            await asyncio.sleep(0)
        raise StatusError(Status.ABORTED, request.body.decode())

    @worker.on(GROUP)
    async def group(request: Request) -> bytes:
        enter(request)
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            for _ in range(int(request.body) % 3):
                tasks.create_task(asyncio.sleep(0))
        leave()
        return request.body

    return worker


def requests(gateway: GatewayEnd, chance: random.Random, first: int, count: int) -> list[worker_pb2.Request]:
    return [
        gateway.request(chance.randint(IN_PLACE, GROUP), b"%d" % number, session=chance.randrange(8))
        for number in range(first, first + count)
    ]


@pytest.mark.parametrize("one_at_a_time", [False, True])
@pytest.mark.parametrize("seed", range(5))
async def test_one_reply_for_every_request_in_order(seed: int, one_at_a_time: bool) -> None:
    chance = random.Random(seed)
    seen: dict[int, list[int]] = {}
    worker = mixed_worker(seen, one_at_a_time)
    async with worker.serving() as serving:
        async with GatewayEnd(serving.address, 1) as one, GatewayEnd(serving.address, 2) as two:
            sent: dict[GatewayEnd, list[worker_pb2.Request]] = {one: [], two: []}
            for _ in range(30):
                gateway = chance.choice((one, two))
                batch = requests(gateway, chance, len(sent[gateway]), chance.randint(1, 60))
                sent[gateway] += batch
                await gateway.post(*batch)
            for gateway, all_sent in sent.items():
                for request, reply in zip(all_sent, await gateway.answers(*all_sent), strict=True):
                    assert request.body in (reply.body, reply.message.encode())
        assert all(numbers == sorted(numbers) for numbers in seen.values())
        await eventually(lambda: not serving._shared.dispatchers)
    assert worker.counters.failed == worker.counters.replies_lost == worker.counters.not_started == 0


@pytest.mark.parametrize("seed", range(5))
async def test_nothing_is_left_of_links_that_break(seed: int) -> None:
    chance = random.Random(seed)
    worker = mixed_worker({}, one_at_a_time=False)
    async with worker.serving() as serving:
        for _ in range(10):
            async with GatewayEnd(serving.address) as gateway:
                batches = [requests(gateway, chance, 0, chance.randint(1, 200)) for _ in range(3)]
                for batch in batches:
                    await gateway.post(*batch)
                await gateway.until(lambda gateway=gateway: gateway.events)  # type: ignore[misc]
        await eventually(lambda: not serving._shared.dispatchers and not worker._links.live)
        async with GatewayEnd(serving.address) as gateway:
            (reply,) = await gateway.ask(gateway.request(SUSPENDED, b"4"))
            assert reply.body == b"4"
