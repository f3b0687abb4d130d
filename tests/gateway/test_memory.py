"""The bound on memory: what counts, who is refused, who is cut; and how much a process may have."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gatecrew_cli.client import ReplyError
from gatecrew_gateway import GatewayConfig, ListenerConfig, RouteConfig, memory
from gatecrew_gateway.codec import FROM_GATEWAY, Decoder, Kind, Status, decode_error, encode
from gatecrew_gateway.config import ConfigError, parse_size
from gatecrew_gateway.counters import Counters
from gatecrew_gateway.memory import Memory
from gatecrew_gateway.net.machine import available_memory, resident_memory
from gatecrew_worker import Request
from gateway.crew import Client, Crew
from gateway.test_gateway import House, echo, house, read_packets, until  # noqa: F401  # a fixture

LIMIT = 1000


class Holder:
    def __init__(self, process: Process, held: int, in_flight: int = 0) -> None:
        self.held = held
        self.in_flight = in_flight
        self._process = process
        process.size += held + in_flight
        process.in_flight += in_flight
        process.holders.append(self)

    def cut_for_memory(self) -> None:
        self._process.size -= self.held + self.in_flight
        self._process.in_flight -= self.in_flight
        self._process.holders.remove(self)


class Process:
    """Of which the clients hold a part. `size`: None where nobody says."""

    def __init__(self, size: int | None = 500) -> None:
        self.size: Any = size
        self.holders: list[Holder] = []
        self.in_flight = 0
        self.counters = Counters()
        self.now = 0.0
        self.scan_s = 0.0  # that adding up takes
        self.scans = 0
        self.memory = Memory(
            LIMIT,
            lambda: self.size,
            lambda: self.holders,
            self.add_up,
            self.in_flight_of,
            self.counters,
            lambda: self.now,
        )
        self.memory.tick()

    def add_up(self) -> int:
        self.scans += 1
        self.now += self.scan_s
        return self.in_flight

    def in_flight_of(self) -> dict[memory.Holder, int]:
        return {holder: holder.in_flight for holder in self.holders}

    def tick(self, count: int) -> None:
        for _ in range(count):
            self.now += 0.1
            self.memory.tick()

    @property
    def level(self) -> tuple[bool, bool]:
        self.memory.tick()
        return self.memory.is_tight, self.memory.refuses


def test_the_levels() -> None:
    process = Process()
    assert process.level == (False, False)
    holder = Holder(process, 790)
    assert process.level == (False, False)
    process.size, holder.held = 500 + 850, 850
    assert process.level == (True, False)
    process.size, holder.held = 500 + 940, 940
    assert process.level == (True, True)
    assert process.counters.memory_held_bytes == 940
    process.size, holder.held = 500, 0
    assert process.level == (False, False)
    assert process.counters.memory_clients_cut == 0


def test_the_fattest_are_cut_and_no_more_than_must_be() -> None:
    process = Process()
    small = [Holder(process, 100) for _ in range(5)]
    fat = [Holder(process, size) for size in (300, 200)]
    assert process.level == (False, False)  # 1000 were held, 700 are
    assert process.holders == [*small, fat[1]]
    assert process.counters.memory_clients_cut == 1


def test_who_is_refused_does_not_wait_for_long() -> None:
    process = Process()
    fat = Holder(process, 930)
    for _ in range(3):
        assert process.level == (True, True)
    assert process.holders == [fat]
    for _ in range(5):
        process.memory.tick()
    assert process.level == (False, False)
    assert not process.holders


def test_packets_in_flight_count() -> None:
    process = Process()
    process.size += 920
    assert process.level == (False, False)  # nobody holds it
    process.in_flight = 920
    assert process.level == (True, True)


def test_who_holds_much_in_flight_is_cut_before_who_holds_a_little() -> None:
    process = Process()
    slow = [Holder(process, 2) for _ in range(20)]
    fat = [Holder(process, 0, 100) for _ in range(10)]
    assert process.level == (False, False)
    assert process.holders == [*slow, *fat[3:]]
    assert process.counters.memory_clients_cut == 3


def test_nobody_is_cut_for_what_others_hold() -> None:
    """Bytes of packets whose clients have gone are free when workers answer; who holds next to nothing can't help."""
    process = Process()
    little = [Holder(process, 0, 0) for _ in range(20)]
    process.in_flight = 990
    process.size += 990
    assert process.level == (True, True)
    assert process.holders == little


def test_of_who_was_cut_nothing_is_kept_be_it_with_a_worker() -> None:
    crew = Crew()
    worker = crew.worker("a", max_in_flight=2)
    cut, other = crew.client(), crew.client()
    crew.send(cut, 1)
    crew.send(cut, 1, kind=Kind.NOTIFY)
    crew.run()
    crew.send(cut, 1, 1)
    crew.send(cut, 1, kind=Kind.NOTIFY)
    crew.send(other, 1)
    cut.session.is_forfeit = True
    with_worker = worker.in_flight
    crew.leave(cut)
    crew.pass_time(0.1)
    crew.dispatcher.drop_forfeit()
    assert [packet.body for packet in with_worker] == [b"", b""]
    assert cut.session.in_flight == 0
    assert [lane.session for lane in worker.link.pool.slow] == [other.session]
    assert (crew.counters.cancelled, crew.counters.notifies_dropped) == (3, 2)
    worker.answer_all()
    crew.run()
    assert [packet.lane.session for packet in worker.in_flight] == [other.session]


async def test_clients_with_open_requests_are_cut_and_slow_uploaders_are_not(house: House) -> None:  # noqa: F811
    go_on = asyncio.Event()
    worker = echo()

    @worker.on(2)
    async def slow(request: Request) -> bytes:
        await go_on.wait()
        return b""

    await house.worker(worker)
    gateway = await house.gateway(
        ListenerConfig(port=0, packet_timeout_s=60),
        memory_limit="1MiB",
        routes=(RouteConfig(commands="*", deadline_ms=60_000),),
    )
    growth = 0
    gateway._memory._growth = lambda: growth  # type: ignore[method-assign]
    packet = encode(Kind.REQUEST, 1, 1, bytes(2500))
    uploaders = [await house.socket(gateway) for _ in range(5)]
    for _, writer in uploaders:
        writer.write(packet[:-1])
    fat = [await house.socket(gateway) for _ in range(18)]
    for _, writer in fat:
        writer.write(encode(Kind.REQUEST, 2, 1, bytes(60_000)))
    await until(lambda: gateway._dispatcher.bytes_held() == 18 * 60_000)
    await until(lambda: sum(each.held for each in gateway._connections()) == 5 * (len(packet) - 1))
    growth = 2 << 20
    await until(lambda: gateway.counters.memory_clients_cut > 0)
    await until(lambda: gateway.counters.cancelled == gateway.counters.memory_clients_cut)
    assert gateway._dispatcher.bytes_held() < 0.8 * (1 << 20)
    await until(lambda: not gateway._memory.is_tight)
    for reader, writer in uploaders:
        writer.write(packet[-1:])
        [(kind, _, _, body)] = await read_packets(reader, 1)
        assert (kind, body) == (Kind.REPLY, bytes(2500))
    assert gateway.counters.memory_clients_cut == 5  # as many as must be
    go_on.set()


def test_what_many_share_counts_once() -> None:
    """All hold the same push: the process has not grown by what adding up finds."""
    process = Process()
    for _ in range(100):
        Holder(process, 100)
    process.size = 500 + 600
    assert process.level == (False, False)


def test_what_comes_between_two_ticks_is_seen() -> None:
    process = Process()
    Holder(process, 940)
    process.memory.took(10)
    assert not process.memory.refuses
    process.memory.took(20)
    assert process.memory.refuses


def test_what_comes_where_others_were_cut_is_seen_though_the_process_does_not_grow() -> None:
    process = Process()
    process.scan_s = 10.0
    fat = [Holder(process, 160) for _ in range(6)]
    process.memory.tick()
    assert process.holders == fat[1:]
    for _ in range(8):
        Holder(process, 40)
        process.size = 500 + 960  # it keeps what was freed
        process.memory.took(40)
    assert process.counters.memory_clients_cut == 3
    assert process.holders[:3] == fat[3:]


def test_packets_in_flight_of_who_was_cut_do_not_count_until_the_next_tick() -> None:
    process = Process()
    held = [Holder(process, 20, 180) for _ in range(5)]
    process.memory.tick()
    assert process.holders == held[1:]
    process.in_flight = 900  # theirs are dropped with the next tick
    process.size = 500 + 1000
    process.memory.took(200)
    assert process.holders == held[1:]


def test_adding_up_takes_a_tenth_of_the_time_at_most() -> None:
    process = Process()
    process.scan_s = 0.16
    Holder(process, 600)
    process.tick(100)  # ten seconds, and what adding up took
    assert process.scans <= 0.11 * process.now / process.scan_s
    assert process.scans >= 5


def test_between_two_looks_growth_counts_and_much_of_it_is_a_reason_to_look() -> None:
    process = Process()
    process.scan_s = 10.0
    small = Holder(process, 600)
    process.tick(1)
    assert process.scans == 1
    process.size += 320
    process.tick(1)
    assert (process.scans, process.memory.is_tight, process.memory.refuses) == (1, True, True)
    fat = Holder(process, 700)
    process.tick(1)
    assert process.scans == 2
    assert (process.holders, process.memory.refuses) == ([small], False)
    assert fat not in process.holders


def test_where_the_size_is_unknown_it_is_added_up_rarely() -> None:
    process = Process(None)
    process.scan_s = 0.16
    process.tick(200)
    assert 1 <= process.scans <= 3


def test_all_packets_count_that_wait_or_are_with_workers() -> None:
    """Whatever lane they wait in, whoever has gone; and those that a worker never answers, while we keep them."""
    body = bytes(1000)
    config = GatewayConfig(
        routes=(RouteConfig(commands="1", order="none"), RouteConfig(commands="2", notify_delivery="at-least-once"))
    )
    crew = Crew(config)
    worker = crew.worker("a", max_in_flight=2)
    held = crew.dispatcher.bytes_held

    def say(client: Client, command: int, kind: Kind = Kind.REQUEST, count: int = 1) -> None:
        client.offer([(int(kind), command, seq, body) for seq in range(count)])
        crew.run()

    with_worker, free, leaves = crew.client(), crew.client(), crew.client()
    say(with_worker, 2, count=2)
    assert len(worker.in_flight) == 2
    assert held() == 2000
    say(with_worker, 2)  # queued at the link, or in its lane
    say(free, 1)
    say(leaves, 2, Kind.NOTIFY)
    assert held() == 5000
    crew.leave(leaves)
    assert held() == 5000
    crew.pass_time(6)
    assert len(worker.link.expired) == 2
    assert held() == 2000 + 1000 * sum(len(lane.waiting) for lane in worker.link.pool.slow)


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "4096\n"}, 4096),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "max\n"}, None),
        (
            {
                "proc/self/cgroup": "5:cpu:/x\n4:memory:/a/b\n0::/\n",
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "9000\n",
                "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "8192\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            8192,
        ),
        ({"proc/self/cgroup": "4:memory:/docker/1f\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "5000\n"}, 5000),
        ({"proc/self/cgroup": "0::/../../x\n", "sys/fs/cgroup/memory.max": "6000\n"}, 6000),
        ({}, None),
    ],
    ids=["v2", "v2 unlimited", "v1, the least", "v1 in a container", "v2 in a container", "none"],
)
def test_the_least_limit_of_the_control_groups_counts(tmp_path: Path, files: dict[str, str], limit: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    machine = available_memory(tmp_path / "nothing")
    assert available_memory(tmp_path) == (machine if limit is None else limit)


def test_the_size_of_this_process_is_known() -> None:
    size = resident_memory()()
    assert size is None or 1 << 20 < size < 1 << 40


def test_sizes() -> None:
    assert [parse_size(each) for each in (5, "5", "2KiB", "256MiB", "3 GiB")] == [5, 5, 2048, 256 << 20, 3 << 30]
    with pytest.raises(ConfigError, match="such as 256MiB"):
        GatewayConfig(memory_limit="256MB")
    with pytest.raises(ConfigError, match="must be from"):
        GatewayConfig(memory_limit=5)


def test_a_packet_that_many_have_counts_once() -> None:
    crew = Crew()
    sessions = [crew.client().session for _ in range(10)]
    packets = [bytes(1000) + bytes([number]) for number in range(20)]
    for session in sessions:
        session.out += packets
    del packets
    assert sum(session.held for session in sessions) == pytest.approx(20 * 1000, rel=0.01)
    sessions[0].out.append(bytes(5000))
    assert max(sessions, key=lambda each: each.held) is sessions[0]
    assert 6900 <= sessions[0].held <= 7100


async def test_a_full_gateway_refuses_packets_and_clients_and_recovers(house: House) -> None:  # noqa: F811
    await house.worker(echo())
    gateway = await house.gateway(memory_limit="1MiB")
    here = await house.client(gateway)
    assert await here.request(1, b"fine") == b"fine"
    held = 0
    gateway._memory._growth = lambda: held  # type: ignore[method-assign]
    gateway._memory._in_flight = lambda: held
    held = 930 << 10
    gateway._memory.tick()
    await until(lambda: gateway._dispatcher.out_of_memory)
    with pytest.raises(ReplyError, match="the gateway is full") as refused:
        await here.request(1, b"more")
    assert refused.value.status == Status.RESOURCE_EXHAUSTED
    reader, _ = await house.socket(gateway)
    [(kind, _, _, body)], _ = Decoder(1 << 20, allowed=FROM_GATEWAY).decode(await reader.read())
    assert (kind, decode_error(body)[0]) == (Kind.ERROR, Status.RESOURCE_EXHAUSTED)
    assert gateway.counters.memory_refused == 2
    held = 0
    await until(lambda: not gateway._dispatcher.out_of_memory)
    assert await here.request(1, b"again") == b"again"


async def test_nobody_new_is_read_while_memory_is_tight(house: House) -> None:  # noqa: F811
    await house.worker(echo())
    gateway = await house.gateway(memory_limit="1MiB")
    here = await house.client(gateway)
    held = 850 << 10
    gateway._memory._growth = lambda: held  # type: ignore[method-assign]
    gateway._memory._in_flight = lambda: held
    gateway._memory.tick()
    asked = gateway.counters.requests
    waiting = encode(Kind.REQUEST, 1, 1, b"")
    reader, writer = await house.socket(gateway)
    writer.write(waiting)
    [listener] = gateway._listeners
    await until(lambda: len(listener._held_back) == 1)
    for _ in range(20):
        assert await here.request(1, b"served") == b"served"
    assert gateway.counters.requests == asked + 20
    held = 0
    assert await reader.readexactly(len(waiting))


async def test_who_waited_is_let_in_little_by_little(house: House) -> None:  # noqa: F811
    """What they bring is seen when they have been read; so not all of them are read at once."""
    await house.worker(echo())
    gateway = await house.gateway(memory_limit="1MiB")
    held = 850 << 10
    gateway._memory._growth = lambda: held  # type: ignore[method-assign]
    gateway._memory._in_flight = lambda: held
    gateway._memory.tick()
    writers = [(await house.socket(gateway))[1] for _ in range(30)]
    [listener] = gateway._listeners
    await until(lambda: len(listener._held_back) == 30)
    held = 0
    gateway._memory.tick()
    listener.sweep(listener.now)
    assert len(listener._held_back) == 29
    for writer in writers:
        writer.write(encode(Kind.REQUEST, 1, 1, b""))
    await until(lambda: len(listener.connections) == 30)
    assert not listener._held_back
