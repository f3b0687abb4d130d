"""Requests that nobody waits for any more: they stop, their lanes go on, and each still has its one reply."""

import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import Callable

import grpc
import pytest

from gatecrew.v1 import worker_pb2, worker_pb2_grpc
from gatecrew_worker import Request, Status, Worker, deduplicate, dispatch

from .gateway_end import PATIENCE_S, GatewayEnd, eventually, linked


class Handlers:
    """A worker whose handlers say what they do: 1 waits, 2 is quick, 3 doesn't let itself be cancelled, 4 is a thread's
    that waits, 5 one that looks whether it is cancelled.
    """

    def __init__(self, **options: bool | int) -> None:
        self.worker = Worker("cancel", **options)  # type: ignore[arg-type]
        self.log: list[str] = []
        self.release = asyncio.Event()
        self.release_thread = threading.Event()
        self.worker.on(1)(self.wait)
        self.worker.on(2)(self.quick)
        self.worker.on(3)(self.stubborn)
        self.worker.on(4)(self.thread)
        self.worker.on(5)(self.watchful_thread)

    async def wait(self, request: Request) -> bytes:
        name = request.body.decode()
        self.log.append(f"{name} began")
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.log.append(f"{name} cancelled {request.cancelled}")
            await asyncio.sleep(0)
            self.log.append(f"{name} has cleaned up")
            raise
        return request.body

    async def quick(self, request: Request) -> bytes:
        self.log.append(request.body.decode())
        return request.body

    async def stubborn(self, request: Request) -> bytes:
        self.log.append("stubborn began")
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.log.append("swallowed")
        return request.body

    def thread(self, request: Request) -> bytes:
        self.log.append(f"{request.body.decode()} began")
        self.release_thread.wait(PATIENCE_S)
        return request.body

    def watchful_thread(self, request: Request) -> bytes:
        self.log.append("looks")
        while not request.cancelled:
            self.release_thread.wait(0.001)
        return b"noticed"


async def test_async_handler_is_cancelled_and_its_session_goes_on() -> None:
    handlers = Handlers()
    async with linked(handlers.worker) as (gateway, _):
        hung, following = gateway.request(1, b"hung"), gateway.request(2, b"following")
        await gateway.post(hung, following)
        await eventually(lambda: handlers.log)
        await gateway.cancel(hung)
        cancelled, answer = await gateway.answers(hung, following)
        assert (cancelled.status, cancelled.body, cancelled.not_started) == (Status.CANCELLED, b"", False)
        assert answer.body == b"following"
        assert handlers.log == ["hung began", "following", "hung cancelled True", "hung has cleaned up"]
    assert handlers.worker.counters.cancelled == 1
    assert handlers.worker.counters.failed == 0


async def test_status_tells_a_deadline_from_a_client_that_has_gone() -> None:
    handlers = Handlers()
    async with linked(handlers.worker) as (gateway, _):
        late = gateway.request(1, b"late", remaining_ms=1)
        await gateway.post(late)
        await eventually(lambda: handlers.log)
        await asyncio.sleep(0.002)
        await gateway.cancel(late)
        (reply,) = await gateway.answers(late)
        assert reply.status == Status.DEADLINE_EXCEEDED


async def test_handler_that_swallows_the_cancellation_does_not_hold_its_session() -> None:
    handlers = Handlers()
    async with linked(handlers.worker) as (gateway, _):
        stubborn, following = gateway.request(3, b"stubborn"), gateway.request(2, b"following")
        await gateway.post(stubborn, following)
        await gateway.cancel(stubborn)
        await gateway.answers(following)
        assert stubborn.id not in gateway.replies
        await eventually(lambda: "swallowed" in handlers.log)
        await gateway.cancel(stubborn)  # a second time changes nothing
        handlers.release.set()
        (reply,) = await gateway.answers(stubborn)
        assert (reply.status, reply.body) == (Status.CANCELLED, b"")
        assert handlers.log == ["stubborn began", "following", "swallowed"]


async def test_what_waits_in_the_lane_is_never_begun() -> None:
    handlers = Handlers()
    async with linked(handlers.worker) as (gateway, _):
        first = gateway.request(1, b"first")
        queue = [gateway.request(2, b"%d" % n) for n in range(6)]
        await gateway.post(first, *queue)
        await gateway.cancel(queue[0], queue[3], queue[5])
        for reply in await gateway.answers(queue[0], queue[3], queue[5]):
            assert (reply.status, reply.not_started) == (Status.CANCELLED, False)
        assert handlers.log == ["first began"]
        handlers.release.set()
        await gateway.answers(first, *queue)
        assert handlers.log == ["first began", "1", "2", "4"]


async def test_everything_of_a_session_at_once() -> None:
    handlers = Handlers()
    async with linked(handlers.worker) as (gateway, _):
        requests = [gateway.request(1, b"%d" % n) for n in range(5)]
        await gateway.post(*requests)
        await gateway.cancel(*requests)
        assert {reply.status for reply in await gateway.answers(*requests)} == {Status.CANCELLED}
        assert [line for line in handlers.log if line.endswith("began")] == ["0 began"]
        (reply,) = await gateway.ask(gateway.request(2, b"later"))
        assert reply.body == b"later"


async def test_thread_cannot_be_cancelled_and_its_session_goes_on_in_another() -> None:
    handlers = Handlers(threads=2)
    async with linked(handlers.worker) as (gateway, _):
        hung, other, quick = gateway.request(4, b"hung"), gateway.request(5), gateway.request(2, b"quick")
        await gateway.post(hung, other, quick)
        await eventually(lambda: handlers.log)
        await gateway.cancel(hung)
        await eventually(lambda: handlers.log == ["hung began", "looks"])
        await gateway.cancel(other)
        (reply, _) = await gateway.answers(other, quick)
        assert (reply.status, reply.body) == (Status.CANCELLED, b"")
        assert hung.id not in gateway.replies
        handlers.release_thread.set()
        (reply,) = await gateway.answers(hung)
        assert (reply.status, reply.body) == (Status.CANCELLED, b"")


async def test_what_waits_for_a_thread_is_never_begun() -> None:
    handlers = Handlers(threads=1)
    async with linked(handlers.worker) as (gateway, serving):
        busy = gateway.request(4, b"busy", session=1)
        queue = [gateway.request(4, b"%d" % n, session=2 + n) for n in range(4)]
        behind = gateway.request(2, b"behind", session=2)
        await gateway.post(busy, *queue, behind)
        await eventually(lambda: handlers.log)
        await gateway.cancel(queue[0], queue[2])
        replies = await gateway.answers(queue[0], queue[2], behind)
        assert [reply.status for reply in replies] == [Status.CANCELLED, Status.CANCELLED, 0]
        handlers.release_thread.set()
        await gateway.answers(busy, *queue)
        assert handlers.log == ["busy began", "behind", "1 began", "3 began"]
        assert serving._threads._idle == 1


@pytest.mark.parametrize("command", [3, 4], ids=["coroutine", "thread"])
async def test_one_at_a_time_waits_for_the_end_all_the_same(command: int) -> None:
    handlers = Handlers(one_at_a_time=True)
    async with linked(handlers.worker) as (gateway, _):
        hung, dropped, waits = (
            gateway.request(command, b"hung"),
            gateway.request(2, b"dropped"),
            gateway.request(2, b"x"),
        )
        await gateway.post(hung, dropped, waits)
        await eventually(lambda: handlers.log)
        await gateway.cancel(hung, dropped)
        (reply,) = await gateway.answers(dropped)
        assert reply.status == Status.CANCELLED
        await gateway.send(heartbeat={"number": 7})
        await gateway.until(lambda: any(message.heartbeat.number == 7 for message in gateway.messages))
        assert "x" not in handlers.log
        handlers.release.set()
        handlers.release_thread.set()
        (reply, answer) = await gateway.answers(hung, waits)
        assert (reply.status, answer.body) == (Status.CANCELLED, b"x")


async def test_what_is_in_doubt_is_never_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a silence of the gateway nothing begins before it is heard; and what it says then may be this."""
    handlers = Handlers()
    async with linked(handlers.worker) as (gateway, serving):
        first, second, third = gateway.request(1, b"first"), gateway.request(2, b"second"), gateway.request(2, b"third")
        await gateway.post(first, second, third)
        await eventually(lambda: handlers.log)
        (link,) = serving._servicer.streams
        monkeypatch.setattr(dispatch, "LEASE_S", -1.0)
        handlers.release.set()
        await gateway.answers(first)
        assert len(link.dispatcher._in_doubt) == 2
        link.dispatcher.cancel_requests([second.id])
        monkeypatch.setattr(dispatch, "LEASE_S", 3600.0)
        await gateway.send(heartbeat={"number": 1})
        replies = await gateway.answers(second, third)
        assert [reply.status for reply in replies] == [Status.CANCELLED, 0]
        assert handlers.log == ["first began", "third"]


async def test_ids_that_are_no_open_requests_do_nothing() -> None:
    handlers = Handlers()
    async with linked(handlers.worker) as (gateway, _):
        done = gateway.request(2, b"done")
        await gateway.ask(done)
        await gateway.send(cancelled_requests=[done.id, 4711, 0])
        (reply,) = await gateway.ask(gateway.request(2, b"next"))
        assert reply.body == b"next"
        assert len(gateway.replies) == 2
    assert handlers.worker.counters.cancelled == 0


async def test_concurrent_handlers_are_cancelled_one_by_one() -> None:
    worker = Worker("cancel")
    running: set[bytes] = set()

    @worker.on(1, concurrent=True)
    async def wait(request: Request) -> None:
        running.add(request.body)
        try:
            await asyncio.Event().wait()
        finally:
            running.remove(request.body)

    async with linked(worker) as (gateway, _):
        requests = [gateway.request(1, b"%d" % n) for n in range(4)]
        await gateway.post(*requests)
        await eventually(lambda: len(running) == 4)
        await gateway.cancel(requests[1], requests[2])
        await gateway.answers(requests[1], requests[2])
        assert running == {b"0", b"3"}
        await gateway.cancel(requests[0], requests[3])
        await gateway.answers(*requests)


async def test_handler_that_fails_while_it_cleans_up_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker("cancel")
    began = asyncio.Event()

    @worker.on(1)
    async def broken(request: Request) -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            raise KeyError("cleaning up")

    async with linked(worker) as (gateway, _):
        request = gateway.request(1)
        await gateway.post(request)
        await began.wait()
        await gateway.cancel(request)
        (reply,) = await gateway.answers(request)
        assert reply.status == Status.CANCELLED
    assert "handler failed after it was cancelled" in caplog.text
    assert [record.levelno for record in caplog.records if record.name == "gatecrew.worker"].count(logging.ERROR) == 1
    assert worker.counters.failed == 1


async def test_repeat_of_a_cancelled_request_runs() -> None:
    """A gateway that lost its client, and another attempt of the same request that somebody waits for."""
    worker = Worker("cancel")
    runs: list[int] = []
    release = asyncio.Event()

    @worker.on(1, concurrent=True)
    @deduplicate()
    async def once(request: Request) -> bytes:
        runs.append(request.attempt)
        await release.wait()
        return b"done"

    async with linked(worker) as (gateway, serving), GatewayEnd(serving.address, prefix=2) as other:
        first = gateway.request(1)
        again = worker_pb2.Request()
        again.CopyFrom(first)
        again.attempt = 1
        await gateway.post(first)
        await eventually(lambda: runs)
        await other.post(again)
        await eventually(lambda: len(worker._links.live) == 2)
        await gateway.cancel(first)
        await gateway.answers(first)
        await eventually(lambda: runs == [0, 1])
        release.set()
        (reply,) = await other.answers(again)
        assert reply.body == b"done"


async def test_call_of_handle_past_its_deadline_leaves_the_session_free() -> None:
    handlers = Handlers()
    async with (
        handlers.worker.serving() as serving,
        grpc.aio.insecure_channel(serving.address) as channel,
    ):
        handle = worker_pb2_grpc.LogicWorkerStub(channel).Handle
        hung = worker_pb2.Request(id=1, session=1, command=1, body=b"hung", remaining_ms=100)
        with pytest.raises(grpc.aio.AioRpcError):
            await handle(hung, timeout=0.2)
        async with asyncio.timeout(PATIENCE_S):
            reply = await handle(worker_pb2.Request(id=2, session=1, command=2, body=b"x"))
        assert reply.body == b"x"
        await eventually(lambda: "hung has cleaned up" in handlers.log)
        await eventually(lambda: not serving._shared.dispatchers)


async def test_thread_learns_that_its_link_has_gone() -> None:
    handlers = Handlers()
    async with handlers.worker.serving() as serving:
        async with GatewayEnd(serving.address) as gateway:
            await gateway.post(gateway.request(5))
            await eventually(lambda: handlers.log)
        await eventually(lambda: not serving._shared.dispatchers)


# Anything at any time.

HANG, SWALLOW, THREAD, QUICK, HOP, CONCURRENT = range(1, 7)


def hazardous(seen: dict[int, list[int]], at_once: set[int], one_at_a_time: bool) -> Worker:
    worker = Worker("hazardous", threads=4, max_in_flight=100_000, one_at_a_time=one_at_a_time)

    def begin(request: Request) -> int:
        number = int(request.body)
        if request.command != CONCURRENT:
            seen.setdefault(request.session.id, []).append(number)
        assert not (one_at_a_time and at_once), "two at once"
        at_once.add(number)
        return number

    async def waiting(request: Request) -> bytes:
        number = begin(request)
        try:
            for _ in range(number % 7):
                await asyncio.sleep(0)
            if number % 3 == 0:
                await asyncio.Event().wait()
        finally:
            at_once.remove(number)
        return request.body

    worker.on(HANG)(waiting)
    worker.on(CONCURRENT, concurrent=not one_at_a_time)(waiting)

    @worker.on(SWALLOW)
    async def swallow(request: Request) -> bytes:
        number = begin(request)
        for _ in range(number % 11):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.001)
        at_once.remove(number)
        return request.body

    @worker.on(THREAD)
    def thread(request: Request) -> bytes:
        number = begin(request)
        while number % 2 == 0 and not request.cancelled:
            threading.Event().wait(0.001)
        at_once.remove(number)
        return request.body

    @worker.on(QUICK)
    async def quick(request: Request) -> bytes:
        at_once.remove(begin(request))
        return request.body

    @worker.on(HOP)
    async def hop(request: Request) -> bytes:
        number = begin(request)
        try:
            await asyncio.sleep(0)
        finally:
            at_once.remove(number)
        return request.body

    return worker


@pytest.mark.parametrize("one_at_a_time", [False, True])
@pytest.mark.parametrize("seed", range(8))
async def test_one_reply_each_and_order_whatever_is_cancelled(seed: int, one_at_a_time: bool) -> None:
    chance = random.Random(seed)
    seen: dict[int, list[int]] = {}
    worker = hazardous(seen, set(), one_at_a_time)
    async with worker.serving() as serving:
        async with GatewayEnd(serving.address) as gateway:
            sent: list[worker_pb2.Request] = []
            cancelled: set[int] = set()

            async def cancel(wanted: Callable[[worker_pb2.Request], bool]) -> None:
                doomed = [request for request in sent if request.id not in gateway.replies and wanted(request)]
                cancelled.update(request.id for request in doomed)
                await gateway.cancel(*doomed)

            for _ in range(40):
                batch = [
                    gateway.request(chance.randint(HANG, CONCURRENT), b"%d" % number, session=chance.randrange(6))
                    for number in range(len(sent), len(sent) + chance.randint(1, 20))
                ]
                sent += batch
                await gateway.post(*batch)
                for _ in range(chance.randrange(3)):
                    await asyncio.sleep(0)
                if chance.random() < 0.6:
                    await cancel(lambda request: chance.random() < 0.3)
            while len(gateway.replies) < len(sent):  # those that wait for ever are cancelled in the end
                await cancel(lambda request: request.id not in cancelled)
                await asyncio.sleep(0.01)
            for request in sent:
                reply = gateway.replies[request.id]
                if reply.status:
                    assert (reply.status, reply.body) == (Status.CANCELLED, b"")
                    assert request.id in cancelled
                else:
                    assert reply.body == request.body
        answered = {int(request.body) for request in sent if not gateway.replies[request.id].status}
        for numbers in seen.values():
            in_order = [number for number in numbers if number in answered]
            assert in_order == sorted(in_order)
        await eventually(lambda: not serving._shared.dispatchers)
    assert worker.counters.failed == worker.counters.replies_lost == 0
