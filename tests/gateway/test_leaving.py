"""What is left when clients leave, and how a gateway asks many of them to."""

import asyncio

import pytest

from gatecrew_gateway.codec import Kind, decode_goaway
from gatecrew_gateway.config import ListenerConfig
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
