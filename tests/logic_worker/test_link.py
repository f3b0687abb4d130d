"""One gateway's stream, seen from the gateway."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from gatecrew.v1 import worker_pb2, worker_pb2_grpc
from gatecrew_worker import Request, Session, Worker, dispatch

from .gateway_end import GatewayEnd, eventually, linked


def echo_worker() -> Worker:
    worker = Worker("echo", max_in_flight=77, version="1.2")

    @worker.on(1, range(10, 13))
    async def echo(request: Request) -> bytes:
        return request.body

    return worker


async def test_hello_says_what_the_worker_offers() -> None:
    async with linked(echo_worker()) as (gateway, serving):
        hello = gateway.hello
        assert (hello.service, hello.version, hello.max_in_flight) == ("echo", "1.2", 77)
        assert list(hello.commands) == [1, 10, 11, 12]
        assert hello.incarnation == serving.incarnation
        assert not hello.session_events


async def test_hello_of_a_worker_for_everything() -> None:
    worker = echo_worker()

    @worker.on_any
    async def rest(request: Request) -> bytes:
        return b"rest"

    @worker.on_close
    async def closed(session: Session) -> None: ...

    async with linked(worker) as (gateway, _):
        assert list(gateway.hello.commands) == []
        assert gateway.hello.session_events
        known, unknown = await gateway.ask(gateway.request(1, b"x"), gateway.request(999))
        assert (known.body, unknown.body) == (b"x", b"rest")


@pytest.mark.parametrize(
    ("handlers", "options", "concurrency"),
    [
        ("def", {"threads": 7}, 7),
        ("def def", {"threads": 7}, 7),
        ("async", {"threads": 7}, 0),
        ("def async", {"threads": 7}, 0),
        ("def any-async", {"threads": 7}, 0),
        ("def open-async", {"threads": 7}, 7),
        ("def async", {"one_at_a_time": True}, 1),
        ("", {}, 0),
    ],
)
async def test_hello_says_how_many_handlers_can_run_at_once(
    handlers: str, options: dict[str, Any], concurrency: int
) -> None:
    worker = Worker("hello", **options)

    def plain(_: object) -> None: ...

    async def waits(_: object) -> None: ...

    for command, handler in enumerate(handlers.split()):
        match handler:
            case "def":
                worker.on(command)(plain)
            case "async":
                worker.on(command)(waits)
            case "any-async":
                worker.on_any(waits)
            case "open-async":
                worker.on_open(waits)
    async with linked(worker) as (gateway, _):
        assert gateway.hello.concurrency == concurrency


async def test_every_request_of_every_batch_has_one_reply() -> None:
    async with linked(echo_worker()) as (gateway, _):
        batches = [[gateway.request(1, b"%d-%d" % (batch, n), n) for n in range(100)] for batch in range(20)]
        for batch in batches:
            await gateway.post(*batch)
        for batch in batches:
            assert [reply.body for reply in await gateway.answers(*batch)] == [request.body for request in batch]
        assert len(gateway.replies) == 2000


async def test_command_without_a_handler() -> None:
    async with linked(echo_worker()) as (gateway, _):
        (reply,) = await gateway.ask(gateway.request(2))
        assert (reply.status, reply.message) == (12, "no handler for command 2")


async def test_notify_gets_an_empty_reply() -> None:
    seen = []
    worker = Worker("echo")

    @worker.on(1)
    async def echo(request: Request) -> bytes:
        seen.append(request.is_notify)
        return request.body

    async with linked(worker) as (gateway, _):
        notify, request = await gateway.ask(
            gateway.request(1, b"x", kind=worker_pb2.KIND_NOTIFY), gateway.request(1, b"x")
        )
        assert (notify.body, notify.status, request.body) == (b"", 0, b"x")
        assert seen == [True, False]


async def test_request_shows_what_came() -> None:
    seen: list[Request] = []
    worker = Worker("echo")

    @worker.on(7)
    async def look(request: Request) -> None:
        seen.append(request)

    async with linked(worker) as (gateway, _):
        before = asyncio.get_running_loop().time()
        context = worker_pb2.SessionContext(
            session=gateway.session(5), user="ada", peer="10.0.0.1:99", listener="tcp", attributes={"room": "a"}
        )
        request = gateway.request(7, b"body", 5, id=0xAB, attempt=2, remaining_ms=2000)
        await gateway.send(sessions=[context], requests=[request])
        (reply,) = await gateway.answers(request)
        assert reply.body == b""
        (got,) = seen
        assert (got.command, got.body, got.attempt) == (7, b"body", 2)
        assert got.idempotency_key == f"{gateway.session(5):x}-ab"
        assert before + 1.9 < got.deadline < before + 2 + 60
        assert 0 <= got.remaining_s <= 2
        session = got.session
        assert (session.id, session.user, session.peer) == (gateway.session(5), "ada", "10.0.0.1:99")
        assert (session.listener, dict(session.attributes)) == ("tcp", {"room": "a"})


async def test_request_without_a_deadline() -> None:
    worker = Worker("echo")

    @worker.on(1)
    async def left(request: Request) -> bytes:
        return str(request.remaining_s).encode()

    async with linked(worker) as (gateway, _):
        (reply,) = await gateway.ask(gateway.request(1, remaining_ms=0))
        assert reply.body == b"inf"


async def test_context_is_kept_replaced_and_forgotten() -> None:
    sessions: list[Session] = []
    worker = Worker("echo")

    @worker.on(1)
    async def user(request: Request) -> bytes:
        sessions.append(request.session)
        return request.session.user.encode()

    async with linked(worker) as (gateway, _):

        async def ask_user() -> bytes:
            return (await gateway.ask(gateway.request(1)))[0].body

        context = worker_pb2.SessionContext(session=gateway.session(1), user="ada")
        await gateway.send(sessions=[context])
        assert await ask_user() == b"ada"
        context.user = "bob"
        await gateway.send(sessions=[context])
        assert await ask_user() == b"bob"
        assert sessions[0] is sessions[1]
        # In one message: the requests come before the sessions to forget.
        last = gateway.request(1)
        await gateway.send(requests=[last], forgotten_sessions=[gateway.session(1)])
        assert (await gateway.answers(last))[0].body == b"bob"
        assert await ask_user() == b""
        assert sessions[-1] is not sessions[0]


async def test_session_events() -> None:
    events: list[tuple[str, int, str]] = []
    worker = Worker("echo")

    @worker.on_open
    async def opened(session: Session) -> None:
        events.append(("open", session.id, session.peer))

    @worker.on_close
    def closed(session: Session) -> None:
        events.append(("close", session.id, session.peer))

    @worker.on(0)
    async def zero(request: Request) -> bytes:
        return b"no event"

    async with linked(worker) as (gateway, _):
        assert gateway.hello.session_events
        context = worker_pb2.SessionContext(session=gateway.session(1), peer="p")
        come = gateway.request(0, kind=worker_pb2.KIND_OPEN)
        gone = gateway.request(0, kind=worker_pb2.KIND_CLOSE)
        await gateway.send(sessions=[context], requests=[come, gone])
        assert [reply.body for reply in await gateway.answers(come, gone)] == [b"", b""]
        assert events == [("open", gateway.session(1), "p"), ("close", gateway.session(1), "p")]


async def test_session_event_without_a_handler_is_fine() -> None:
    async with linked(echo_worker()) as (gateway, _):
        (reply,) = await gateway.ask(gateway.request(1, b"x", kind=worker_pb2.KIND_OPEN))
        assert (reply.status, reply.body) == (0, b"")


async def test_heartbeat_while_handlers_run() -> None:
    release = asyncio.Event()
    worker = Worker("slow")

    @worker.on(1)
    async def slow(request: Request) -> None:
        await release.wait()

    def beats() -> list[worker_pb2.Heartbeat]:
        return [message.heartbeat for message in gateway.messages if message.HasField("heartbeat")]

    async with linked(worker) as (gateway, _):
        await gateway.send(heartbeat=worker_pb2.Heartbeat(number=1))
        await gateway.until(lambda: len(beats()) == 1)
        assert (beats()[0].number, beats()[0].in_flight, beats()[0].oldest_ms) == (1, 0, 0)
        requests = [gateway.request(1, session=n % 2) for n in range(5)]
        await gateway.post(*requests)
        await gateway.send(heartbeat=worker_pb2.Heartbeat(number=2))
        await gateway.until(lambda: len(beats()) == 2)
        assert (beats()[1].number, beats()[1].in_flight) == (2, 5)
        assert not gateway.replies
        release.set()
        await gateway.answers(*requests)


async def test_fields_of_a_newer_gateway_are_ignored() -> None:
    async with linked(echo_worker()) as (gateway, _):
        request = gateway.request(1, b"x")
        unknown = bytes([0xFA, 0x3E, 3]) + b"new"  # field 1007, three bytes
        newer_request = worker_pb2.Request.FromString(request.SerializeToString() + unknown)
        newer = worker_pb2.GatewayMessage.FromString(
            worker_pb2.GatewayMessage(requests=[newer_request]).SerializeToString() + unknown
        )
        assert newer.SerializeToString().count(b"new") == 2
        await gateway.call.write(newer)
        assert (await gateway.answers(request))[0].body == b"x"


async def test_kind_of_a_newer_gateway_is_an_event_without_a_handler() -> None:
    async with linked(echo_worker()) as (gateway, _):
        (reply,) = await gateway.ask(gateway.request(1, b"x", kind=99))
        assert (reply.status, reply.body) == (0, b"")


async def test_first_message_without_hello_is_refused() -> None:
    async with echo_worker().serving() as serving, grpc.aio.insecure_channel(serving.address) as channel:
        call = worker_pb2_grpc.LogicWorkerStub(channel).Link()
        await call.write(worker_pb2.GatewayMessage(heartbeat=worker_pb2.Heartbeat(number=1)))
        assert isinstance(await call.read(), worker_pb2.WorkerMessage)  # gRPC keeps the status behind the messages
        with pytest.raises(grpc.aio.AioRpcError, match="no hello"):
            await call.read()
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_half_closed_gateway_gets_its_answers() -> None:
    started, release = asyncio.Event(), asyncio.Event()
    worker = Worker("slow")

    @worker.on(1)
    async def slow(request: Request) -> bytes:
        started.set()
        await release.wait()
        return b"done"

    async with linked(worker) as (gateway, _):
        request = gateway.request(1)
        await gateway.post(request)
        await gateway.call.done_writing()
        await started.wait()
        release.set()
        await gateway.until(lambda: gateway.code)
        assert gateway.code is grpc.StatusCode.OK
        assert gateway.replies[request.id].body == b"done"


async def test_handler_goes_on_when_its_gateway_goes() -> None:
    started, release, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()
    worker = Worker("slow")

    @worker.on(1)
    async def slow(request: Request) -> bytes:
        started.set()
        await release.wait()
        finished.set()
        return b"for nobody"

    async with worker.serving() as serving:
        async with GatewayEnd(serving.address) as gateway:
            await gateway.post(gateway.request(1), gateway.request(1))
            await started.wait()
        async with GatewayEnd(serving.address, prefix=2) as other:
            await eventually(lambda: [link.session_prefix for link in worker._links.live] == [2])
            release.set()
            await finished.wait()
            await other.ask(other.request(99))
    # The second request had not started: the gateway has given it to another worker.
    assert (worker.counters.replies_lost, worker.counters.expired) == (2, 0)


async def test_handle_serves_one_call_a_packet() -> None:
    worker = echo_worker()

    @worker.on(2)
    async def who(request: Request) -> bytes:
        await asyncio.sleep(0)
        return request.session.user.encode()

    async with worker.serving() as serving, grpc.aio.insecure_channel(serving.address) as channel:
        stub = worker_pb2_grpc.LogicWorkerStub(channel)
        context = worker_pb2.SessionContext(session=9, user="ada")
        reply = await stub.Handle(worker_pb2.Request(id=3, session=9, command=1, body=b"x", context=context))
        assert (reply.id, reply.status, reply.body) == (3, 0, b"x")
        replies = await asyncio.gather(
            *(
                stub.Handle(worker_pb2.Request(id=n, session=9, command=2, remaining_ms=9000, context=context))
                for n in range(20)
            )
        )
        assert [(reply.id, reply.body) for reply in replies] == [(n, b"ada") for n in range(20)]
        reply = await stub.Handle(worker_pb2.Request(id=4, session=9, command=5))
        assert reply.status == 12


@pytest.mark.parametrize("count", [1, 5000])
async def test_batch_with_large_bodies_is_split_below_the_limit_of_grpc(count: int) -> None:
    worker = Worker("large")
    body = bytes(900_000) if count == 1 else bytes(2000)

    @worker.on(1)
    async def large(request: Request) -> bytes:
        return body

    async with linked(worker) as (gateway, _):
        requests = [gateway.request(1, session=n) for n in range(max(count, 12))]
        replies = await gateway.ask(*requests)
        assert all(reply.body == body for reply in replies)
        assert max(message.ByteSize() for message in gateway.messages) < 2 << 20


@pytest.mark.parametrize("threaded", [False, True], ids=["coroutine", "thread"])
@pytest.mark.parametrize("then", ["speaks", "ends its side", "cancels"])
async def test_after_a_silence_nothing_starts_before_the_gateway_is_heard(
    monkeypatch: pytest.MonkeyPatch, threaded: bool, then: str
) -> None:
    """Then in order, what was read before and after it; or never, if the gateway has given the stream up."""
    monkeypatch.setattr(dispatch, "LEASE_S", 0.3)
    worker, began, release = Worker("waits"), list[bytes](), asyncio.Event()

    @worker.on(1)
    async def first(request: Request) -> bytes:
        began.append(request.body)
        await release.wait()
        return b""

    if threaded:

        @worker.on(2)
        def later(request: Request) -> bytes:
            began.append(request.body)
            return b""

    else:

        @worker.on(2)
        async def later(request: Request) -> bytes:
            began.append(request.body)
            return b""

    async with linked(worker) as (gateway, serving):
        requests = [gateway.request(2 if n else 1, b"%d" % n) for n in range(10)]
        await gateway.post(*requests[:5])
        await eventually(lambda: began)
        [link] = serving._servicer.streams
        while not link.dispatcher.lease_is_over:
            await asyncio.sleep(0.01)
        release.set()
        await gateway.answers(requests[0])
        await eventually(lambda: len(link.dispatcher._in_doubt) == 4)
        assert began == [b"0"]
        if then == "speaks":
            monkeypatch.setattr(dispatch, "LEASE_S", 3600.0)  # and goes on to
            await gateway.post(*requests[5:])
            replies = await gateway.answers(*requests)
        elif then == "ends its side":
            await gateway.call.done_writing()
            replies = await gateway.answers(*requests[:5])
        else:
            gateway.call.cancel()
            await eventually(lambda: not serving._servicer.streams)
            replies = []
        assert began == [b"%d" % n for n in range(max(1, len(replies)))]
        assert not any(reply.status or reply.not_started for reply in replies)
