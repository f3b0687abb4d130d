"""A gateway with real clients, a real registry and real workers, in one process: what its rooms do together."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from processes import Process, gatecrew

from gatecrew.v1 import gateway_pb2, gateway_pb2_grpc, worker_pb2, worker_pb2_grpc
from gatecrew_cli.client import Client, ClientClosed, ReplyError
from gatecrew_gateway import Gateway, GatewayConfig, ListenerConfig, RouteConfig
from gatecrew_gateway.codec import FROM_GATEWAY, Decoder, Kind, Status, decode_error, decode_goaway, encode
from gatecrew_gateway.net import connection, listener
from gatecrew_registry import Entry, Registry, RegistrySettings, registration
from gatecrew_registry.embedded import EmbeddedRegistry
from gatecrew_worker import Request, Session, Worker

PATIENCE_S = 20.0  # generous: it only ends a test that has failed already


class House:
    """A registry, and what a test starts around it."""

    def __init__(self, registry: Registry, stack: AsyncExitStack) -> None:
        self.registry = registry
        self._stack = stack

    async def gateway(
        self, *listeners: ListenerConfig, routes: tuple[RouteConfig, ...] = (), workers: int = 1, **config: Any
    ) -> Gateway:
        """Started, and linked to so many workers."""
        gateway = Gateway(
            GatewayConfig(listeners=listeners or (ListenerConfig(port=0),), routes=routes, **config), self.registry
        )
        await gateway.start()
        self._stack.push_async_callback(gateway.aclose)
        await until(lambda: ready_links(gateway) == workers)
        return gateway

    async def worker(self, worker: Worker) -> None:
        await self._stack.enter_async_context(worker.serving(registry=self.registry))

    async def handle_worker(self, handle: Any, service: str = "plain") -> grpc.aio.Server:
        """A worker without `Link`, as one writes it with nothing but gRPC."""

        class Servicer(worker_pb2_grpc.LogicWorkerServicer):
            Handle = handle
            Link = None  # type: ignore[assignment]

        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        rpc = grpc.unary_unary_rpc_method_handler(
            handle, worker_pb2.Request.FromString, worker_pb2.Reply.SerializeToString
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("gatecrew.v1.LogicWorker", {"Handle": rpc}),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._stack.push_async_callback(server.stop, None)
        await self.registry.register(
            Entry(service=service, id=f"{service}-{port}", host="127.0.0.1", port=port, tags=("gatecrew-worker",))
        )
        return server

    async def client(self, gateway: Gateway, listener: str = "main") -> Client:
        host, _, port = gateway.addresses[listener].rpartition(":")
        return await self._stack.enter_async_context(await Client.connect(host, int(port)))

    async def socket(self, gateway: Gateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, _, port = gateway.addresses["main"].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))

        async def close() -> None:
            writer.transport.abort()

        self._stack.push_async_callback(close)
        return reader, writer

    def service(self, gateway: Gateway) -> gateway_pb2_grpc.GatewayAsyncStub:
        channel = grpc.aio.insecure_channel(gateway.service_address)
        self._stack.push_async_callback(channel.close)
        return gateway_pb2_grpc.GatewayStub(channel)  # asynchronous with this channel


@asynccontextmanager
async def house_of(stack: AsyncExitStack) -> AsyncIterator[House]:
    embedded = EmbeddedRegistry("127.0.0.1", 0)
    await embedded.start()
    stack.push_async_callback(embedded.aclose)
    registry = await stack.enter_async_context(Registry(RegistrySettings(address=embedded.address)))
    yield House(registry, stack)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with AsyncExitStack() as stack, house_of(stack) as house:
        yield house


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


def ready_links(gateway: Gateway) -> int:
    return sum(link.state == "ready" for link in gateway._status().links)


def echo() -> Worker:
    worker = Worker("echo")

    @worker.on(1)
    async def back(request: Request) -> bytes:
        return request.body

    return worker


class Waits:
    """A handler that, once begun, waits until it may go on."""

    def __init__(self, worker: Worker, command: int) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

        @worker.on(command)
        async def wait(request: Request) -> bytes:
            self.begun.set()
            await self.go_on.wait()
            return b"done"


async def read_packets(reader: asyncio.StreamReader, count: int) -> list[tuple[int, int, int, bytes]]:
    """So many packets, or fewer if the connection ends."""
    decoder = Decoder(allowed=FROM_GATEWAY)
    packets: list[tuple[int, int, int, bytes]] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(packets) < count and (data := await reader.read(65536)):
            found, error = decoder.decode(data)
            assert error is None
            packets += found
    return packets


async def test_ten_thousand_pipelined_requests_are_answered_once_and_in_order(house: House) -> None:
    await house.worker(echo())
    gateway = await house.gateway()
    reader, writer = await house.socket(gateway)
    count = 10_000
    writer.write(b"".join(encode(Kind.REQUEST, 1, seq, b"%d" % seq) for seq in range(count)))
    packets = await read_packets(reader, count)
    assert packets == [(Kind.REPLY, 1, seq, b"%d" % seq) for seq in range(count)]


async def test_a_client_that_ends_its_side_still_gets_its_answers(house: House) -> None:
    await house.worker(echo())
    gateway = await house.gateway()
    reader, writer = await house.socket(gateway)
    writer.write(encode(Kind.REQUEST, 1, 7, b"last words"))
    writer.write_eof()
    assert await read_packets(reader, 2) == [(Kind.REPLY, 1, 7, b"last words")]


async def test_big_bodies_are_split_over_messages(house: House) -> None:
    await house.worker(echo())
    gateway = await house.gateway(ListenerConfig(port=0, max_packet=1 << 20))
    client = await house.client(gateway)
    bodies = [bytes([number]) * 900_000 for number in range(12)]
    answers = await asyncio.gather(*(client.request(1, body, timeout_s=PATIENCE_S) for body in bodies))
    assert answers == bodies


@pytest.mark.parametrize("over", [-1, 0, 1])
async def test_a_listener_holds_so_many_sessions(house: House, over: int) -> None:
    await house.worker(echo())
    gateway = await house.gateway(ListenerConfig(port=0, max_sessions=3))
    clients = [await house.client(gateway) for _ in range(3 + over)]
    last = clients.pop()
    assert [await client.request(1, b"in") for client in clients] == [b"in"] * len(clients)
    if over > 0:
        with pytest.raises((ClientClosed, ReplyError)):
            await last.request(1, b"out")
        assert gateway.counters.sessions_refused == 1
    else:
        assert await last.request(1, b"in") == b"in"


async def test_half_a_packet_is_cut_after_its_time_and_a_busy_client_is_not(house: House) -> None:
    await house.worker(echo())
    gateway = await house.gateway(ListenerConfig(port=0, packet_timeout_s=3))
    slow_reader, slow_writer = await house.socket(gateway)
    slow_writer.write(encode(Kind.REQUEST, 1, 1, b"abc")[:9])
    reader, writer = await house.socket(gateway)
    whole = encode(Kind.REQUEST, 1, 1, b"abc")
    writer.write(whole[:5])
    cut = asyncio.create_task(read_packets(slow_reader, 2))
    while not cut.done():  # never on a packet's boundary, for as long as the other one needs to be cut
        writer.write(whole[5:] + whole[:5])
        assert await reader.readexactly(len(whole))
    [(kind, _, _, body)] = await cut
    assert kind == Kind.ERROR
    assert decode_error(body)[0] == Status.DEADLINE_EXCEEDED


async def test_packets_of_a_later_version_are_ignored(house: House) -> None:
    """Kinds from 128 on and flags of the high four bits; and such a packet ends in its time, too."""
    await house.worker(echo())
    gateway = await house.gateway(ListenerConfig(port=0, packet_timeout_s=3))
    slow_reader, slow_writer = await house.socket(gateway)
    slow_writer.write(encode(200, 0, 0, b"abc")[:9])
    reader, writer = await house.socket(gateway)
    later = encode(200, 7, 7, b"later")
    writer.write(later[:5])
    cut = asyncio.create_task(read_packets(slow_reader, 2))
    while not cut.done():  # never on a packet's boundary, nor with anything that is answered
        writer.write(later[5:] + later[:5])
        await asyncio.sleep(0.01)
    [(kind, _, _, body)] = await cut
    assert (kind, decode_error(body)[0]) == (Kind.ERROR, Status.DEADLINE_EXCEEDED)
    request = bytearray(encode(Kind.REQUEST, 1, 1, b"abc"))
    request[5] = 0xF0
    writer.write(later[5:] + request)
    assert await read_packets(reader, 1) == [(Kind.REPLY, 1, 1, b"abc")]


async def test_a_client_that_does_not_read_is_cut_and_nobody_else_notices(house: House) -> None:
    worker = echo()

    @worker.on(2)
    async def flood(request: Request) -> None:
        for _ in range(64):
            await request.session.push(bytes(60_000), command=3)

    await house.worker(worker)
    gateway = await house.gateway()
    reader, writer = await house.socket(gateway)
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    well = await house.client(gateway)
    for seq in range(8):
        writer.write(encode(Kind.REQUEST, 2, seq, b""))
    await until(lambda: gateway.counters.slow_clients_cut == 1)
    assert await well.request(1, b"fine") == b"fine"
    await until(lambda: len(gateway._sessions) == 1)


async def test_a_client_that_never_reads_its_replies_is_cut_in_time(house: House) -> None:
    await house.worker(echo())
    gateway = await house.gateway(ListenerConfig(port=0, unsent_timeout_s=0.3))
    reader, writer = await house.socket(gateway)
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    for seq in range(400):
        writer.write(encode(Kind.REQUEST, 1, seq, bytes(60_000)))
    await until(lambda: gateway.counters.slow_clients_cut == 1)
    assert gateway.counters.requests < 400  # it was not read any more
    await until(lambda: len(gateway._sessions) == 0)


async def test_an_error_from_a_worker_keeps_its_status(house: House) -> None:
    async def handle(request: worker_pb2.Request, context: Any) -> worker_pb2.Reply:
        if request.command == 1:
            return worker_pb2.Reply(status=70_000, message="x" * 5000)
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such room")
        raise AssertionError

    await house.handle_worker(handle)
    gateway = await house.gateway()
    client = await house.client(gateway)
    with pytest.raises(ReplyError, match="no such room") as refused:
        await client.request(2)
    assert refused.value.status == Status.NOT_FOUND
    with pytest.raises(ReplyError) as strange:
        await client.request(1)
    assert strange.value.status == Status.UNKNOWN
    assert len(strange.value.reason) == 1024


async def test_a_worker_without_link_is_served_in_order_with_context(house: House) -> None:
    seen: list[tuple[int, str, bytes]] = []

    async def handle(request: worker_pb2.Request, context: Any) -> worker_pb2.Reply:
        if request.kind != worker_pb2.KIND_REQUEST:
            return worker_pb2.Reply()  # the gateway's question whether we serve Handle
        await asyncio.sleep(0.01 if request.body == b"0" else 0)
        seen.append((request.session, request.context.listener, request.body))
        return worker_pb2.Reply(body=request.body)

    await house.handle_worker(handle)
    gateway = await house.gateway()
    client = await house.client(gateway)
    await asyncio.gather(*(client.request(1, b"%d" % number) for number in range(5)))
    assert [body for _, _, body in seen] == [b"%d" % number for number in range(5)]
    assert {(session > 0, listener) for session, listener, _ in seen} == {(True, "main")}


async def test_calls_of_a_lost_worker_without_link_go_to_another(house: House) -> None:
    begun = asyncio.Event()
    attempts: list[int] = []

    async def hang(request: worker_pb2.Request, context: Any) -> worker_pb2.Reply:
        if request.kind == worker_pb2.KIND_REQUEST:  # else the gateway's question whether we serve Handle
            begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def answer(request: worker_pb2.Request, context: Any) -> worker_pb2.Reply:
        if request.kind == worker_pb2.KIND_REQUEST:
            attempts.append(request.attempt)
        return worker_pb2.Reply(body=b"here")

    lost = await house.handle_worker(hang)
    gateway = await house.gateway()
    client = await house.client(gateway)
    request = asyncio.create_task(client.request(1))
    async with asyncio.timeout(PATIENCE_S):
        await begun.wait()
    await house.handle_worker(answer)
    await until(lambda: ready_links(gateway) == 2)
    await lost.stop(None)
    assert await request == b"here"
    assert attempts == [1]


async def test_a_worker_without_link_is_told_where_it_can_push(house: House) -> None:
    async def handle(request: worker_pb2.Request, context: Any) -> worker_pb2.Reply:
        address = dict(context.invocation_metadata())["gatecrew-gateway"]
        async with grpc.aio.insecure_channel(address) as channel:
            stub: gateway_pb2_grpc.GatewayAsyncStub = gateway_pb2_grpc.GatewayStub(channel)
            await stub.Push(worker_pb2.Push(session=request.session, command=7, body=b"first"))
        return worker_pb2.Reply(body=b"then")

    await house.handle_worker(handle)
    client = await house.client(await house.gateway())
    assert await client.request(1) == b"then"
    async with asyncio.timeout(PATIENCE_S), contextlib.aclosing(client.pushes()) as pushes:
        assert (await anext(pushes)).body == b"first"


class Inflating(worker_pb2_grpc.LogicWorkerServicer):
    """A worker that knows no limits: it answers command 1 with as many bytes as the body says, others with the body."""

    @staticmethod
    def answer(request: worker_pb2.Request) -> worker_pb2.Reply:
        body = bytes(int(request.body)) if request.command == 1 else request.body
        return worker_pb2.Reply(id=request.id, body=body)

    async def Link(self, messages: AsyncIterator[worker_pb2.GatewayMessage], context: Any) -> Any:  # type: ignore[override]
        yield worker_pb2.WorkerMessage(hello=worker_pb2.WorkerHello(service="plain"))
        async for message in messages:
            if message.HasField("heartbeat"):
                yield worker_pb2.WorkerMessage(heartbeat=message.heartbeat)
            if message.requests:
                yield worker_pb2.WorkerMessage(replies=map(self.answer, message.requests))

    async def Handle(self, request: worker_pb2.Request, context: Any) -> worker_pb2.Reply:  # type: ignore[override]
        return self.answer(request) if request.kind == worker_pb2.KIND_REQUEST else worker_pb2.Reply()


@asynccontextmanager
async def inflating(house: House, transport: str, count: int) -> AsyncIterator[None]:
    servers = []
    try:
        for _ in range(count):
            if transport == "handle":
                servers.append(await house.handle_worker(Inflating().Handle))
                continue
            server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
            worker_pb2_grpc.add_LogicWorkerServicer_to_server(Inflating(), server)
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            servers.append(server)
            tags = ("gatecrew-worker",)
            await house.registry.register(
                Entry(service="plain", id=f"plain-{port}", host="127.0.0.1", port=port, tags=tags)
            )
        yield
    finally:
        for each in servers:
            await each.stop(None)


@pytest.mark.parametrize("transport", ["link", "handle"])
async def test_a_reply_over_1_mib_is_an_error_and_harms_nobody(house: House, transport: str) -> None:
    """Also where clients may send no more than 1 KiB: that limit is theirs alone."""
    async with inflating(house, transport, count=1):
        gateway = await house.gateway(ListenerConfig(port=0, max_packet=1024))
        greedy, bystander = await house.client(gateway), await house.client(gateway)
        most = (1 << 20) - 8
        assert len(await greedy.request(1, b"%d" % most)) == most
        for size in (most + 1, (1 << 20) + 1, 3 << 20):
            too_big, own, other = await asyncio.gather(
                greedy.request(1, b"%d" % size),
                greedy.request(2, b"own"),
                bystander.request(2, b"other"),
                return_exceptions=True,
            )
            assert isinstance(too_big, ReplyError)
            assert (too_big.status, too_big.reason) == (Status.INTERNAL, "the reply is too big")
            assert (own, other) == (b"own", b"other")
        assert gateway.counters.links_lost == 0


async def test_a_message_that_breaks_every_link_it_comes_by_is_quarantined(house: House) -> None:
    """Over gRPC's own limit: the stream ends, and the request must not end all workers' streams, one by one."""
    async with inflating(house, "link", count=3):
        gateway = await house.gateway(workers=3)
        greedy, bystander = await house.client(gateway), await house.client(gateway)
        for _ in range(3):
            with pytest.raises(ReplyError, match="quarantined"):
                await greedy.request(1, b"%d" % (5 << 20))
            assert await bystander.request(2, b"other") == b"other"
        assert gateway.counters.links_lost == 2
        assert gateway.counters.quarantined == 1


async def test_a_draining_worker_hears_when_nothing_is_open_with_it(house: House) -> None:
    """The gateway's side of the stream closes after the last reply, so that a worker that leaves then loses nothing."""
    closed = asyncio.Event()

    class Leaving(worker_pb2_grpc.LogicWorkerServicer):
        async def Link(self, messages: AsyncIterator[worker_pb2.GatewayMessage], context: Any) -> Any:  # type: ignore[override]
            yield worker_pb2.WorkerMessage(hello=worker_pb2.WorkerHello(service="leaving"))
            async for message in messages:
                if message.HasField("heartbeat"):
                    yield worker_pb2.WorkerMessage(heartbeat=message.heartbeat)
                for request in message.requests:
                    yield worker_pb2.WorkerMessage(draining=True)
                    await asyncio.sleep(0.1)  # it would have time to close now, and must not
                    assert not closed.is_set()
                    yield worker_pb2.WorkerMessage(replies=[worker_pb2.Reply(id=request.id, body=b"last")])
            closed.set()

    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    worker_pb2_grpc.add_LogicWorkerServicer_to_server(Leaving(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await house.registry.register(
        Entry(service="leaving", id="leaving", host="127.0.0.1", port=port, tags=("gatecrew-worker",))
    )
    try:
        gateway = await house.gateway()
        client = await house.client(gateway)
        assert await client.request(1) == b"last"
        async with asyncio.timeout(PATIENCE_S):
            await closed.wait()
        assert gateway.counters.redelivered == 0
    finally:
        await server.stop(None)


async def test_a_worker_that_drains_from_its_first_message_on_is_left(house: House) -> None:
    """As one does to whom a gateway comes while it drains: its hello says so too."""
    left = asyncio.Event()

    class Leaving(worker_pb2_grpc.LogicWorkerServicer):
        async def Link(self, messages: AsyncIterator[worker_pb2.GatewayMessage], context: Any) -> Any:  # type: ignore[override]
            yield worker_pb2.WorkerMessage(hello=worker_pb2.WorkerHello(service="leaving"), draining=True)
            async for message in messages:
                if message.HasField("heartbeat"):  # it is silent for nobody
                    yield worker_pb2.WorkerMessage(heartbeat=message.heartbeat)
            left.set()

    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    worker_pb2_grpc.add_LogicWorkerServicer_to_server(Leaving(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await house.registry.register(
        Entry(service="leaving", id="leaving", host="127.0.0.1", port=port, tags=("gatecrew-worker",))
    )
    try:
        await house.gateway(workers=0)
        async with asyncio.timeout(PATIENCE_S / 2):
            await left.wait()
    finally:
        await server.stop(None)


async def test_a_worker_without_commands_gets_none(house: House) -> None:
    """It hears of sessions and pushes; a worker with an empty list and no such word takes every command."""
    ticker = Worker("ticker")

    @ticker.on_open
    async def opened(session: Session) -> None:
        await session.push(b"tick", command=9)

    await house.worker(ticker)
    client = await house.client(await house.gateway())
    async with asyncio.timeout(PATIENCE_S), contextlib.aclosing(client.pushes()) as pushes:
        assert (await anext(pushes)).body == b"tick"
    with pytest.raises(ReplyError) as refused:
        await client.request(1)
    assert "ticker" not in str(refused.value)
    assert refused.value.status == Status.UNIMPLEMENTED


async def test_a_worker_of_another_service_than_the_registry_says_is_refused(house: House) -> None:
    async with echo().serving() as server:
        host, _, port = server.address.rpartition(":")
        await house.registry.register(
            Entry(service="other", id="liar", host=host, port=int(port), tags=("gatecrew-worker",))
        )
        gateway = await house.gateway(workers=0)
        await until(lambda: bool(gateway._status().links))
        client = await house.client(gateway)
        with pytest.raises(ReplyError) as refused:
            await client.request(1)
        assert refused.value.status == Status.UNAVAILABLE


async def test_session_events_attributes_and_users(house: House) -> None:
    worker = echo()
    heard: list[tuple[str, int]] = []

    @worker.on_open
    async def opened(session: Session) -> None:
        heard.append(("open", session.id))
        await session.set(colour="red")

    @worker.on_close
    async def closed(session: Session) -> None:
        heard.append(("close", session.id))

    @worker.on(2)
    async def bind(request: Request) -> bytes:
        await request.session.bind(request.body.decode())
        return request.session.attributes["colour"].encode()

    @worker.on(3)
    async def who(request: Request) -> bytes:
        return request.session.user.encode()

    await house.worker(worker)
    gateway = await house.gateway()
    client = await house.client(gateway)
    assert await client.request(2, b"ann") == b"red"
    assert await client.request(3) == b"ann"
    service = house.service(gateway)
    listed = await service.ListSessions(gateway_pb2.ListSessionsRequest(user="ann"))
    [info] = listed.sessions
    assert dict(info.context.attributes) == {"colour": "red"}
    await client.close()
    await until(lambda: ("close", info.context.session) in heard)
    assert heard == [("open", info.context.session), ("close", info.context.session)]


async def test_the_gateway_service_reaches_the_sessions_of_every_gateway(house: House) -> None:
    await house.worker(echo())
    gateways = [await house.gateway(name=f"g{number}") for number in range(2)]
    await until(lambda: all(len(gateway._peers.known) == 1 for gateway in gateways))
    clients = [await house.client(gateway) for gateway in gateways]
    for client in clients:
        await client.request(1)
    asked = house.service(gateways[0])
    sessions = (await asked.ListSessions(gateway_pb2.ListSessionsRequest())).sessions
    assert {info.gateway_id for info in sessions} == {gateway.gateway_id for gateway in gateways}

    async def heard(client: Client) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            async for packet in client.pushes():
                return packet.body
        raise AssertionError

    # To the sessions of both, through the first one.
    for info in sessions:
        name = worker_pb2.Bind(session=info.context.session, user="ann")
        assert (await asked.Bind(name)).sessions == 1
        assert (await asked.Join(worker_pb2.Join(session=info.context.session, group="room"))).sessions == 1
    targets: list[dict[str, Any]] = [{"everyone": True}, {"user": "ann"}, {"group": "room"}]
    for number, target in enumerate(targets):
        body = b"to all %d" % number
        assert (await asked.Push(worker_pb2.Push(command=5, body=body, **target))).sessions == 2
        assert [await heard(client) for client in clients] == [body, body]
    for info in sessions:
        push = worker_pb2.Push(session=info.context.session, command=5, body=info.gateway_id.encode())
        assert (await asked.Push(push)).sessions == 1
    assert [await heard(client) for client in clients] == [gateway.gateway_id.encode() for gateway in gateways]
    left = await asked.Leave(worker_pb2.Leave(session=sessions[1].context.session, group="room"))
    assert left.sessions == 1
    assert (await asked.Push(worker_pb2.Push(group="room", command=5))).sessions == 1
    assert (await asked.Kick(worker_pb2.Kick(user="ann", reason="closing time", reconnect_after_ms=5))).sessions == 2
    for client in clients:
        await until(lambda client=client: client.closed is not None)  # type: ignore[misc]
        assert client.goaway == (5, "closing time")
    with pytest.raises(grpc.aio.AioRpcError, match="without a target"):
        await asked.Push(worker_pb2.Push(command=5))


async def test_a_push_of_a_worker_reaches_the_sessions_of_every_gateway(house: House) -> None:
    worker = echo()

    @worker.on(2)
    async def shout(request: Request) -> bytes:
        reached = await worker.push_everyone(request.body, command=3, receipt=True)
        return b"%d" % reached

    await house.worker(worker)
    gateways = [await house.gateway(name=f"g{number}") for number in range(2)]
    clients = [await house.client(gateway) for gateway in gateways]
    await clients[1].request(1)
    assert await clients[0].request(2, b"hello") == b"2"
    for client in clients:
        async with asyncio.timeout(PATIENCE_S):
            async for packet in client.pushes():
                assert packet.body == b"hello"
                break


async def test_a_worker_learns_who_is_connected_to_every_gateway(house: House) -> None:
    worker = echo()

    @worker.on(2)
    async def come(request: Request) -> bytes:
        await request.session.bind(request.body.decode())
        await request.session.join("lobby")
        return b""

    @worker.on(3)
    async def who(request: Request) -> bytes:
        names = sorted(name.user for name in await worker.list_names(group="lobby"))
        online = [await worker.is_online(user) for user in ("ann", "bob", "eve")]
        return f"{names} {online} {await worker.count()} {await worker.count(user='ann')}".encode()

    await house.worker(worker)
    gateways = [await house.gateway(name=f"g{number}") for number in range(2)]
    clients = [await house.client(gateway) for gateway in (*gateways, gateways[0])]
    for client, name in zip(clients, (b"ann", b"bob", b"ann"), strict=True):
        await client.request(2, name)
    expected = b"['ann', 'ann', 'bob'] [True, True, False] 3 2"
    assert [await client.request(3) for client in clients] == [expected] * 3
    assert worker.counters.unanswered == 0


async def test_a_worker_that_asks_for_more_than_a_message_holds(house: House) -> None:
    worker = echo()

    @worker.on(2)
    async def bind(request: Request) -> bytes:
        await request.session.bind("\N{GRINNING FACE}" * 256)
        return b""

    @worker.on(3)
    async def ask(request: Request) -> bytes:
        questions = [worker.list_names(limit=100_000) for _ in range(500)]
        return b"%d" % sum([len(await question) for question in questions])

    await house.worker(worker)
    gateway = await house.gateway()
    clients = [await house.client(gateway) for _ in range(30)]
    for client in clients:
        await client.request(2)
    # Results of 30 KB: more at once than may wait, so some of them name nobody.
    named = int(await clients[0].request(3, timeout_s=PATIENCE_S))
    assert 0 < named <= 500 * 30
    assert gateway.counters.links_lost == 0


async def test_draining_tells_clients_and_answers_what_is_open(house: House) -> None:
    worker = Worker("slow")
    slow = Waits(worker, 1)
    await house.worker(worker)
    gateway = await house.gateway()
    client = await house.client(gateway)
    request = asyncio.create_task(client.request(1, timeout_s=PATIENCE_S))
    async with asyncio.timeout(PATIENCE_S):
        await slow.begun.wait()
    draining = asyncio.create_task(gateway.drain())
    await until(lambda: client.goaway is not None)
    with pytest.raises(ConnectionRefusedError):
        await house.client(gateway)
    slow.go_on.set()
    assert await request == b"done"
    async with asyncio.timeout(PATIENCE_S):
        await draining
    assert len(gateway._sessions) == 0


async def test_draining_answers_what_was_on_its_way(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client far away hears of the drain late."""
    monkeypatch.setattr(listener, "ON_THE_WAY_S", 5.0)
    await house.worker(echo())
    gateway = await house.gateway()
    reader, writer = await house.socket(gateway)
    writer.write(encode(Kind.PING, 0, 1, b""))
    await read_packets(reader, 1)
    draining = asyncio.create_task(gateway.drain())
    [(kind, *_)] = await read_packets(reader, 1)
    assert kind == Kind.GOAWAY
    await asyncio.sleep(0.3)
    writer.write(encode(Kind.REQUEST, 1, 2, b"late"))
    assert await read_packets(reader, 1) == [(Kind.REPLY, 1, 2, b"late")]
    writer.close()
    async with asyncio.timeout(PATIENCE_S):
        await draining


async def test_draining_waits_for_who_reads_slowly_and_for_the_rest_of_a_packet(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "ON_THE_WAY_S", 0.1)
    monkeypatch.setattr(connection, "CLOSE_WITHIN_S", 0.1)
    await house.worker(echo())
    gateway = await house.gateway(ListenerConfig(port=0, packet_timeout_s=20), drain_s=30)
    slow_reader, slow_writer = await house.socket(gateway)
    slow_reader._transport.pause_reading()  # type: ignore[attr-defined]
    body = bytes(60_000)
    slow_writer.write(b"".join(encode(Kind.REQUEST, 1, seq, body) for seq in range(1, 61)))
    reader, writer = await house.socket(gateway)
    late = encode(Kind.REQUEST, 1, 1, b"late")
    writer.write(late[:9])
    sessions = gateway._sessions.by_id.values()
    await until(lambda: any(each.port is not None and each.port.unsent() for each in sessions))
    await until(lambda: any(each.unfinished for each in gateway._listeners))
    draining = asyncio.create_task(gateway.drain())
    assert [kind for kind, *_ in await read_packets(reader, 1)] == [Kind.GOAWAY]
    await asyncio.sleep(0.5)
    writer.write(late[9:])
    assert await read_packets(reader, 2) == [(Kind.REPLY, 1, 1, b"late")]  # and the end
    slow_reader._transport.resume_reading()  # type: ignore[attr-defined]
    packets = await read_packets(slow_reader, 61)
    assert [(kind, seq) for kind, _, seq, _ in packets if kind == Kind.REPLY] == [(Kind.REPLY, n) for n in range(1, 61)]
    assert Kind.GOAWAY in {kind for kind, *_ in packets}
    async with asyncio.timeout(PATIENCE_S):
        await draining


async def test_clients_hear_of_a_drain_although_the_registry_stands_still(
    start: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "LEAVE_S", 60.0)
    process = start(gatecrew("registry", "--listen", "127.0.0.1:0"))
    match = await asyncio.to_thread(process.wait_line, "^gatecrew ready: registry address=([^ ]+)")
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(Registry(RegistrySettings(address=match[1])))
        house = House(registry, stack)
        gateway = await house.gateway(workers=0)
        client = await house.client(gateway)
        await until(lambda: gateway._registration is not None and gateway._registration.is_registered)
        process.send(signal.SIGSTOP)
        draining = asyncio.create_task(gateway.drain())
        await until(lambda: client.goaway is not None)
        assert gateway._registration is not None, "it had been waited for"
        process.send(signal.SIGCONT)
        async with asyncio.timeout(PATIENCE_S):
            await draining


async def test_the_registry_shows_what_a_gateway_holds(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(registration, "NOTE_EVERY_S", 0.1)
    await house.worker(echo())
    gateway = await house.gateway(ListenerConfig(name="main", port=0), ListenerConfig(name="side", port=0))
    await house.client(gateway, "side")
    async with aiohttp.ClientSession(house.registry.settings.url) as http:

        async def notes() -> list[str]:
            async with http.get("/v1/agent/checks") as answer:
                checks = (await answer.json()).values()
            return [check["Output"] for check in checks if check["CheckID"].endswith(":note")]

        wanted = ["main: 0 sessions, side: 1 sessions; linked to 1 of 1 workers"]
        async with asyncio.timeout(PATIENCE_S):
            while await notes() != wanted:
                await asyncio.sleep(0.05)


async def test_ports_in_use_are_one_clear_error(house: House) -> None:
    await house.worker(echo())
    gateway = await house.gateway()
    port = int(gateway.addresses["main"].rpartition(":")[2])
    with pytest.raises(OSError, match=str(port)):
        await house.gateway(ListenerConfig(port=port))
    service_port = int(gateway.service_address.rpartition(":")[2])
    with pytest.raises(OSError, match=f":{service_port} for the Gateway service"):
        await house.gateway(service_port=service_port)


async def test_a_kick_closes_one_session_and_harms_nobody_else(house: House) -> None:
    """The kicking request's reply comes when the client has been told to leave already."""
    worker = echo()
    slow = Waits(worker, 3)

    @worker.on(2)
    async def kick(request: Request) -> bytes:
        await request.session.kick("x" * (1 << 20))
        return b"for nobody"

    await house.worker(worker)
    gateway = await house.gateway()
    stranger = await house.client(gateway)
    waiting = asyncio.create_task(stranger.request(3, timeout_s=PATIENCE_S))
    async with asyncio.timeout(PATIENCE_S):
        await slow.begun.wait()
    for _ in range(3):
        reader, writer = await house.socket(gateway)
        writer.write(encode(Kind.REQUEST, 2, 7, b""))
        [(kind, _, _, body)] = await read_packets(reader, 2)
        assert kind == Kind.GOAWAY
        assert decode_goaway(body) == (0, "x" * 1024)
        writer.close()
    slow.go_on.set()
    assert await waiting == b"done"
    assert gateway.counters.links_lost == 0
    assert gateway.counters.redelivered == 0


@pytest.mark.parametrize("kind", [Kind.PING, Kind.REQUEST], ids=["pings", "refused"])
async def test_what_is_answered_at_once_may_come_in_any_number(house: House, kind: Kind) -> None:
    """Each is answered within the reading of it: a client that pipelines them is read in a loop, not in a recursion."""
    gateway = await house.gateway(ListenerConfig(port=0, max_in_flight=4, max_pings_per_s=0), workers=0)
    reader, writer = await house.socket(gateway)
    count = 20_000
    writer.write(b"".join(encode(kind, 9, seq, b"") for seq in range(1, count + 1)))
    packets = await read_packets(reader, count)
    assert [seq for _, _, seq, _ in packets] == list(range(1, count + 1))


async def test_big_contexts_of_many_sessions_are_split_over_messages(house: House) -> None:
    """As many attributes as a session may have, of 20 sessions that speak at once: 5 MiB to tell the worker."""
    worker = echo()

    @worker.on(2)
    async def fill(request: Request) -> bytes:
        await request.session.set(**{f"name{number}": "v" * 4096 for number in range(64)})
        return b""

    @worker.on(3)
    async def count(request: Request) -> bytes:
        return b"%d" % sum(map(len, request.session.attributes.values()))

    await house.worker(worker)
    gateway = await house.gateway()
    clients = [await house.client(gateway) for _ in range(20)]
    await asyncio.gather(*(client.request(2, timeout_s=PATIENCE_S) for client in clients))
    answers = await asyncio.gather(*(client.request(3, timeout_s=PATIENCE_S) for client in clients))
    assert answers == [b"%d" % (64 * 4096)] * 20
    assert gateway.counters.links_lost == 0
