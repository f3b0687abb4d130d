"""Time that a message lay unread counts against its requests' deadlines."""

import asyncio
import math
import time
from types import SimpleNamespace

import pytest

from gatecrew_worker import Request, Status, Worker, unread
from gatecrew_worker.unread import DRIFT, Unread

from .gateway_end import eventually, linked


class Clocks:
    """The gateway's clock, and ours, which is another one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ours = 50.0
        self.gateways = 1_000_000.0
        self.watched_at = -math.inf
        self.unread = Unread(lambda: self.watched_at)
        monkeypatch.setattr(unread, "time", SimpleNamespace(monotonic=lambda: self.ours))

    def wait(self, seconds: float) -> None:
        self.ours += seconds
        self.gateways += seconds

    def sent_ms(self) -> int:
        return int(self.gateways * 1000)

    def age(self, sent_ms: int, asked_at: float = math.inf) -> float:
        return self.ours - self.unread.arrived_at(sent_ms, asked_at)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


def test_what_is_read_at_once_arrived_now(clocks: Clocks) -> None:
    for _ in range(100):
        assert clocks.age(clocks.sent_ms()) == pytest.approx(0, abs=0.002)
        clocks.wait(0.3)


def test_what_lay_unread_arrived_then(clocks: Clocks) -> None:
    clocks.age(clocks.sent_ms())
    for unread_s in (0.01, 3.0, 0.5, 0.0):
        sent_ms = clocks.sent_ms()
        clocks.wait(unread_s)
        assert clocks.age(sent_ms) == pytest.approx(unread_s, abs=0.002 + DRIFT * 4)  # four seconds pass in all


def test_gateway_that_does_not_say_when(clocks: Clocks) -> None:
    clocks.age(clocks.sent_ms())
    assert clocks.age(0) == 0


def test_first_message_may_have_been_slow(clocks: Clocks) -> None:
    sent_ms = clocks.sent_ms()
    clocks.wait(0.4)
    assert clocks.age(sent_ms) == 0  # nobody can know
    assert clocks.age(clocks.sent_ms()) == pytest.approx(0, abs=0.002)
    sent_ms = clocks.sent_ms()
    clocks.wait(0.4)
    assert clocks.age(sent_ms) == pytest.approx(0.4, abs=0.002)


def test_clocks_that_differ_in_pace(clocks: Clocks) -> None:
    """Ours is quicker than the gateway's, by less than DRIFT: that is no age, however long a link lives."""
    for _ in range(10_000):
        assert clocks.age(clocks.sent_ms()) < 0.003
        clocks.wait(10.0)
        clocks.ours += 10.0 * DRIFT * 0.9


def test_clock_of_the_gateway_that_stood_still(clocks: Clocks) -> None:
    """A virtual machine that was paused: its requests are not old because of that for ever."""
    clocks.age(clocks.sent_ms())
    clocks.ours += 8.0
    assert clocks.age(clocks.sent_ms()) == pytest.approx(8.0, abs=0.002 + DRIFT * 8.0)
    asked_at = clocks.ours
    clocks.wait(1.0)
    clocks.watched_at = clocks.ours - 0.3  # the loop ran then, waited for a message, and this one was not there
    assert clocks.age(clocks.sent_ms(), asked_at) <= 0.302
    assert clocks.age(clocks.sent_ms()) <= 0.302


def test_our_clock_that_stood_still(clocks: Clocks) -> None:
    clocks.age(clocks.sent_ms())
    clocks.gateways += 8.0
    assert clocks.age(clocks.sent_ms()) == pytest.approx(0, abs=0.002)


def stand_still(seconds: float) -> None:
    time.sleep(seconds)


async def test_loop_that_was_blocked_begins_nothing_that_is_dead() -> None:
    worker, began = Worker("blocked"), list[bytes]()

    @worker.on(1)
    async def block(request: Request) -> None:
        began.append(b"block")
        stand_still(3)

    @worker.on(2)
    async def quick(request: Request) -> None:
        began.append(request.body)

    @worker.on(3)
    def threaded(request: Request) -> None:
        began.append(request.body)

    async with linked(worker) as (gateway, _):

        def now_ms() -> int:
            return int(time.monotonic() * 1000) + 77_000_000  # the clock of another machine

        await gateway.send(heartbeat={"number": 1}, sent_ms=now_ms())
        await gateway.until(lambda: gateway.messages[-1].heartbeat.number == 1)
        dead = [gateway.request(2 + n % 2, b"dead", session=n, remaining_ms=2000) for n in range(50)]
        alive = [gateway.request(2 + n % 2, b"alive", session=n, remaining_ms=60_000) for n in range(50)]
        endless = gateway.request(2, b"endless", remaining_ms=0)
        both = [request for pair in zip(dead, alive, strict=True) for request in pair]
        sent_ms = now_ms()  # of both: this gateway's end has the same loop
        await gateway.send(requests=[gateway.request(1)], sent_ms=sent_ms)
        await gateway.send(requests=[*both, endless], sent_ms=sent_ms)
        await eventually(lambda: began)
        for reply in await gateway.answers(*dead):
            assert (reply.status, reply.not_started) == (Status.DEADLINE_EXCEEDED, False)
        for reply in await gateway.answers(*alive, endless):
            assert reply.status == 0
        assert b"dead" not in began
        assert worker.counters.expired == 50


async def test_handler_is_told_what_time_is_really_left() -> None:
    worker = Worker("blocked")

    @worker.on(1)
    async def left(request: Request) -> bytes:
        return b"%d" % (request.remaining_s * 1000)

    async with linked(worker) as (gateway, _):
        now_ms = int(time.monotonic() * 1000) + 5_000_000
        await gateway.send(heartbeat={"number": 1}, sent_ms=now_ms)
        await gateway.until(lambda: gateway.messages[-1].heartbeat.number == 1)
        request = gateway.request(1, remaining_ms=60_000)
        await gateway.send(requests=[request], sent_ms=now_ms - 20_000)
        (reply,) = await gateway.answers(request)
        assert int(reply.body) <= 40_001


async def test_watched_loop_knows_that_it_ran() -> None:
    worker = Worker("watched")
    async with worker.serving() as serving:
        began = time.monotonic()
        async with asyncio.timeout(30):
            while serving._shared.watch.watched_at() < began:
                await asyncio.sleep(0.05)
        seen = serving._shared.watch.watched_at()
        stand_still(0.6)
        await asyncio.sleep(0)
        assert serving._shared.watch.watched_at() <= seen + 0.35
