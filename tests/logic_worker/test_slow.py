"""The log names handlers that outlive their deadlines, threads that never end, and too few threads."""

import asyncio
import threading

import pytest

from gatecrew_worker import Request, Worker, slow, watch

from .gateway_end import PATIENCE_S, eventually, linked


@pytest.fixture(autouse=True)
def _quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "EVERY_S", 0.01)


async def test_async_handler_past_its_deadline(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker("slow")

    @worker.on(102)
    async def charge(request: Request) -> None:
        await asyncio.Event().wait()

    async with linked(worker) as (gateway, _):
        requests = [gateway.request(102, session=n, remaining_ms=30) for n in range(5)]
        in_time = gateway.request(102, session=9)
        await gateway.post(*requests, in_time)
        await eventually(lambda: "outlived" in caplog.text)
        await gateway.cancel(*requests, in_time)
        await gateway.answers(*requests, in_time)
    told = [record.getMessage() for record in caplog.records if "outlived" in record.getMessage()]
    assert len(told) == 1, "limited"
    assert "the last one charge(), command 102, request 10000000" in told[0]
    assert told[0].endswith("it is cancelled")


async def test_handler_that_is_cancelled_at_its_deadline_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gateway may cancel it before anybody has looked."""
    worker = Worker("slow")
    began = asyncio.Event()

    @worker.on(102)
    async def charge(request: Request) -> None:
        began.set()
        await asyncio.Event().wait()

    async with linked(worker) as (gateway, serving):
        monkeypatch.setattr(serving._shared.slow, "look", lambda: None)
        serving._shared.watch._look = lambda: None
        request = gateway.request(102, remaining_ms=1)
        await gateway.post(request)
        await began.wait()
        await asyncio.sleep(0.002)
        await gateway.cancel(request)
        await gateway.answers(request)
        monkeypatch.undo()
        serving._shared.slow.look()
        assert "outlived their deadlines: 1, the last one charge()" in caplog.text


async def test_thread_that_never_ends(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow, "ENDLESS_S", 0.05)
    worker, release = Worker("slow", threads=3), threading.Event()

    @worker.on(7)
    def stuck(request: Request) -> None:
        release.wait(PATIENCE_S)

    async with linked(worker) as (gateway, _):
        requests = [gateway.request(7, session=n, remaining_ms=10) for n in range(2)]
        await gateway.post(*requests)
        await eventually(lambda: "don't end" in caplog.text)
        release.set()
        await gateway.answers(*requests)
    assert "a thread can't be cancelled: it runs on" in caplog.text
    assert "of 3 threads don't end: the oldest, stuck(), command 7, request 1000000000-1, is past" in caplog.text


async def test_threads_that_are_all_busy(caplog: pytest.LogCaptureFixture) -> None:
    worker, release = Worker("slow", threads=2), threading.Event()

    @worker.on(7)
    def work(request: Request) -> None:
        release.wait(PATIENCE_S)

    async with linked(worker) as (gateway, _):
        requests = [gateway.request(7, session=n) for n in range(5)]
        await gateway.post(*requests)
        await eventually(lambda: "all threads are busy" in caplog.text)
        release.set()
        await gateway.answers(*requests)
    assert caplog.text.count("all threads are busy, and 3 requests wait for one: threads=2") == 1
