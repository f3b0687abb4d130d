"""A handler that starts in place cannot tell: everything that asks for the current task or the context works."""

import asyncio
import contextvars
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gatecrew_worker import Request, Worker
from gatecrew_worker.inplace import Carrier, run_in_place

from .gateway_end import eventually, linked

Handler = Callable[[], Awaitable[Any]]
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class Outcome:
    """Starts a coroutine in place and holds how it ended."""

    def __init__(self, handler: Handler) -> None:
        self.in_place = False
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.carrier: Carrier | None = None
        self._coroutine: Any = handler()
        run_in_place(asyncio.get_running_loop(), contextvars.copy_context(), self._step)

    def _step(self, carrier: Carrier, context: contextvars.Context) -> None:
        self.carrier = carrier
        try:
            waits_for = self._coroutine.send(None)
        except StopIteration as stop:
            self.in_place = True
            self.future.set_result(stop.value)
        except BaseException as error:
            self.in_place = True
            self.future.set_exception(error)
        else:
            carrier.hand_over(self._coroutine, waits_for, self._settle)

    def _settle(self, result: Any, error: BaseException | None) -> None:
        if error is None:
            self.future.set_result(result)
        elif isinstance(error, asyncio.CancelledError):
            self.future.set_exception(RuntimeError("cancelled"))
        else:
            self.future.set_exception(error)

    def __await__(self) -> Any:
        return self.future.__await__()


async def test_finishes_in_place_without_waiting() -> None:
    async def handler() -> int:
        return 5

    outcome = Outcome(handler)
    assert outcome.in_place
    assert await outcome == 5


async def test_current_task_is_one_from_the_first_line_to_the_last() -> None:
    outside = asyncio.current_task()

    async def handler() -> None:
        task = asyncio.current_task()
        assert isinstance(task, asyncio.Task)
        assert task is not outside
        await asyncio.sleep(0)
        assert asyncio.current_task() is task
        await asyncio.sleep(0.001)
        assert asyncio.current_task() is task
        assert task in asyncio.all_tasks()

    outcome = Outcome(handler)
    assert asyncio.current_task() is outside
    await outcome


@pytest.mark.parametrize("sleep_s", [0, 10])
async def test_timeout_entered_in_place(sleep_s: float) -> None:
    async def handler() -> str:
        try:
            async with asyncio.timeout(0.001):
                while True:
                    await asyncio.sleep(sleep_s)
        except TimeoutError:
            return "timed out"

    assert await Outcome(handler) == "timed out"


async def test_timeout_that_has_passed_before_the_first_suspension() -> None:
    async def handler() -> str:
        try:
            async with asyncio.timeout(-1):
                await asyncio.Event().wait()
        except TimeoutError:
            return "timed out"
        return "not"

    assert await Outcome(handler) == "timed out"


async def test_timeout_that_does_not_pass() -> None:
    async def handler() -> int:
        async with asyncio.timeout(10):
            await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert await Outcome(handler) == 0


async def test_task_group_entered_in_place() -> None:
    async def handler() -> list[int]:
        async def part(number: int) -> int:
            await asyncio.sleep(0)
            return number

        async with asyncio.TaskGroup() as group:
            parts = [group.create_task(part(number)) for number in range(3)]
        return [each.result() for each in parts]

    assert await Outcome(handler) == [0, 1, 2]


async def test_task_group_whose_child_fails_cancels_its_parent() -> None:
    async def handler() -> str:
        async def fail() -> None:
            raise ValueError("child")

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                await asyncio.Event().wait()
        except* ValueError:
            pass
        task = asyncio.current_task()
        assert task is not None
        return f"cancelling {task.cancelling()}"

    assert await Outcome(handler) == "cancelling 0"


async def test_cancelling_oneself_in_place_comes_at_the_next_suspension() -> None:
    steps = []

    async def handler() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel("why")
        steps.append("still runs")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            steps.append(str(error))
            task.uncancel()
        await asyncio.sleep(0)
        steps.append("end")

    await Outcome(handler)
    assert steps == ["still runs", "why", "end"]


@pytest.mark.parametrize("at_once", [True, False])
async def test_cancelling_passes_on_to_what_is_awaited(at_once: bool) -> None:
    inner_task: asyncio.Task[Any] | None = None

    async def handler() -> None:
        nonlocal inner_task
        inner_task = asyncio.create_task(asyncio.Event().wait())
        await inner_task

    outcome = Outcome(handler)
    assert outcome.carrier is not None
    if at_once:  # before the carrier's first step
        outcome.carrier.cancel()
    else:
        asyncio.get_running_loop().call_soon(outcome.carrier.cancel)
    with pytest.raises(RuntimeError, match="cancelled"):
        await outcome
    assert inner_task is not None
    assert inner_task.cancelled()


async def test_cancelling_right_after_the_handler_suspended() -> None:
    async def handler() -> str:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # cleaning up may suspend
            return "cleaned up"
        return "not cancelled"

    outcome = Outcome(handler)
    assert outcome.carrier is not None
    outcome.carrier.cancel()
    assert await outcome == "cleaned up"


async def test_cancelling_when_the_awaited_future_is_done_already() -> None:
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def handler() -> str:
        try:
            await ready
        except asyncio.CancelledError:
            return "cancelled"
        return "not cancelled"

    outcome = Outcome(handler)
    ready.set_result(None)
    assert outcome.carrier is not None
    outcome.carrier.cancel()
    assert await outcome == "cancelled"


@pytest.mark.parametrize("done_before_first_step", [True, False])
async def test_awaited_future_fails(done_before_first_step: bool) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def handler() -> str:
        try:
            await future
        except ValueError as error:
            await asyncio.sleep(0)
            return str(error)
        return "not"

    outcome = Outcome(handler)
    if not done_before_first_step:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    future.set_exception(ValueError("why"))
    assert await outcome == "why"


async def test_several_await_the_same_future() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def handler() -> int:
        return await future

    outcomes = [Outcome(handler) for _ in range(3)]
    tasks = [asyncio.create_task(handler()) for _ in range(3)]
    asyncio.get_running_loop().call_soon(future.set_result, 7)
    assert [await outcome for outcome in outcomes] == [7, 7, 7]
    assert [await task for task in tasks] == [7, 7, 7]


async def test_awaiting_what_cannot_be_awaited_fails_as_in_a_task() -> None:
    class Odd:
        def __await__(self) -> Any:
            yield "odd"

    async def handler() -> None:
        await Odd()

    with pytest.raises(RuntimeError, match="Task got bad yield: 'odd'"):
        await Outcome(handler)


async def test_handler_that_never_ends_is_closed_with_its_loop() -> None:
    closed = []

    async def handler() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    outcome = Outcome(handler)
    assert outcome.carrier is not None
    await asyncio.sleep(0)
    outcome.carrier.cancel()
    await asyncio.wait([outcome.carrier])
    with pytest.raises(RuntimeError, match="cancelled"):
        await outcome
    assert closed == [True]


async def test_carrier_that_nobody_needed_ends() -> None:
    async def handler() -> None: ...

    outcome = Outcome(handler)
    carrier = outcome.carrier
    assert carrier is not None
    await asyncio.wait([carrier])
    assert not carrier.cancelled()
    assert carrier.exception() is None


# Through a link: the traces that one handler leaves do not reach the next of its batch.


async def run_batch(*handlers: Callable[[Request], Awaitable[bytes]]) -> list[bytes]:
    worker = Worker("in-place")
    for command, handler in enumerate(handlers):
        worker.on(command)(handler)
    async with linked(worker) as (gateway, _):
        requests = [gateway.request(command, session=command) for command in range(len(handlers))]
        replies = await gateway.ask(*requests)
        assert all(reply.status == 0 for reply in replies), replies
        return [reply.body for reply in replies]


async def look(request: Request) -> bytes:
    task = asyncio.current_task()
    assert task is not None
    before = f"{variable.get()} {task.cancelling()}"
    await asyncio.sleep(0)
    assert asyncio.current_task() is task
    return before.encode()


async def test_context_variables_are_the_handlers_own() -> None:
    async def in_place(request: Request) -> bytes:
        variable.set("in place")
        return variable.get().encode()

    async def suspended(request: Request) -> bytes:
        variable.set("before")
        await asyncio.sleep(0)
        assert variable.get() == "before"
        variable.set("after")
        await asyncio.sleep(0)
        return variable.get().encode()

    assert await run_batch(look, in_place, look, suspended, look) == [
        b"unset 0",
        b"in place",
        b"unset 0",
        b"after",
        b"unset 0",
    ]
    assert variable.get() == "unset"


async def test_context_of_the_program_reaches_handlers() -> None:
    variable.set("of the program")

    def threaded(request: Request) -> bytes:
        return variable.get().encode()

    worker = Worker("context")
    worker.on(1)(look)
    worker.on(2)(threaded)
    async with linked(worker) as (gateway, _):
        replies = await gateway.ask(gateway.request(1), gateway.request(2))
        assert [reply.body for reply in replies] == [b"of the program 0", b"of the program"]


async def test_cancelled_handler_that_ended_in_place_cancels_no_other() -> None:
    async def cancels_itself(request: Request) -> bytes:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return b"ended"

    assert await run_batch(cancels_itself, look, cancels_itself, look) == [b"ended", b"unset 0"] * 2


async def test_task_that_somebody_kept_is_not_the_next_handlers() -> None:
    kept: list[asyncio.Task[Any] | None] = []

    async def keeps(request: Request) -> bytes:
        kept.append(asyncio.current_task())
        return b"kept"

    assert await run_batch(keeps, keeps, look) == [b"kept", b"kept", b"unset 0"]
    first, second = kept
    assert first is not second
    assert first is not None
    assert first.done()


async def test_done_callback_on_the_current_task_is_called() -> None:
    called = asyncio.Event()

    async def hooks(request: Request) -> bytes:
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: called.set())
        return b"hooked"

    assert await run_batch(hooks, look) == [b"hooked", b"unset 0"]
    await called.wait()


async def test_timeouts_and_groups_in_many_handlers_at_once() -> None:
    worker = Worker("many")

    @worker.on(1)
    async def work(request: Request) -> bytes:
        number = int(request.body)
        try:
            async with asyncio.timeout(0.001 if number % 3 == 0 else 60), asyncio.TaskGroup() as group:
                for _ in range(number % 4):
                    group.create_task(asyncio.sleep(0))
                await (asyncio.Event().wait() if number % 3 == 0 else asyncio.sleep(0))
        except TimeoutError:
            return b"timed out"
        return b"done"

    async with linked(worker) as (gateway, _):
        requests = [gateway.request(1, b"%d" % n, n) for n in range(300)]
        replies = await gateway.ask(*requests)
        assert [reply.body for reply in replies] == [b"timed out" if n % 3 == 0 else b"done" for n in range(300)]


def carriers() -> int:
    return sum(isinstance(each, Carrier) for each in gc.get_objects())


async def test_nothing_is_left_for_the_garbage_collector() -> None:
    worker = Worker("garbage")

    @worker.on(1)
    async def hop(request: Request) -> bytes:
        await asyncio.sleep(0)
        return b""

    async with linked(worker) as (gateway, _):
        await gateway.ask(*(gateway.request(1, session=n % 5) for n in range(50)))
        gc.collect()
        before = carriers()
        gc.disable()
        try:
            await gateway.ask(*(gateway.request(1, session=n % 5) for n in range(500)))
            await eventually(lambda: carriers() <= before)
        finally:
            gc.enable()
