"""Questions to all gateways: who is there."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gatecrew.v1 import worker_pb2
from gatecrew_worker import Request, SessionName, Status, StatusError, Worker, links
from gatecrew_worker.answer import AnswerForThread

from .gateway_end import GatewayEnd, eventually, linked


@asynccontextmanager
async def two_gateways(worker: Worker) -> AsyncIterator[tuple[GatewayEnd, GatewayEnd]]:
    async with (
        worker.serving() as serving,
        GatewayEnd(serving.address, 1) as one,
        GatewayEnd(serving.address, 2) as two,
    ):
        await eventually(lambda: len(worker._links.live) == 2)
        yield one, two


async def queries(gateway: GatewayEnd, count: int = 1) -> list[worker_pb2.Query]:
    await gateway.until(lambda: len(gateway.actions) == count)
    return [action.query for action in gateway.actions]


async def answer(gateway: GatewayEnd, query: worker_pb2.Query, sessions: int, *users: str) -> None:
    names = [worker_pb2.SessionName(session=gateway.session(n), user=user) for n, user in enumerate(users)]
    result = worker_pb2.QueryResult(receipt=query.receipt, sessions=sessions, names=names)
    await gateway.send(query_results=[worker_pb2.QueryResult(receipt=4711, sessions=99), result])


async def test_every_gateway_is_asked_and_the_answers_are_added_up() -> None:
    worker = Worker("who")
    async with two_gateways(worker) as (one, two):
        everyone, group, user = worker.count(), worker.count(group="lobby"), worker.count(user="ada")
        online, offline = worker.is_online("ada"), worker.is_online("bob")
        names = worker.list_names(group="lobby", limit=3)
        for gateway in (one, two):
            asked = await queries(gateway, 6)
            assert [(query.WhichOneof("target"), query.user or query.group, query.limit) for query in asked] == [
                ("everyone", "", 0),
                ("group", "lobby", 0),
                ("user", "ada", 0),
                ("user", "ada", 0),
                ("user", "bob", 0),
                ("group", "lobby", 3),
            ]
            assert len({query.receipt for query in asked} - {0}) == 6
            for query, sessions in zip(asked[:5], (10, 4, 1, int(gateway is two), 0), strict=True):
                await answer(gateway, query, sessions)
            await answer(gateway, asked[5], 7, f"ada-{gateway.prefix}", "")
        assert (await everyone, await group, await user, await online, await offline) == (20, 8, 2, True, False)
        assert await names == [
            SessionName(one.session(0), "ada-1"),
            SessionName(one.session(1), ""),
            SessionName(two.session(0), "ada-2"),
        ]
        assert await everyone == 20  # it may be awaited twice
    assert worker.counters.unanswered == 0


async def test_gateway_that_goes_or_does_not_answer_counts_as_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "ASK_WITHIN_S", 0.2)
    worker = Worker("who")
    async with two_gateways(worker) as (one, two):
        silent = worker.count()
        [query] = await queries(one)
        await answer(one, query, 5)
        assert await silent == 5
        assert worker.counters.unanswered == 1
        assert not any(link._questions for link in worker._links.live)
        monkeypatch.setattr(links, "ASK_WITHIN_S", 3600.0)
        gone = worker.count()
        await answer(one, (await queries(one, 2))[1], 6)
        await queries(two, 2)
        two.call.cancel()
        assert await gone == 6
    assert worker.counters.unanswered == 1


async def test_no_gateway_that_answers_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "ASK_WITHIN_S", 0.1)
    worker = Worker("who")
    async with worker.serving() as serving:
        with pytest.raises(StatusError, match="UNAVAILABLE: no gateway answered"):
            await worker.is_online("ada")
        async with GatewayEnd(serving.address):
            await eventually(lambda: worker._links.live)
            with pytest.raises(StatusError) as caught:
                await worker.count()
            assert caught.value.status == Status.UNAVAILABLE
            worker.count()  # and nobody asks for the answer


async def test_thread_asks() -> None:
    worker = Worker("who")

    @worker.on(1)
    def ask(request: Request) -> bytes:
        with pytest.raises(TimeoutError):
            worker.count().result(0)
        return b"%d %s" % (worker.is_online("ada").result(10), threading.current_thread().name.encode())

    async with linked(worker) as (gateway, _):
        request = gateway.request(1)
        await gateway.post(request)
        await answer(gateway, (await queries(gateway, 2))[1], 1)
        (reply,) = await gateway.answers(request)
        assert reply.body == b"1 handler-1"


async def test_thread_asks_when_there_is_no_gateway() -> None:
    worker = Worker("who")
    async with worker.serving():
        answered = await asyncio.to_thread(worker.count)
        with pytest.raises(StatusError, match="UNAVAILABLE"):
            await asyncio.to_thread(answered.result, 10)
        with pytest.raises(RuntimeError, match="await it"):
            worker.count().result()


async def test_two_links_of_a_gateway_are_one_gateway() -> None:
    worker = Worker("who")
    async with worker.serving() as serving, GatewayEnd(serving.address) as old:
        await eventually(lambda: worker._links.live)
        async with GatewayEnd(serving.address) as new:
            await eventually(lambda: len(worker._links.live) == 2)
            question = worker.count()
            [query] = await queries(new)
            await answer(new, query, 3)
            assert await question == 3
            assert not old.actions


async def test_who_gives_up_waiting_takes_the_answer_from_nobody_else() -> None:
    worker = Worker("who")
    async with linked(worker) as (gateway, _):
        await eventually(lambda: worker._links.live)
        question = worker.count()

        async def ask() -> int:
            return await question

        impatient, patient = asyncio.create_task(ask()), asyncio.create_task(ask())
        [query] = await queries(gateway)
        impatient.cancel()
        await asyncio.wait([impatient])
        await answer(gateway, query, 2)
        assert await patient == 2


async def test_who_gives_up_takes_nothing_from_others_of_a_question_that_a_thread_asked() -> None:
    loop = asyncio.get_running_loop()
    errors: list[object] = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    answered: asyncio.Future[worker_pb2.QueryResult | None] = loop.create_future()
    question: AnswerForThread[int] = AnswerForThread(lambda result: result.sessions)
    question.follow(answered)

    async def ask() -> int:
        return await question

    impatient, patient = asyncio.create_task(ask()), asyncio.create_task(ask())
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait([impatient])
    answered.set_result(worker_pb2.QueryResult(sessions=2))
    assert await patient == 2
    assert question.result(0) == 2
    assert not errors


async def test_a_thread_that_cancels_its_future_disturbs_nobody() -> None:
    loop = asyncio.get_running_loop()
    errors: list[object] = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    answered: asyncio.Future[worker_pb2.QueryResult | None] = loop.create_future()
    question: AnswerForThread[int] = AnswerForThread(lambda result: result.sessions)
    question.follow(answered)
    question.future.cancel()
    answered.set_result(worker_pb2.QueryResult(sessions=2))
    await asyncio.sleep(0)
    assert not errors


def test_questions_are_checked() -> None:
    worker = Worker("who")
    with pytest.raises(ValueError, match="which user"):
        worker.is_online("")
    with pytest.raises(ValueError, match="not both"):
        worker.count(user="a", group="b")
    with pytest.raises(ValueError, match="limit"):
        worker.list_names(limit=0)
