"""What workers say and do to sessions, seen from the gateways."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from gatecrew.v1 import gateway_pb2, worker_pb2
from gatecrew_worker import Request, Sent, Serving, StatusError, Worker
from gatecrew_worker import outbox as outbox_module
from gatecrew_worker.outbox import FULL_BYTES, Outbox

from .gateway_end import GatewayEnd, eventually, linked


@asynccontextmanager
async def two_gateways(worker: Worker) -> AsyncIterator[tuple[GatewayEnd, GatewayEnd, Serving]]:
    async with (
        worker.serving() as serving,
        GatewayEnd(serving.address, prefix=1) as one,
        GatewayEnd(serving.address, prefix=2) as two,
    ):
        await eventually(lambda: len(worker._links.live) == 2)
        yield one, two, serving


def told(event: worker_pb2.Reply | worker_pb2.Action) -> str:
    return event.body.decode() if isinstance(event, worker_pb2.Reply) else event.push.body.decode()


# Order.


async def test_replies_and_pushes_arrive_in_the_order_of_the_program() -> None:
    worker = Worker("order")
    program: list[str] = []

    def say(text: str, request: Request) -> None:
        program.append(text)
        request.session.push(text.encode())

    def answer(text: str) -> bytes:
        program.append(text)
        return text.encode()

    @worker.on(1)
    async def in_place(request: Request) -> bytes:
        name = request.body.decode()
        say(f"push {name}", request)
        return answer(f"reply {name}")

    @worker.on(2)
    async def suspended(request: Request) -> bytes:
        name = request.body.decode()
        say(f"push 1 {name}", request)
        await asyncio.sleep(0)
        say(f"push 2 {name}", request)
        return answer(f"reply {name}")

    async with linked(worker) as (gateway, _):
        for batch in range(20):
            await gateway.post(*(gateway.request(1 + n % 2, b"%d-%d" % (batch, n), n % 9) for n in range(30)))
        await gateway.until(lambda: len(gateway.replies) == 600)
        assert [told(event) for event in gateway.events] == program
        assert len(gateway.messages) < 600


async def test_thread_pushes_before_it_answers() -> None:
    worker = Worker("order")

    @worker.on(1)
    def work(request: Request) -> bytes:
        for n in range(3):
            request.session.push(b"push %d" % n)
        return b"reply"

    async with linked(worker) as (gateway, _):
        await gateway.ask(gateway.request(1))
        assert [told(event) for event in gateway.events] == ["push 0", "push 1", "push 2", "reply"]


# What reaches which gateway.


async def test_pushes_to_many_go_to_every_gateway_and_to_a_session_to_its_own() -> None:
    worker = Worker("push")
    async with two_gateways(worker) as (one, two, _):
        speaker = one.session(7)
        worker.push_group("lobby", b"g", 2, except_session=speaker)
        worker.push_user("ada", b"u", 3)
        worker.push_everyone(b"e", 4)
        worker.kick_user("bob", "why", 500)
        worker.push_session(two.session(5), b"s", 5)
        worker.push_session(one.session(6), b"t", 6)
        await one.until(lambda: len(one.actions) == 5)
        await two.until(lambda: len(two.actions) == 5)
        for actions in (one.actions, two.actions):
            group, user, everyone, kick = actions[:4]
            assert (group.push.group, group.push.body, group.push.command) == ("lobby", b"g", 2)
            assert group.push.except_session == speaker
            assert (user.push.user, user.push.body, user.push.command) == ("ada", b"u", 3)
            assert (everyone.push.everyone, everyone.push.body, everyone.push.command) == (True, b"e", 4)
            assert (kick.kick.user, kick.kick.reason, kick.kick.reconnect_after_ms) == ("bob", "why", 500)
        assert (one.actions[4].push.session, one.actions[4].push.body) == (one.session(6), b"t")
        assert (two.actions[4].push.session, two.actions[4].push.body) == (two.session(5), b"s")


async def test_what_is_done_to_a_session() -> None:
    worker = Worker("session")

    @worker.on(1)
    async def everything(request: Request) -> bytes:
        session = request.session
        await session.bind("ada")
        await session.set(room="a", seat="3")
        await session.set(seat="")
        await session.join("lobby")
        await session.leave("hall")
        await session.push(b"p", 9)
        await session.kick("bye", reconnect_after_ms=10)
        # What was just said is seen at once, before the gateway has told it back.
        return f"{session.user} {dict(session.attributes)}".encode()

    async with linked(worker) as (gateway, _):
        (reply,) = await gateway.ask(gateway.request(1, session=4))
        assert reply.body == b"ada {'room': 'a'}"
        bind, set_room, set_seat, join, leave, push, kick = gateway.actions
        session = gateway.session(4)
        assert (bind.bind.session, bind.bind.user) == (session, "ada")
        assert dict(set_room.set_attributes.attributes) == {"room": "a", "seat": "3"}
        assert dict(set_seat.set_attributes.attributes) == {"seat": ""}
        assert (join.join.session, join.join.group) == (session, "lobby")
        assert (leave.leave.session, leave.leave.group) == (session, "hall")
        assert (push.push.session, push.push.body, push.push.command) == (session, b"p", 9)
        assert (kick.kick.session, kick.kick.reason, kick.kick.reconnect_after_ms) == (session, "bye", 10)


async def test_session_of_a_gateway_that_is_not_there() -> None:
    worker = Worker("push")
    with pytest.raises(StatusError, match="UNAVAILABLE: no link"):
        worker.push_session(1 << 36, b"x")
    async with linked(worker) as (gateway, _):
        await eventually(lambda: worker._links.live)
        with pytest.raises(StatusError, match="UNAVAILABLE: no link"):
            worker.push_session(gateway.session(1) + (1 << 36), b"x")


async def test_newer_link_of_a_gateway_takes_over() -> None:
    worker = Worker("push")
    async with worker.serving() as serving:
        old = await GatewayEnd(serving.address).__aenter__()
        await eventually(lambda: len(worker._links.live) == 1)
        async with GatewayEnd(serving.address) as new:
            await eventually(lambda: len(worker._links.live) == 2)
            await worker.push_session(new.session(1), b"x")
            await new.until(lambda: len(new.actions) == 1)
            assert not old.actions
            await old.__aexit__(None, None, None)
            await eventually(lambda: len(worker._links.live) == 1)
            await worker.push_session(new.session(1), b"y")
            await new.until(lambda: len(new.actions) == 2)


# Receipts.


async def test_receipts_are_summed_over_gateways() -> None:
    worker = Worker("receipt")
    async with two_gateways(worker) as (one, two, _):
        sent = worker.push_group("lobby", b"g", receipt=True)
        again = worker.push_user("ada", b"g", receipt=True)
        await one.until(lambda: len(one.actions) == 2)
        await two.until(lambda: len(two.actions) == 2)
        for gateway, reached in ((one, 3), (two, 4)):
            receipts = [action.push.receipt for action in gateway.actions]
            assert len(set(receipts)) == 2
            assert 0 not in receipts
            results = [worker_pb2.PushResult(receipt=receipts[1], delivered=1)]
            results += [worker_pb2.PushResult(receipt=receipts[0], delivered=reached)]
            results += [worker_pb2.PushResult(receipt=999, delivered=9)]  # of nobody
            await gateway.send(push_results=results)
        assert (await sent, await again) == (7, 2)


async def test_receipt_of_a_gateway_that_goes_is_0() -> None:
    worker = Worker("receipt")
    async with worker.serving() as serving:
        async with GatewayEnd(serving.address) as gateway:
            await eventually(lambda: worker._links.live)
            sent = worker.push_session(gateway.session(1), b"x", receipt=True)
            await gateway.until(lambda: gateway.actions)
        assert await sent == 0


async def test_without_gateways_nobody_is_reached() -> None:
    worker = Worker("receipt")
    async with worker.serving():
        assert await worker.push_everyone(b"x", receipt=True) == 0
        assert await worker.push_group("lobby", b"x") == 0
    assert await worker.push_everyone(b"x") == 0


async def test_thread_waits_for_its_receipt() -> None:
    worker = Worker("receipt")

    @worker.on(1)
    def work(request: Request) -> bytes:
        request.session.push(b"first").result(10)
        reached = request.session.push(b"second", receipt=True).result(10)
        try:
            worker.push_session(99 << 36, b"x").result(10)
        except StatusError as error:
            return f"{reached} {error}".encode()
        return b"no error"

    async with linked(worker) as (gateway, _):
        request = gateway.request(1)
        await gateway.post(request)
        await gateway.until(lambda: len(gateway.actions) == 2)
        result = worker_pb2.PushResult(receipt=gateway.actions[1].push.receipt, delivered=1)
        await gateway.send(push_results=[result])
        (reply,) = await gateway.answers(request)
        assert reply.body == b"1 UNAVAILABLE: no link to the session's gateway"


async def test_thread_that_waits_when_the_worker_ends() -> None:
    worker = Worker("receipt")
    sent: list[Sent] = []
    waiting = threading.Event()

    @worker.on(1)
    def work(request: Request) -> None:
        sent.append(request.session.push(b"x", receipt=True))
        waiting.set()

    async with linked(worker) as (gateway, _):
        await gateway.ask(gateway.request(1))
    assert await asyncio.wrap_future(sent[0].future) == 0  # type: ignore[attr-defined]


async def test_result_on_the_loop_is_refused() -> None:
    worker = Worker("receipt")
    async with linked(worker):
        with pytest.raises(RuntimeError, match="await it"):
            worker.push_everyone(b"x").result()


async def test_what_a_thread_sent_can_be_awaited() -> None:
    worker = Worker("receipt")
    async with linked(worker) as (gateway, _):
        await eventually(lambda: worker._links.live)
        sent = await asyncio.to_thread(worker.push_everyone, b"x")
        assert await sent == 0
        assert sent.is_done
        await gateway.until(lambda: gateway.actions)


# Limits.


async def test_what_is_too_large_is_refused_where_it_is_said() -> None:
    worker = Worker("large")
    most = (1 << 20) - 8
    async with linked(worker) as (gateway, _):
        await eventually(lambda: worker._links.live)
        await worker.push_everyone(bytes(most))
        with pytest.raises(ValueError, match=f"a push of {most + 1} bytes; {most} at most"):
            worker.push_everyone(bytes(most + 1))
        with pytest.raises(ValueError, match="bytes"):
            worker.push_group("g" * 5000, bytes(most))
        with pytest.raises(ValueError, match="bytes"):
            worker.kick_user("ada", "r" * 2_000_000)
        with pytest.raises(ValueError, match="command"):
            worker.push_everyone(b"", 65_536)
        with pytest.raises(ValueError, match="empty name"):
            worker.push_user("", b"")
        with pytest.raises(ValueError, match="empty name"):
            worker.push_group("", b"")
        text: Any = "text"
        wrong_body = r"^body must be bytes, not str; write text.encode\(\)$"
        for push in (lambda: worker.push_group("g", text), lambda: worker.push_session(1, text)):
            with pytest.raises(TypeError, match=wrong_body):
                push()
        await gateway.until(lambda: gateway.actions)
        assert len(gateway.actions[0].push.body) == most


async def test_who_awaits_is_slowed_down_while_a_gateway_does_not_read() -> None:
    worker = Worker("slow")
    body = bytes(1 << 18)
    async with linked(worker) as (gateway, _):
        await eventually(lambda: worker._links.live)
        outbox = worker._links.live[0].outbox
        gateway.reading.clear()
        most = 0
        pushed = 0

        async def push_on() -> None:
            nonlocal most, pushed
            for _ in range(200):
                await worker.push_everyone(body)
                pushed += 1
                most = max(most, outbox.bytes_waiting)

        task = asyncio.create_task(push_on())
        await eventually(lambda: outbox.is_full)
        assert not task.done()
        gateway.reading.set()
        await task
        assert most < FULL_BYTES + 2 * len(body)
        await gateway.until(lambda: len(gateway.actions) == 200)


@pytest.mark.alone  # it takes 50 ms for stuck
async def test_gateway_that_reads_nothing_holds_nobody_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("outbox", "sent"):
        monkeypatch.setattr(f"gatecrew_worker.{module}.STUCK_S", 0.05)
    worker = Worker("stuck")
    body = bytes(1 << 18)
    async with two_gateways(worker) as (frozen, healthy, _):
        frozen.reading.clear()
        outbox = worker._links._by_prefix[1].outbox
        while not outbox.is_stuck:
            await worker.push_everyone(body)
        await eventually(lambda: not worker._links._by_prefix[2].outbox.bytes_waiting)
        before = len(healthy.actions)
        lost = worker.counters.actions_lost
        waiting = outbox.bytes_waiting
        for _ in range(10):
            await worker.push_everyone(body)
        await healthy.until(lambda: len(healthy.actions) >= before + 10)
        assert outbox.bytes_waiting == waiting
        assert worker.counters.actions_lost == lost + 10
        with pytest.raises(StatusError, match="UNAVAILABLE: the session's gateway does not read"):
            worker.push_session(frozen.session(1), b"x")
        frozen.reading.set()
        await eventually(lambda: not outbox.is_full)
        await worker.push_session(frozen.session(1), b"back")
        await frozen.until(lambda: frozen.actions and frozen.actions[-1].push.body == b"back")


async def test_program_that_never_awaits_is_stopped() -> None:
    worker = Worker("flood")
    body = bytes(1 << 20)[:-8]
    async with linked(worker) as (gateway, _):
        await eventually(lambda: worker._links.live)
        with pytest.raises(StatusError, match="RESOURCE_EXHAUSTED: .*await"):
            [worker.push_everyone(body) for _ in range(200)]
        gateway.call.cancel()


async def test_reader_waits_while_replies_pile_up() -> None:
    worker = Worker("flood", max_in_flight=10_000)
    ran = 0

    @worker.on(1)
    async def large(request: Request) -> bytes:
        nonlocal ran
        ran += 1
        return bytes(1 << 19)

    async with linked(worker) as (gateway, _):
        gateway.reading.clear()
        requests = [gateway.request(1, session=n) for n in range(100)]
        for request in requests:
            await gateway.post(request)
        outbox = worker._links.live[0].outbox
        await eventually(lambda: outbox.is_full)
        for _ in range(100):
            await asyncio.sleep(0)
        assert ran < 50
        gateway.reading.set()
        assert all(len(reply.body) == 1 << 19 for reply in await gateway.answers(*requests))


async def test_outbox_counts_what_is_lost() -> None:
    outbox = Outbox(asyncio.get_running_loop())
    for n in range(5000):
        outbox.reply(n, b"x")
        outbox.act(worker_pb2.Action(push=worker_pb2.Push(everyone=True)))
    assert outbox.close() == (5000, 5000)
    await outbox.empty()
    await outbox.room()


async def test_heartbeat_overtakes_what_waits() -> None:
    outbox = Outbox(asyncio.get_running_loop())
    for n in range(3 * outbox_module.MESSAGE_BYTES // outbox_module.ITEM_BYTES):
        outbox.reply(n, b"")
    outbox.heartbeat(3, 2, 1)
    written: list[worker_pb2.WorkerMessage] = []
    done = asyncio.Event()

    async def write(message: worker_pb2.WorkerMessage) -> None:
        written.append(message)
        if len(written) == 3:
            done.set()

    writer = asyncio.create_task(outbox.write_all(write))
    await done.wait()
    await outbox.empty()
    writer.cancel()
    await asyncio.wait([writer])
    assert [message.heartbeat.number for message in written] == [3, 0, 0]
    assert max(len(message.replies) for message in written) <= 4096


# Who is there.


async def test_list_sessions_asks_a_gateway_that_answers() -> None:
    worker = Worker("list")
    asked: list[gateway_pb2.ListSessionsRequest] = []

    async def list_sessions(request: gateway_pb2.ListSessionsRequest, _: Any) -> gateway_pb2.ListSessionsResponse:
        asked.append(request)
        session = worker_pb2.SessionContext(session=5, user="ada", peer="p", listener="l", attributes={"a": "b"})
        info = gateway_pb2.SessionInfo(
            context=session, gateway_id="gateway-2", groups=["x", "y"], in_flight=2, connected_ms=1500
        )
        return gateway_pb2.ListSessionsResponse(sessions=[info], total=1)

    handler = grpc.unary_unary_rpc_method_handler(
        list_sessions,
        request_deserializer=gateway_pb2.ListSessionsRequest.FromString,
        response_serializer=gateway_pb2.ListSessionsResponse.SerializeToString,
    )
    service = grpc.method_handlers_generic_handler("gatecrew.v1.Gateway", {"ListSessions": handler})
    server = grpc.aio.server(handlers=[service])
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        with pytest.raises(StatusError, match="UNAVAILABLE: no link"):
            await worker.list_sessions()
        async with (
            worker.serving() as serving,
            GatewayEnd(serving.address, prefix=1, service_address="127.0.0.1:1"),
        ):
            await eventually(lambda: worker._links.live)
            with pytest.raises(StatusError, match="UNAVAILABLE: gateway at 127.0.0.1:1: UNAVAILABLE"):
                await worker.list_sessions()
            async with GatewayEnd(serving.address, prefix=2, service_address=address):
                await eventually(lambda: len(worker._links.live) == 2)
                (info,) = await worker.list_sessions(user="ada", group="x", listener="l", limit=3)
    finally:
        await server.stop(None)
    assert (info.id, info.user, info.peer, info.listener, info.attributes) == (5, "ada", "p", "l", {"a": "b"})
    assert (info.groups, info.gateway_id, info.in_flight, info.connected_s) == (("x", "y"), "gateway-2", 2, 1.5)
    (request,) = asked
    assert (request.user, request.group, request.listener, request.limit) == ("ada", "x", "l", 3)
