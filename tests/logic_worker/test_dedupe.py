"""A request that comes twice runs once."""

import asyncio
import threading
from typing import Any

import pytest

from gatecrew.v1 import worker_pb2
from gatecrew_worker import Request, Session, Status, StatusError, Worker, deduplicate
from gatecrew_worker.links import Links

from .gateway_end import GatewayEnd, linked

pytestmark = pytest.mark.quick


def made(request_id: int = 1, session: int = 1, attempt: int = 0) -> Request:
    wire = worker_pb2.Request(id=request_id, session=session, attempt=attempt)
    return Request(wire, Session(session, Links()), 0.0)


@pytest.mark.parametrize("threaded", [False, True])
async def test_repeat_gets_the_first_answer(threaded: bool) -> None:
    worker = Worker("pay")
    ran: list[bytes] = []

    def run(request: Request) -> bytes:
        ran.append(request.body)
        if request.body == b"no":
            raise StatusError(Status.ABORTED, f"run {len(ran)}")
        return b"run %d" % len(ran)

    async def pay(request: Request) -> bytes:
        await asyncio.sleep(0)
        return run(request)

    worker.on(1)(deduplicate()(run if threaded else pay))
    async with linked(worker) as (gateway, serving):
        first, other, refused = gateway.request(1, b"a"), gateway.request(1, b"b"), gateway.request(1, b"no")
        await gateway.ask(first, other, refused)
        async with GatewayEnd(serving.address) as again:  # the gateway comes back on a new link
            for request in (first, other, refused):
                request.attempt = 1
            replies = await again.ask(first, other, refused)
        assert [(reply.body, reply.message) for reply in replies] == [(b"run 1", ""), (b"run 2", ""), (b"", "run 3")]
        assert len(ran) == 3


async def test_repeat_waits_for_the_first_that_still_runs() -> None:
    release = asyncio.Event()
    ran = 0

    @deduplicate()
    async def slow(request: Request) -> bytes:
        nonlocal ran
        ran += 1
        await release.wait()
        return b"done"

    tasks = [asyncio.create_task(slow(made(attempt=attempt))) for attempt in range(3)]
    await asyncio.sleep(0)
    tasks[2].cancel()  # a repeat that is given up gives up nothing else
    await asyncio.sleep(0)
    release.set()
    assert [await task for task in tasks[:2]] == [b"done", b"done"]
    assert ran == 1


async def test_repeat_in_another_thread_waits_for_the_first() -> None:
    release, started = threading.Event(), threading.Event()
    ran = 0

    @deduplicate()
    def slow(request: Request) -> bytes:
        nonlocal ran
        ran += 1
        started.set()
        release.wait(10)
        return b"done"

    first = asyncio.create_task(asyncio.to_thread(slow, made()))
    await asyncio.to_thread(started.wait, 10)
    second = asyncio.create_task(asyncio.to_thread(slow, made(attempt=1)))
    await asyncio.sleep(0)
    release.set()
    assert (await first, await second, ran) == (b"done", b"done", 1)


@pytest.mark.parametrize("error", [ValueError("broken"), asyncio.CancelledError()])
async def test_repeat_of_a_broken_one_runs(error: BaseException) -> None:
    release = asyncio.Event()
    ran = 0

    @deduplicate()
    async def breaks(request: Request) -> bytes:
        nonlocal ran
        ran += 1
        if ran == 1:
            await release.wait()
            raise error
        return b"second"

    first, repeat = (asyncio.create_task(breaks(made(attempt=attempt))) for attempt in range(2))
    await asyncio.sleep(0)
    release.set()
    with pytest.raises(type(error)):
        await first
    assert await repeat == b"second"
    assert await breaks(made(attempt=2)) == b"second"
    assert ran == 2


def test_repeat_of_a_broken_one_runs_in_threads() -> None:
    ran = 0

    @deduplicate()
    def breaks(request: Request) -> bytes:
        nonlocal ran
        ran += 1
        if ran == 1:
            raise ValueError("broken")
        return b"second"

    with pytest.raises(ValueError, match="broken"):
        breaks(made())
    assert breaks(made(attempt=1)) == b"second"


@pytest.mark.parametrize(("size", "again"), [(2, 1), (3, 0)])
def test_memory_is_bounded(size: int, again: int) -> None:
    ran: list[int] = []

    @deduplicate(size=size)
    def work(request: Request) -> None:
        ran.append(request._wire.id)

    for request_id in (1, 2, 3, 3, 2, 1):
        work(made(request_id))
    assert len(ran) == 3 + again


def test_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    ran = 0

    @deduplicate(ttl_s=5)
    def work(request: Request) -> None:
        nonlocal ran
        ran += 1

    for now, expected in ((100.0, 1), (104.9, 1), (105.0, 2), (105.1, 2)):  # noqa: B007  # the clock reads it
        work(made())
        assert ran == expected


def test_name_and_text_stay() -> None:
    @deduplicate()
    async def pay(request: Request) -> Any:
        """Pay."""

    assert (pay.__name__, pay.__doc__) == ("pay", "Pay.")
