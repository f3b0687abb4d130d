"""Much that is pushed at once: its order, its bounds, and who waits for whom."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from unittest.mock import Mock

import pytest

from gatecrew.v1 import worker_pb2
from gatecrew_gateway import ListenerConfig
from gatecrew_gateway.actions import Actions
from gatecrew_gateway.codec import FROM_GATEWAY, Decoder, Kind, encode
from gatecrew_gateway.net import stream
from gatecrew_gateway.net.outflow import Outflow
from gatecrew_worker import Request, Worker
from gateway.crew import Crew
from gateway.test_gateway import House, echo, house, until  # noqa: F401  # a fixture

PATIENCE_S = 20.0  # generous: it only ends a test that has failed already
SIZE = 60_000
BURST = 50  # pushes: 3 MB, more than `max_unsent` and less than four times that


def pushing() -> Worker:
    """Serves 2: as many numbered pushes to the session as the body says, then a reply; 3: the same to everyone."""
    worker = echo()

    @worker.on(2)
    async def burst(request: Request) -> bytes:
        for number in range(int(request.body)):
            await request.session.push(number.to_bytes(2, "big") + bytes(SIZE), command=3)
        return b"after it"

    @worker.on(3)
    async def burst_to_all(request: Request) -> bytes:
        for number in range(int(request.body)):
            await worker.push_everyone(number.to_bytes(2, "big") + bytes(SIZE), command=3)
        return b"after it"

    @worker.on(4)
    async def burst_and_kick(request: Request) -> None:
        for number in range(int(request.body)):
            await request.session.push(number.to_bytes(2, "big") + bytes(SIZE), command=3)
        await request.session.kick("enough")

    return worker


async def packets_until(reader: asyncio.StreamReader, last: Kind) -> list[tuple[int, bytes]]:
    """(kind, the body's first two bytes) of all that comes, up to the first of kind `last`."""
    decoder = Decoder(1 << 20, allowed=FROM_GATEWAY)
    found: list[tuple[int, bytes]] = []
    async with asyncio.timeout(PATIENCE_S):
        while data := await reader.read(1 << 16):
            packets, error = decoder.decode(data)
            assert error is None
            found += [(kind, body[:2]) for kind, _, _, body in packets]
            if any(kind == last for kind, _ in found):
                return found
    raise AssertionError(f"the connection ended after {len(found)} packets")


def numbered(count: int) -> list[tuple[int, bytes]]:
    return [(Kind.PUSH, number.to_bytes(2, "big")) for number in range(count)]


async def test_a_burst_comes_whole_in_order_and_before_the_reply_that_follows_it(house: House) -> None:  # noqa: F811
    """To a client that begins to read late, too."""
    await house.worker(pushing())
    gateway = await house.gateway()
    reader, writer = await house.socket(gateway)
    transport: Any = reader._transport  # type: ignore[attr-defined]
    transport.pause_reading()
    writer.write(encode(Kind.REQUEST, 2, 1, b"%d" % BURST))
    await until(lambda: gateway.counters.pushes_delivered == BURST)
    transport.resume_reading()
    assert await packets_until(reader, Kind.REPLY) == [*numbered(BURST), (Kind.REPLY, b"af")]
    assert gateway.counters.slow_clients_cut == 0


async def test_a_kick_after_a_burst_comes_after_it(house: House) -> None:  # noqa: F811
    await house.worker(pushing())
    gateway = await house.gateway()
    reader, writer = await house.socket(gateway)
    writer.write(encode(Kind.REQUEST, 4, 1, b"%d" % BURST))
    *pushes, (kind, _) = await packets_until(reader, Kind.GOAWAY)
    assert (pushes, kind) == (numbered(BURST), Kind.GOAWAY)


async def test_whoever_reads_gets_much_more_than_the_bound(house: House) -> None:  # noqa: F811
    """The worker waits for the gateway, which writes as fast as the client reads."""
    count = 400  # 24 MB
    await house.worker(pushing())
    gateway = await house.gateway()
    sockets = [await house.socket(gateway) for _ in range(3)]
    readings = [asyncio.create_task(packets_until(reader, Kind.PONG)) for reader, _ in sockets]
    asking, asked = await house.socket(gateway)
    own = asyncio.create_task(packets_until(asking, Kind.REPLY))
    asked.write(encode(Kind.REQUEST, 3, 1, b"%d" % count))
    assert await own == [*numbered(count), (Kind.REPLY, b"af")]
    for _, writer in sockets:
        writer.write(encode(Kind.PING, 0, 1, b"ok"))
    for reading in readings:
        assert [packet for packet in await reading if packet[0] == Kind.PUSH] == numbered(count)
    assert gateway.counters.slow_clients_cut == 0


async def test_a_client_is_cut_for_more_than_a_burst_at_once(house: House) -> None:  # noqa: F811
    await house.worker(pushing())
    gateway = await house.gateway(ListenerConfig(port=0, unsent_timeout_s=3600))
    reader, writer = await house.socket(gateway)
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(encode(Kind.REQUEST, 2, 1, b"400"))
    await until(lambda: gateway.counters.slow_clients_cut == 1)
    await until(lambda: len(gateway._sessions) == 0)


async def test_a_client_is_cut_for_a_burst_that_it_leaves_unread(house: House) -> None:  # noqa: F811
    """After half of the time in which one that has less unread is cut."""
    await house.worker(pushing())
    gateway = await house.gateway(ListenerConfig(port=0, unsent_timeout_s=2))
    much, asks_much = await house.socket(gateway)
    some, asks_some = await house.socket(gateway)
    for reader, writer, count in ((some, asks_some, 15), (much, asks_much, BURST)):
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(encode(Kind.REQUEST, 2, 1, b"%d" % count))
    began = time.monotonic()
    await until(lambda: gateway.counters.slow_clients_cut == 1)
    assert time.monotonic() - began > 0.9
    await until(lambda: len(gateway._sessions) == 1)
    [left] = gateway._sessions.by_id.values()
    assert left.peer.endswith(f":{some._transport.get_extra_info('sockname')[1]}")  # type: ignore[attr-defined]
    await until(lambda: gateway.counters.slow_clients_cut == 2)


async def test_the_gateway_service_pushes_in_turns_too(house: House) -> None:  # noqa: F811
    """One message to more sessions than one turn takes; it says how many it reached."""
    sessions = 1100
    await house.worker(echo())
    gateway = await house.gateway()
    sockets = [await house.socket(gateway) for _ in range(sessions)]
    await until(lambda: len(gateway._sessions) == sessions)
    reached = await house.service(gateway).Push(worker_pb2.Push(everyone=True, command=5, body=b"hello"))
    assert reached.sessions == sessions
    for reader, _ in sockets:
        assert await packets_until(reader, Kind.PUSH) == [(Kind.PUSH, b"he")]


async def test_receipts_that_a_worker_leaves_unread_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it could not be told of is not done: no receipt means that nobody knows."""
    monkeypatch.setattr(stream, "MOST_RESULTS", 10)
    crew = Crew()
    client = crew.client()
    actions = Actions(crew.sessions, crew.counters, lambda: crew.now)
    hello = worker_pb2.GatewayHello()
    shell = stream.StreamLink(Mock(), "echo", "a", hello, crew.dispatcher, actions, Outflow(), Mock(), crew.counters)
    link = crew.worker("a").link

    def pushes(first: int) -> worker_pb2.WorkerMessage:
        push = [worker_pb2.Push(everyone=True, body=b"p", receipt=first + number) for number in range(8)]
        return worker_pb2.WorkerMessage(actions=[worker_pb2.Action(push=each) for each in push])

    await shell._act_in_turns(link, pushes(1))
    await shell._act_in_turns(link, pushes(11))
    assert [(each.receipt, each.delivered) for each in shell._receipts] == [(n, 1) for n in (*range(1, 9), 11, 12)]
    assert len(client.pushes) == 10
    assert crew.counters.actions_refused == 6
    shell._messages([], link)  # the worker reads
    await shell._act_in_turns(link, pushes(21))
    assert [each.receipt for each in shell._receipts] == list(range(21, 29))


async def test_an_error_with_one_connection_stops_no_other() -> None:
    class Connection:
        is_pouring = False
        can_pour = False

        def __init__(self, size: int | None) -> None:
            self.size = size
            self.poured = asyncio.Event()

        def pour(self, most: int) -> int:
            if self.size is None:
                raise ZeroDivisionError
            self.poured.set()
            return self.size

    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    outflow = Outflow()
    broken, well = Connection(None), Connection(5)
    outflow.add(broken)
    outflow.add(well)
    async with asyncio.timeout(PATIENCE_S):
        await well.poured.wait()
        await outflow.turn(1)
    assert [type(each["exception"]) for each in errors] == [ZeroDivisionError]
