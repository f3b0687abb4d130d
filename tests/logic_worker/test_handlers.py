"""Handlers as the requests of a link meet them: order, errors, threads, limits."""

import asyncio
import copy
import functools
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from gatecrew_worker import Request, Session, Status, StatusError, Worker, deduplicate

from .gateway_end import GatewayEnd, linked

pytestmark = pytest.mark.quick

MAX_BODY = (1 << 20) - 8


class Gate:
    """Handlers say that they have come, and wait until they are let through, one by one."""

    def __init__(self) -> None:
        self.came: list[str] = []
        self._doors: dict[str, asyncio.Event] = {}
        self._changed = asyncio.Condition()

    async def __call__(self, request: Request) -> bytes:
        name = request.body.decode()
        self.came.append(name)
        self._doors[name] = asyncio.Event()
        async with self._changed:
            self._changed.notify_all()
        await self._doors[name].wait()
        return request.body

    async def until(self, *names: str) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.came == list(names))

    def open(self, name: str) -> None:
        self._doors[name].set()


@pytest.fixture
def gate() -> Gate:
    return Gate()


# Order.


async def test_session_in_order_others_run_on(gate: Gate) -> None:
    worker = Worker("order")
    worker.on(1)(gate.__call__)
    async with linked(worker) as (gateway, _):
        a1, a2, b1, a3 = (gateway.request(1, body, session) for body, session in
                          ((b"a1", 1), (b"a2", 1), (b"b1", 2), (b"a3", 1)))  # fmt: skip
        await gateway.post(a1, a2, b1, a3)
        await gate.until("a1", "b1")
        gate.open("a1")
        await gate.until("a1", "b1", "a2")
        await gateway.answers(a1)
        gate.open("b1")
        await gateway.answers(b1)
        gate.open("a2")
        await gate.until("a1", "b1", "a2", "a3")
        gate.open("a3")
        await gateway.answers(a2, a3)
        assert list(gateway.replies) == [a1.id, b1.id, a2.id, a3.id]


async def test_in_place_handler_waits_for_a_suspended_one(gate: Gate) -> None:
    worker = Worker("order")
    worker.on(1)(gate.__call__)

    @worker.on(2)
    async def quick(request: Request) -> bytes:
        gate.came.append("quick")
        return b""

    async with linked(worker) as (gateway, _):
        slow, quick_same, quick_other = gateway.request(1, b"slow"), gateway.request(2), gateway.request(2, session=2)
        await gateway.post(slow, quick_same, quick_other)
        await gateway.answers(quick_other)
        assert gate.came == ["slow", "quick"]
        gate.open("slow")
        await gateway.answers(slow, quick_same)
        assert list(gateway.replies) == [quick_other.id, slow.id, quick_same.id]


async def test_concurrent_command_lifts_the_order(gate: Gate) -> None:
    worker = Worker("order")
    worker.on(1)(gate.__call__)
    worker.on(5, concurrent=True)(gate.__call__)
    async with linked(worker) as (gateway, _):
        requests = [gateway.request(command, body) for command, body in ((5, b"c1"), (5, b"c2"), (1, b"a"), (5, b"c3"))]
        await gateway.post(*requests)
        await gate.until("c1", "c2", "a", "c3")
        for name in reversed(gate.came):
            gate.open(name)
        await gateway.answers(*requests)


async def test_many_sessions_and_suspensions_keep_order() -> None:
    worker = Worker("order")
    seen: dict[int, list[int]] = {}

    @worker.on(1)
    async def hop(request: Request) -> None:
        for _ in range(int(request.body) % 4):
            await asyncio.sleep(0)
        seen.setdefault(request.session.id, []).append(int(request.body))

    @worker.on(2)
    def count(request: Request) -> None:
        seen.setdefault(request.session.id, []).append(int(request.body))

    async with linked(worker) as (gateway, _):
        for batch in range(10):
            await gateway.post(*(gateway.request(1 + n % 3 // 2, b"%d" % (batch * 100 + n), n % 7) for n in range(100)))
        await gateway.until(lambda: len(gateway.replies) == 1000)
        assert sum(map(len, seen.values())) == 1000
        assert all(numbers == sorted(numbers) for numbers in seen.values())


async def test_order_of_a_session_whose_context_never_came(gate: Gate) -> None:
    worker = Worker("order")
    worker.on(1)(gate.__call__)
    async with linked(worker) as (gateway, _):
        first, second = gateway.request(1, b"first"), gateway.request(1, b"second")
        await gateway.post(first)
        await gate.until("first")
        await gateway.post(second)
        gate.open("first")
        await gate.until("first", "second")
        gate.open("second")
        await gateway.answers(first, second)


# Errors.


@pytest.fixture(params=["in place", "suspended", "thread"])
def raising(request: pytest.FixtureRequest) -> Callable[[BaseException], Worker]:
    """A worker whose command 1 raises, in each of the ways that a handler can run."""

    def make(error: BaseException) -> Worker:
        worker = Worker("errors")

        async def in_place(request: Request) -> bytes:
            raise error

        async def suspended(request: Request) -> bytes:
            await asyncio.sleep(0)
            raise error

        def thread(request: Request) -> bytes:
            raise copy.copy(error)  # one object in many threads gathers all their tracebacks: seconds to log

        handlers: dict[str, Any] = {"in place": in_place, "suspended": suspended, "thread": thread}
        worker.on(1)(handlers[request.param])

        @worker.on(2)
        async def fine(request: Request) -> bytes:
            return b"fine"

        return worker

    return make


async def test_status_error_reaches_the_client(raising: Callable[[BaseException], Worker]) -> None:
    async with linked(raising(StatusError(Status.NOT_FOUND, "no such room"))) as (gateway, _):
        bad, fine = await gateway.ask(gateway.request(1), gateway.request(2))
        assert (bad.status, bad.message, bad.body) == (5, "no such room", b"")
        assert (fine.status, fine.body) == (0, b"fine")


@pytest.mark.parametrize(
    "error", [ValueError("secret"), asyncio.CancelledError("secret"), BaseException("secret"), SystemExit(3)]
)
async def test_any_other_exception_says_nothing(
    raising: Callable[[BaseException], Worker], error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    worker = raising(error)
    async with linked(worker) as (gateway, _):
        request = gateway.request(1)
        bad, fine = await gateway.ask(request, gateway.request(2))
        key = f"{request.session:x}-{request.id:x}"
        assert (bad.status, bad.message) == (13, f"internal error, request {key}")
        assert fine.body == b"fine"
    (record,) = (record for record in caplog.records if record.name == "gatecrew.worker")
    assert record.levelno == logging.ERROR
    assert f"<Request {key} " in record.getMessage()  # so that a client's report leads to the traceback
    assert record.exc_info is not None
    assert repr(record.exc_info[1]) == repr(error)
    assert worker.counters.failed == 1


@pytest.mark.alone  # so many a second are logged
async def test_flood_of_failures_is_logged_in_part(
    raising: Callable[[BaseException], Worker], caplog: pytest.LogCaptureFixture
) -> None:
    async with linked(raising(ValueError())) as (gateway, _):
        await gateway.ask(*(gateway.request(1, session=n) for n in range(500)))
    assert len(caplog.records) < 100


async def test_status_error_texts_that_the_wire_cannot_carry() -> None:
    worker = Worker("errors")

    @worker.on(1)
    async def surrogate(request: Request) -> bytes:
        raise StatusError(Status.ABORTED, "\ud800")

    @worker.on(2)
    async def long(request: Request) -> bytes:
        raise StatusError(999, "x" * 1_000_000)

    async with linked(worker) as (gateway, _):
        surrogate_reply, long_reply = await gateway.ask(gateway.request(1), gateway.request(2))
        assert (surrogate_reply.status, surrogate_reply.message) == (10, "?")
        assert (long_reply.status, long_reply.message) == (999, "x" * 1024)


def test_status_of_a_status_error_is_an_error() -> None:
    assert str(StatusError(Status.ABORTED, "no")) == "ABORTED: no"
    assert str(StatusError(100, "no")) == "100: no"
    for status in (0, -1, 65_536):
        with pytest.raises(ValueError, match="status"):
            StatusError(status)
    expected = r"^StatusError\(status, text\): the status is such as Status.NOT_FOUND, not 'bad'$"
    with pytest.raises(TypeError, match=expected):
        StatusError("bad")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["text", 5, [b"x"]])
async def test_handler_that_returns_something_else(value: object, caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker("errors")

    @worker.on(1)
    async def wrong(request: Request) -> bytes:
        return value  # type: ignore[return-value]

    @worker.on(2)
    def forgot_async(request: Request) -> Awaitable[bytes]:
        return wrong(request)

    async with linked(worker) as (gateway, _):
        for reply in await gateway.ask(gateway.request(1), gateway.request(2)):
            assert (reply.status, reply.message.partition(",")[0]) == (13, "internal error")
    hint = "bytes, say text.encode()" if isinstance(value, str) else "bytes or None"
    assert f"wrong(), command 1, returned {type(value).__name__}; return {hint}" in caplog.text
    assert "forgot_async(), command 2, returned coroutine; return bytes or None" in caplog.text


async def test_handler_that_takes_something_else() -> None:
    worker = Worker("errors")

    async def wrong() -> bytes:
        return b""

    handler = cast("Any", wrong)
    handler.__signature__ = inspect.signature(lambda request: None)  # as some decorators lie
    worker.on(1)(handler)

    async with linked(worker) as (gateway, _):
        for _ in range(2):
            (reply,) = await gateway.ask(gateway.request(1))
            assert (reply.status, reply.message.partition(",")[0]) == (13, "internal error")


@pytest.mark.parametrize("kind", [bytearray, memoryview])
async def test_reply_may_be_like_bytes(kind: Callable[[bytes], bytes]) -> None:
    worker = Worker("echo")

    @worker.on(1)
    async def echo(request: Request) -> bytes:
        return kind(request.body)

    async with linked(worker) as (gateway, _):
        (reply,) = await gateway.ask(gateway.request(1, b"x"))
        assert reply.body == b"x"


async def test_reply_that_is_too_large(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker("large")

    @worker.on(1)
    async def large(request: Request) -> bytes:
        return bytes(int(request.body))

    async with linked(worker) as (gateway, _):
        largest, too_large, small = await gateway.ask(
            gateway.request(1, b"%d" % MAX_BODY), gateway.request(1, b"%d" % (MAX_BODY + 1)), gateway.request(1, b"1")
        )
        assert (largest.status, len(largest.body)) == (0, MAX_BODY)
        assert (too_large.status, too_large.message) == (13, f"a reply of {MAX_BODY + 1} bytes; {MAX_BODY} at most")
        assert small.status == 0
    assert "bytes; 1048568 at most" in caplog.text


# Threads.


async def test_plain_functions_run_in_threads_at_once_and_in_order() -> None:
    worker = Worker("threads", threads=3)
    barrier = threading.Barrier(3)
    seen: list[bytes] = []

    @worker.on(1)
    def meet(request: Request) -> bytes:
        barrier.wait(10)  # all three sessions at once, or it breaks
        seen.append(request.body)
        return threading.current_thread().name.encode()

    async with linked(worker) as (gateway, _):
        requests = [gateway.request(1, b"%d%d" % (session, n), session) for n in range(4) for session in range(3)]
        replies = await gateway.ask(*requests)
        assert len({reply.body for reply in replies}) == 3
        assert not any(reply.body == threading.current_thread().name.encode() for reply in replies)
        for session in b"012":
            assert [body[1:] for body in seen if body[0] == session] == [b"0", b"1", b"2", b"3"]


async def test_never_more_threads_than_said() -> None:
    worker = Worker("threads", threads=2)
    names: set[str] = set()

    @worker.on(1)
    def work(request: Request) -> None:
        names.add(threading.current_thread().name)

    async with linked(worker) as (gateway, _):
        await gateway.ask(*(gateway.request(1, session=n) for n in range(200)))
    assert names <= {"handler-1", "handler-2"}


async def test_one_at_a_time(gate: Gate) -> None:
    worker = Worker("alone", one_at_a_time=True)
    running: list[str] = []
    threads: set[int] = set()

    @worker.on(1)
    async def loop_handler(request: Request) -> None:
        running.append("loop")
        assert running == ["loop"]
        await asyncio.sleep(0)
        running.remove("loop")

    @worker.on(2)
    def thread_handler(request: Request) -> None:
        running.append("thread")
        assert running == ["thread"]
        threads.add(threading.get_ident())
        running.remove("thread")

    @worker.on_open
    async def opened(session: Session) -> None:
        assert running == []

    with pytest.raises(ValueError, match="one thing at a time"):
        worker.on(3, concurrent=True)

    async with linked(worker) as (gateway, serving), GatewayEnd(serving.address, prefix=2) as other:
        for end in (gateway, other):
            await end.post(
                *(end.request(1 + n % 2, session=n) for n in range(100)), end.request(0, kind=2, session=101)
            )
        for end in (gateway, other):
            await end.until(lambda end=end: len(end.replies) == 101)  # type: ignore[misc]
            assert all(reply.status == 0 for reply in end.replies.values())
    assert len(threads) == 1


# Limits.


async def test_deadline_that_passes_in_the_lane(gate: Gate) -> None:
    worker = Worker("late")
    worker.on(1)(gate.__call__)
    async with linked(worker) as (gateway, _):
        first, late = gateway.request(1, b"first"), gateway.request(1, b"late", remaining_ms=1)
        await gateway.post(first, late)
        await gate.until("first")
        loop = asyncio.get_running_loop()
        until = loop.time() + 0.002
        while loop.time() < until:  # only time can pass a deadline
            await asyncio.sleep(0)
        gate.open("first")
        (_, reply) = await gateway.answers(first, late)
        assert reply.status == Status.DEADLINE_EXCEEDED
        assert not reply.not_started
        assert gate.came == ["first"]
    assert worker.counters.expired == 1


async def test_deadline_that_passes_while_no_thread_is_free() -> None:
    worker = Worker("late", threads=1)
    started, release = threading.Event(), threading.Event()
    ran: list[bytes] = []

    @worker.on(1)
    def work(request: Request) -> None:
        started.set()
        release.wait(10)
        ran.append(request.body)

    async with linked(worker) as (gateway, _):
        first, late = gateway.request(1, b"first", 1), gateway.request(1, b"late", 2, remaining_ms=1)
        await gateway.post(first, late)
        await asyncio.to_thread(started.wait, 10)
        until = asyncio.get_running_loop().time() + 0.002
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0)
        release.set()
        (_, reply) = await gateway.answers(first, late)
        assert reply.status == Status.DEADLINE_EXCEEDED
        assert ran == [b"first"]


async def test_deadlines_pass_in_a_batch_of_handlers_that_keep_the_loop() -> None:
    worker = Worker("late")

    @worker.on(1)
    async def busy(request: Request) -> None:
        until = asyncio.get_running_loop().time() + 0.03
        while asyncio.get_running_loop().time() < until and request.remaining_s > 0:
            pass

    async with linked(worker) as (gateway, _):
        requests = [gateway.request(1, session=n, remaining_ms=20) for n in range(10)]
        replies = await gateway.ask(*requests)
        assert [reply.status for reply in replies] == [0] + [Status.DEADLINE_EXCEEDED] * 9


async def test_handler_that_keeps_the_loop_lets_earlier_replies_go() -> None:
    worker = Worker("slices")

    @worker.on(1)
    async def quick(request: Request) -> bytes:
        until = asyncio.get_running_loop().time() + 0.006
        while asyncio.get_running_loop().time() < until:
            pass
        return b"quick"

    async with linked(worker) as (gateway, _):
        requests = [gateway.request(1, session=n) for n in range(10)]
        await gateway.ask(*requests)
        _, first, *_ = gateway.messages  # after the hello
        assert len(first.replies) < 10


async def test_more_in_flight_than_agreed(gate: Gate) -> None:
    worker = Worker("full", max_in_flight=3)
    worker.on(1)(gate.__call__)
    async with linked(worker) as (gateway, _):
        assert gateway.hello.max_in_flight == 3
        requests = [gateway.request(1, b"%d" % n, n % 2) for n in range(5)]
        await gateway.post(*requests)
        fourth, fifth = await gateway.answers(*requests[3:])
        for reply in (fourth, fifth):
            assert reply.not_started
            assert reply.status == Status.UNAVAILABLE
        await gate.until("0", "1")
        gate.open("0")
        await gate.until("0", "1", "2")
        gate.open("1")
        gate.open("2")
        assert not any(reply.not_started for reply in await gateway.answers(*requests[:3]))
        assert worker.counters.not_started == 2
        last = gateway.request(1, b"last")
        await gateway.post(last)
        await gate.until("0", "1", "2", "last")
        gate.open("last")
        await gateway.answers(last)


# Hanging handlers on a worker.


def test_commands_are_checked() -> None:
    worker = Worker("commands")

    async def handler(request: Request) -> None: ...

    worker.on(0, 65_535, range(10, 20))(handler)
    for commands, text in (((-1,), "0 to 65535"), ((65_536,), "0 to 65535"), ((15,), "already"), ((), "at least one")):
        with pytest.raises(ValueError, match=text):
            worker.on(*commands)(handler)
    worker.on_any(handler)
    with pytest.raises(ValueError, match="already"):
        worker.on_any(handler)


def test_worker_arguments_are_checked() -> None:
    for arguments in ({"service": ""}, {"max_in_flight": 0}, {"threads": 0}):
        with pytest.raises(ValueError, match="must be at least|needs"):
            Worker(**{"service": "x"} | arguments)


def test_misspelt_option_is_named() -> None:
    with pytest.raises(TypeError, match=r"Worker has no option 'max_inflight'; did you mean 'max_in_flight'\?"):
        Worker("x", max_inflight=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="Worker has no option 'colour'; there are: service, max_in_flight"):
        Worker("x", colour="red")  # type: ignore[call-arg]

    class Own(Worker):
        def __init__(self, colour: str, **options: Any) -> None:
            super().__init__("own", **options)

    assert Own(colour="red", threads=3).threads == 3


def test_on_without_its_commands() -> None:
    worker = Worker("commands")

    async def say(request: Request) -> None: ...

    with pytest.raises(TypeError, match=r"on\(\) needs commands: write @worker.on\(1\) above say\(\)"):
        worker.on(say)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a command is a number, not '1'"):
        worker.on("1")(say)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a handler is a function, not 5"):
        worker.on(1)(5)  # type: ignore[type-var]


def test_handler_that_cannot_be_called_with_its_request() -> None:
    worker = Worker("signature")

    async def nothing() -> None: ...

    def two(request: Request, more: int) -> None: ...

    def named_only(*, request: Request) -> None: ...

    class Handler:
        def method(self, request: Request) -> None: ...

    for handler in (nothing, two, named_only, Handler.method):
        with pytest.raises(TypeError, match=r"can't be called with the request: write \w+\(request\)"):
            worker.on(1)(handler)  # type: ignore[type-var]
        with pytest.raises(TypeError, match="the request"):
            worker.on_any(handler)  # type: ignore[type-var]
        for hang in (worker.on_open, worker.on_close):
            with pytest.raises(TypeError, match="the session"):
                hang(handler)  # type: ignore[type-var]

    def defaults(request: Request, more: int = 0, *rest: int, **options: int) -> None: ...

    worker.on(1)(defaults)
    worker.on(2)(Handler().method)
    worker.on(3)(functools.partial(two, more=1))
    worker.on(4)(deduplicate()(defaults))


def test_handler_that_yields_is_refused() -> None:
    async def stream(request: Request) -> Any:
        yield b"a"

    def parts(request: Request) -> Any:
        yield b"a"

    for handler in (stream, parts, functools.partial(stream)):
        with pytest.raises(TypeError, match="has a `yield`: a handler returns its one reply"):
            Worker("yields").on(1)(handler)


def test_what_is_left_out_is_said() -> None:
    worker: Any = Worker("words")
    for name in ("on_open", "on_close", "on_any"):
        with pytest.raises(TypeError, match=f"^{name} takes no parentheses: write @worker.{name}$"):
            getattr(worker, name)()
    with pytest.raises(TypeError, match=r'^a Worker needs the name of its service: Worker\("chat"\)$'):
        Worker()  # type: ignore[call-arg]


async def test_worker_without_handlers_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with Worker("mute").serving():
        assert "worker of mute has no handlers: it can only push" in caplog.text
    caplog.clear()
    hears = Worker("hears")

    @hears.on_open
    async def opened(session: Session) -> None: ...

    async with hears.serving():
        assert "no handlers" not in caplog.text


async def test_threads_are_many_and_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert Worker("x").threads >= 32
    assert Worker("x", one_at_a_time=True).threads == 1
    async with Worker("x", threads=7).serving():
        assert "threads=7" in caplog.text


async def test_objects_with_an_async_call_are_handlers() -> None:
    class Echo:
        async def __call__(self, request: Request) -> bytes:
            assert asyncio.current_task() is not None
            return request.body

    worker = Worker("callable")
    worker.on(1)(Echo())
    async with linked(worker) as (gateway, _):
        assert (await gateway.ask(gateway.request(1, b"x")))[0].body == b"x"
