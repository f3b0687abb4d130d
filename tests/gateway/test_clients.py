"""Hostile and careless clients at a real gateway: what each of them may take, and that everything comes back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from gatecrew_cli.client import Client, ClientClosed
from gatecrew_gateway import Gateway, ListenerConfig, RouteConfig
from gatecrew_gateway.codec import Kind, Status, decode_error, encode
from gatecrew_gateway.net import turns
from gatecrew_gateway.net.entrance import origin_of
from gatecrew_worker import Request, Worker
from gateway.test_gateway import PATIENCE_S, House, Waits, echo, house_of, read_packets, until

MIB = 1 << 20


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with AsyncExitStack() as stack, house_of(stack) as house:
        yield house


async def from_address(
    gateway: Gateway, source: str, stack: AsyncExitStack
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = gateway.addresses["main"].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), local_addr=(source, 0))
    stack.callback(writer.close)
    return reader, writer


async def is_let_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Its request is answered; or it is told why not, and closed."""
    writer.write(encode(Kind.REQUEST, 1, 7, b"in?"))
    [(kind, _, seq, body), *more] = await read_packets(reader, 2 if reader.at_eof() else 1)
    if kind == Kind.REPLY:
        return True
    assert (kind, seq, decode_error(body)[0]) == (Kind.ERROR, 0, Status.RESOURCE_EXHAUSTED)
    assert not more
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    return False


# Those who do not read.


async def test_who_ends_its_side_and_never_reads_is_cut(house: House) -> None:
    worker = Worker("big")
    go_on = asyncio.Event()

    @worker.on(1)
    async def big(request: Request) -> bytes:
        await go_on.wait()
        return bytes(60_000)

    await house.worker(worker)
    gateway = await house.gateway(ListenerConfig(port=0, unsent_timeout_s=0.5))
    reader, writer = await house.socket(gateway)
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(b"".join(encode(Kind.REQUEST, 1, seq, b"") for seq in range(1, 61)))
    writer.write_eof()
    await until(lambda: len(gateway._listeners[0].half_closed) == 1)
    go_on.set()
    await until(lambda: not gateway._sessions.by_id)
    assert gateway.counters.slow_clients_cut == 1


async def test_little_that_is_never_read_does_not_keep_a_closing_connection(house: House) -> None:
    """Less than what makes a client congested."""
    await house.worker(echo())
    gateway = await house.gateway(ListenerConfig(port=0, unsent_timeout_s=0.5))
    reader, writer = await house.socket(gateway)
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(encode(Kind.PING, 0, 1, b""))
    await until(lambda: len(gateway._sessions) == 1)
    [session] = gateway._sessions.by_id.values()
    assert session.port is not None
    while not session.port.unsent():  # the kernel's buffers first
        session.port.write(bytes(10_000))
        await asyncio.sleep(0.01)
    assert not session.congested
    writer.write_eof()
    await until(lambda: not gateway._sessions.by_id)
    assert gateway.counters.slow_clients_cut == 1


# Those who send too much.


@pytest.mark.parametrize("kind", [Kind.NOTIFY, Kind.PONG], ids=["notifies that are refused", "pongs"])
async def test_many_packets_without_an_answer_do_not_stop_their_session(house: House, kind: Kind) -> None:
    gateway = await house.gateway(ListenerConfig(port=0, max_in_flight=4, max_pings_per_s=0), workers=0)
    reader, writer = await house.socket(gateway)
    writer.write(encode(kind, 9, 0, b"") * 5000 + encode(Kind.PING, 0, 3, b"still there"))
    assert await read_packets(reader, 1) == [(Kind.PONG, 0, 3, b"still there")]


async def test_one_client_takes_its_share_of_a_turn(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast some send, no turn of the event loop takes more than its bound of what waits; and all is taken."""
    gateway = await house.gateway(workers=0)
    loop = asyncio.get_running_loop()
    turn = 0
    taken: Counter[int] = Counter()
    receive = gateway._dispatcher.receive

    def count(session: Any, packets: Sequence[Any]) -> Any:
        taken[turn] += len(packets)
        return receive(session, packets)

    def next_turn() -> None:
        nonlocal turn
        turn += 1
        loop.call_soon(next_turn)

    monkeypatch.setattr(gateway._dispatcher, "receive", count)
    next_turn()
    count_each, clients = 60_000, 3
    data = encode(Kind.NOTIFY, 9, 0, b"") * count_each
    sockets = [await house.socket(gateway) for _ in range(clients)]
    for _, writer in sockets:
        writer.write(data)
    await until(lambda: taken.total() == count_each * clients)
    assert max(taken.values()) <= turns.TURN_PACKETS + (clients + 1) * turns.SLICE_PACKETS


@pytest.mark.parametrize("kind", [Kind.PING, Kind.PONG], ids=["pings", "pongs"])
async def test_who_floods_with_pings_is_told_and_disconnected(house: House, kind: Kind) -> None:
    await house.worker(echo())
    gateway = await house.gateway(ListenerConfig(port=0, max_pings_per_s=50))
    well = await house.client(gateway)
    reader, writer = await house.socket(gateway)

    async def flood() -> None:
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(encode(kind, 0, 1, b"") * 100)
                await writer.drain()
                await asyncio.sleep(0)

    flooding = asyncio.create_task(flood())
    packets = await read_packets(reader, 1 << 30)  # until the end
    flooding.cancel()
    kind_of_last, _, seq, body = packets[-1]
    assert (kind_of_last, seq, decode_error(body)) == (
        Kind.ERROR,
        0,
        (Status.RESOURCE_EXHAUSTED, "more than 50 pings a second"),
    )
    assert len(packets) <= 4 * (50 + turns.SLICE_PACKETS)  # pongs, and the error
    assert gateway.counters.flooding_clients_cut == 1
    assert gateway.counters.wire_errors == 0
    assert await well.request(1, b"fine") == b"fine"


async def test_a_few_more_pings_for_once_are_all_answered(house: House) -> None:
    gateway = await house.gateway(ListenerConfig(port=0, max_pings_per_s=50), workers=0)
    reader, writer = await house.socket(gateway)
    writer.write(b"".join(encode(Kind.PING, 0, seq, b"") for seq in range(1, 101)))
    assert [seq for _, _, seq, _ in await read_packets(reader, 100)] == list(range(1, 101))
    assert gateway.counters.flooding_clients_cut == 0


async def test_what_follows_a_broken_packet_is_hardly_read(house: House) -> None:
    gateway = await house.gateway(workers=0)
    host, _, port = gateway.addresses["main"].rpartition(":")

    def flood() -> int:
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as client:
            client.sendall(b"\xff" * 4)
            sent = 0
            with contextlib.suppress(ConnectionError):
                while True:
                    sent += client.send(bytes(MIB))
            return sent

    assert await asyncio.to_thread(flood) < 64 * MIB
    await until(lambda: not gateway._sessions.by_id)
    assert gateway.counters.wire_errors == 1


# Those who are silent.


@pytest.mark.parametrize("setting", ["first_packet_timeout_s", "idle_timeout_s"])
async def test_who_answers_no_ping_is_disconnected(house: House, setting: str) -> None:
    gateway = await house.gateway(ListenerConfig(port=0, **{setting: 1.0}), workers=0)  # type: ignore[arg-type]
    reader, writer = await house.socket(gateway)
    began = time.monotonic()
    if setting == "idle_timeout_s":
        writer.write(encode(Kind.PING, 0, 1, b""))
        await read_packets(reader, 1)
    ping, error = await read_packets(reader, 3)
    assert time.monotonic() - began >= 0.8
    assert ping == (Kind.PING, 0, 0, b"")
    assert (error[0], error[2], decode_error(error[3])[0]) == (Kind.ERROR, 0, Status.DEADLINE_EXCEEDED)
    assert gateway.counters.silent_clients_cut == 1
    await until(lambda: not gateway._sessions.by_id)


async def test_who_answers_pings_sends_packets_or_waits_for_an_answer_stays(house: House) -> None:
    worker = echo()
    slow = Waits(worker, 2)
    await house.worker(worker)
    gateway = await house.gateway(ListenerConfig(port=0, first_packet_timeout_s=0.6, idle_timeout_s=0.6))
    listens = await house.client(gateway)  # and never sends anything but pongs
    silent_reader, _ = await house.socket(gateway)
    talks_reader, talks = await house.socket(gateway)
    waits_reader, waits = await house.socket(gateway)
    waits.write(encode(Kind.REQUEST, 2, 1, b""))
    cut = asyncio.create_task(read_packets(silent_reader, 3))
    rounds = 0
    while not cut.done() or rounds < 30:  # three times as long as it may be silent, at least
        rounds += 1
        talks.write(encode(Kind.NOTIFY, 1, 0, b""))
        await asyncio.sleep(0.1)
    slow.go_on.set()
    assert await read_packets(waits_reader, 1) == [(Kind.REPLY, 2, 1, b"done")]
    assert await listens.request(1, b"here") == b"here"
    talks.write(encode(Kind.REQUEST, 1, 5, b"too"))
    assert (Kind.REPLY, 1, 5, b"too") in await read_packets(talks_reader, 1)
    assert gateway.counters.silent_clients_cut >= 1


async def test_zero_switches_silence_off(house: House) -> None:
    config = ListenerConfig(port=0, first_packet_timeout_s=0, idle_timeout_s=0)
    gateway = await house.gateway(config, workers=0)
    reader, writer = await house.socket(gateway)
    writer.write(encode(Kind.PING, 0, 1, b""))
    await read_packets(reader, 1)
    await until(lambda: len(gateway._listeners[0].heartbeats) <= 1)  # its ping is counted, until the end of the second
    await until(lambda: len(gateway._listeners[0].heartbeats) == 0)


async def test_the_kernel_looks_after_clients_that_vanish(house: House) -> None:
    gateway = await house.gateway(ListenerConfig(port=0, unsent_timeout_s=3), workers=0)
    await house.socket(gateway)
    await until(lambda: len(gateway._listeners[0].connections) == 1)
    [connection] = gateway._listeners[0].connections
    sock = connection._transport.get_extra_info("socket")
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
    assert [sock.getsockopt(socket.IPPROTO_TCP, each) for each in options] == [60, 10, 3, 20_000]


# Those who are many.


async def test_an_address_has_so_many_sessions(house: House) -> None:
    await house.worker(echo())
    gateway = await house.gateway(ListenerConfig(port=0, max_sessions_per_address=2))
    async with AsyncExitStack() as stack:
        sockets = []
        for source in ["127.0.0.1"] * 3 + ["127.0.0.2"] * 3:
            sockets.append(await from_address(gateway, source, stack))
        assert [await is_let_in(*each) for each in sockets] == [True, True, False] * 2
        assert gateway.counters.addresses_refused == 2
        assert gateway.counters.sessions_refused == 0
        assert gateway.counters.sessions_opened == 4
        sockets[0][1].close()
        await until(lambda: len(gateway._sessions) == 3)
        assert await is_let_in(*await from_address(gateway, "127.0.0.1", stack))
    await until(lambda: not gateway._sessions.by_id)
    assert len(gateway._listeners[0]._entrance) == 0


async def test_all_listeners_together_have_so_many_sessions(house: House) -> None:
    await house.worker(echo())
    sides = [ListenerConfig(name=name, port=0) for name in ("main", "side")]
    gateway = await house.gateway(*sides, max_sessions=3)
    clients = [await house.client(gateway, name) for name in ("main", "side", "main")]
    assert [await each.request(1, b"in") for each in clients] == [b"in"] * 3
    late = await house.client(gateway, "side")
    with pytest.raises(ClientClosed, match="full"):
        await late.request(1)
    assert gateway.counters.sessions_refused == 1


async def test_who_never_said_a_word_gives_its_place_to_a_newcomer(house: House) -> None:
    await house.worker(echo())
    gateway = await house.gateway(ListenerConfig(port=0, max_sessions=3, first_packet_timeout_s=20))
    heartbeats = gateway._listeners[0].heartbeats
    well = await house.client(gateway)  # answers pings
    silent = [await house.socket(gateway) for _ in range(2)]
    await until(lambda: len(gateway._sessions) == 3)
    for connection in gateway._listeners[0].connections:
        heartbeats._check(connection, gateway._listeners[0].loop.time() + 10)  # half of the time is over
    for reader, _ in silent:
        await read_packets(reader, 1)  # the ping
    await until(lambda: sum(1 for each in gateway._listeners[0].connections if each.heard_at) == 1)
    first = await house.client(gateway)
    assert await first.request(1, b"in") == b"in"
    assert gateway.counters.silent_clients_cut == 1
    second = await house.client(gateway)
    assert await second.request(1, b"in") == b"in"
    third = await house.client(gateway)
    with pytest.raises(ClientClosed, match="full"):
        await third.request(1)
    assert await well.request(1, b"still") == b"still"


async def test_an_address_that_fills_a_listener_gives_places_to_others(house: House) -> None:
    worker = echo()
    go_on = asyncio.Event()

    @worker.on(2)
    async def wait(request: Request) -> bytes:
        await go_on.wait()
        return b"late"

    await house.worker(worker)
    gateway = await house.gateway(
        ListenerConfig(port=0, max_sessions=5), routes=(RouteConfig(commands="*", deadline_ms=60_000),)
    )
    [listener] = gateway._listeners
    async with AsyncExitStack() as stack:
        crowd = []
        for silent_s in (50, 40, 10, 20, 30):
            crowd.append(await from_address(gateway, "127.0.0.1", stack))
            assert await is_let_in(*crowd[-1])
            [connection] = [each for each in listener.connections if each.heard_at > 1]
            connection.heard_at = 1 - silent_s / 100
        busy_reader, busy_writer = crowd[0]
        busy_writer.write(encode(Kind.REQUEST, 2, 8, b""))
        await until(lambda: any(each.has_open for each in listener.connections))
        [busy] = [each for each in listener.connections if each.has_open]
        busy.heard_at = 0.1
        assert not await is_let_in(*await from_address(gateway, "127.0.0.1", stack))
        for number, gone in enumerate((1, 4, 3), 1):
            newcomer = await from_address(gateway, f"127.0.0.{1 + number}", stack)
            assert await is_let_in(*newcomer)
            assert gateway.counters.places_given == number
            with contextlib.suppress(ConnectionError):
                assert await crowd[gone][0].read() == b""
        # Now it has two of five, no more than others might.
        assert not await is_let_in(*await from_address(gateway, "127.0.0.9", stack))
        assert await is_let_in(*crowd[2])
        go_on.set()
        [(kind, _, seq, body)] = await read_packets(busy_reader, 1)
        assert (kind, seq, body) == (Kind.REPLY, 8, b"late")
        assert (gateway.counters.places_given, gateway.counters.sessions_refused) == (3, 2)


async def test_newcomers_wait_when_too_many_come_in_a_second(house: House) -> None:
    await house.worker(echo())
    gateway = await house.gateway(ListenerConfig(port=0, max_accepts_per_s=20))
    began = time.monotonic()
    clients = [await house.client(gateway) for _ in range(60)]
    assert await asyncio.gather(*(client.request(1, b"in", timeout_s=PATIENCE_S) for client in clients)) == [b"in"] * 60
    assert time.monotonic() - began >= 1.5  # the first 20 at once, the others 20 a second
    assert gateway.counters.accepts_delayed > 0
    assert gateway.counters.sessions_refused == 0


def test_an_address_of_ipv6_counts_with_its_network() -> None:
    assert origin_of("2001:db8:1:2::1") == origin_of("2001:db8:1:2:ffff::9") != origin_of("2001:db8:1:3::1")
    assert origin_of("fe80::1%eth0") == origin_of("fe80::2")
    assert origin_of("::ffff:10.0.0.1") == origin_of("10.0.0.1") != origin_of("::ffff:10.0.0.2")


# Those who come and go.


async def test_nothing_of_those_who_left_is_kept(house: House) -> None:
    worker = echo()

    @worker.on(2)
    async def enter(request: Request) -> None:
        await request.session.bind(f"user {request.body!r}")
        await request.session.join("lobby")
        await request.session.join(f"room {request.body!r}")
        await request.session.set(colour="red")

    await house.worker(worker)
    gateway = await house.gateway()
    host, _, port = gateway.addresses["main"].rpartition(":")

    async def come_and_go(number: int) -> None:
        async with await Client.connect(host, int(port)) as client:
            await client.request(2, b"%d" % number, timeout_s=PATIENCE_S)
            if number % 3:
                await client.request(1, timeout_s=PATIENCE_S)

    for start in range(0, 200, 20):
        await asyncio.gather(*(come_and_go(number) for number in range(start, start + 20)))
    await until(lambda: gateway.counters.sessions_closed == 200)
    assert gateway.counters.sessions_opened == 200
    listener = gateway._listeners[0]
    assert len(gateway._sessions) == 0
    assert gateway._sessions.names == (0, 0)
    tables = (listener.connections, listener.unfinished, listener.congested, listener.half_closed, listener.closing)
    assert [len(table) for table in tables] == [0] * 5
    assert (len(listener.heartbeats), len(listener.turns), len(listener._entrance)) == (0, 0, 0)


# Whose time runs, and what runs on.


@pytest.mark.parametrize("why", ["it does not read", "it pings too much"])
async def test_a_packet_takes_no_time_while_we_do_not_read_its_rest(house: House, why: str) -> None:
    gateway = await house.gateway(ListenerConfig(port=0, packet_timeout_s=1, unsent_timeout_s=3600), workers=0)
    _, writer = await house.socket(gateway)
    writer.write(encode(Kind.REQUEST, 1, 1, b"half")[:9])
    [listener] = gateway._listeners
    await until(lambda: len(listener.unfinished) == 1)
    [connection] = listener.connections
    stop, go_on = {
        "it does not read": (connection.pause_writing, connection.resume_writing),
        "it pings too much": (connection.throttle, connection.unthrottle),
    }[why]
    stop()
    connection._expect_the_rest()  # as when the stop comes from what was written for the first half of a read
    assert not listener.unfinished
    listener.sweep(listener.loop.time() + 2)
    assert gateway.counters.wire_errors == 0
    go_on()
    await until(lambda: connection in listener.unfinished)
    await until(lambda: gateway.counters.wire_errors == 1)


async def test_an_error_in_one_part_of_the_tick_stops_no_other(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = await house.gateway(ListenerConfig(name="main", port=0), ListenerConfig(name="side", port=0), workers=0)
    ticks: Counter[str] = Counter()

    def breaks(name: str) -> Any:
        def tick(*_: object) -> None:
            ticks[name] += 1
            raise ZeroDivisionError

        return tick

    for name, owner, method in (
        ("memory", gateway._memory, "tick"),
        ("crew", gateway._crew, "tick"),
        ("main", gateway._listeners[0], "sweep"),
        ("side", gateway._listeners[1], "sweep"),
    ):
        monkeypatch.setattr(owner, method, breaks(name))
    await until(lambda: len(ticks) == 4)
