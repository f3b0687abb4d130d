"""What is left when clients leave, and how a gateway asks many of them to."""

import asyncio
import logging
import socket

import pytest

from gatecrew_gateway.codec import Kind, decode_goaway
from gatecrew_gateway.config import ListenerConfig
from gatecrew_gateway.net.connection import Connection
from gatecrew_gateway.session import SessionTable
from gateway.test_gateway import PATIENCE_S, House, house, read_packets, until  # noqa: F401

CLIENTS = 120  # above a hundred a drain is spread
DRAIN_S = 6.0


class Nowhere:
    """A client port that takes everything."""

    def write(self, data: bytes) -> None:
        pass

    def __getattr__(self, name: str) -> object:
        return lambda *_: 0


@pytest.mark.uvloop_only
async def test_a_drain_of_many_is_spread_and_they_come_back_at_different_times(house: House) -> None:  # noqa: F811
    """Else all of them connect elsewhere in one moment. A busy machine only spreads them further."""
    gateway = await house.gateway(workers=0, drain_s=DRAIN_S)
    readers = [(await house.socket(gateway))[0] for _ in range(CLIENTS)]
    await until(lambda: len(gateway._sessions) == CLIENTS)
    loop = asyncio.get_running_loop()

    async def told(reader: asyncio.StreamReader) -> tuple[float, int]:
        [(kind, _, _, body)] = await read_packets(reader, 1)
        assert kind == Kind.GOAWAY
        return loop.time(), decode_goaway(body)[0]

    async with asyncio.timeout(PATIENCE_S):
        draining = asyncio.create_task(gateway.drain())
        found = await asyncio.gather(*map(told, readers))
        await draining
    moments = sorted(at for at, _ in found)
    assert moments[-1] - moments[0] >= DRAIN_S / 4  # half of it is for telling them
    after_ms = {wait_ms for _, wait_ms in found}
    assert len(after_ms) > CLIENTS / 4
    assert max(after_ms) < 1000


@pytest.mark.quick
def test_nothing_is_kept_of_sessions_that_have_closed() -> None:
    table = SessionTable(1)
    for round_ in range(3):
        sessions = [table.open("peer", ListenerConfig(), Nowhere(), 0.0) for _ in range(4)]  # type: ignore[arg-type]
        for number, session in enumerate(sessions):
            table.bind(session, f"user {round_} {number}")
            table.bind(session, f"user {round_}")
            for group in ("lobby", f"room {round_}", "left"):
                table.join(session, group)
            table.leave(session, "left")
        assert len(table.in_group("lobby")) == len(table.of_user(f"user {round_}")) == 4
        for session in sessions:
            table.close(session)
        assert not table.in_group("lobby")
        assert not table.of_user(f"user {round_}")
        assert (table.by_id, table._users, table._groups) == ({}, {}, {})  # a leak is invisible from outside


async def test_who_comes_in_while_a_drain_begins_is_told_to_leave(
    house: House,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateway = await house.gateway(workers=0)
    [listener] = gateway._listeners
    accepted, go_on = asyncio.Event(), asyncio.Event()
    open_ = listener._open

    async def open_late(sock: socket.socket, connection: Connection) -> None:
        accepted.set()
        await go_on.wait()
        await open_(sock, connection)

    monkeypatch.setattr(listener, "_open", open_late)
    reader, _ = await house.socket(gateway)
    async with asyncio.timeout(PATIENCE_S):
        await accepted.wait()
        draining = asyncio.create_task(gateway.drain())
        await until(lambda: gateway._registration is None)
        go_on.set()
        assert [kind for kind, *_ in await read_packets(reader, 2)] == [Kind.GOAWAY]  # and the end
        await draining


async def test_who_waits_for_memory_is_sent_away_by_a_drain(house: House) -> None:  # noqa: F811
    gateway = await house.gateway(workers=0)
    [listener] = gateway._listeners
    gateway._memory._growth = lambda: gateway._memory._limit  # type: ignore[method-assign]
    gateway._memory._in_flight = lambda: int(gateway._memory._limit * 0.85)
    await until(lambda: gateway._memory.is_tight)
    reader, _ = await house.socket(gateway)
    await until(lambda: len(listener._held_back) == 1)
    async with asyncio.timeout(PATIENCE_S):
        draining = asyncio.create_task(gateway.drain())
        assert [kind for kind, *_ in await read_packets(reader, 2)] == [Kind.GOAWAY]
        await draining
    assert not listener._held_back
    assert len(listener._entrance) == 0
    assert gateway.counters.sessions_opened == 0


async def test_a_drain_that_everybody_left_in_time_says_so(
    house: House,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    gateway = await house.gateway(workers=0)
    reader, _ = await house.socket(gateway)
    await until(lambda: len(gateway._sessions) == 1)
    with caplog.at_level(logging.INFO, "gatecrew.gateway"):
        await asyncio.gather(gateway.drain(), read_packets(reader, 2))
    assert caplog.messages[-1] == "drain ended: all clients had left"
