"""Pushes to many: what they cost those who get nothing of them, those who read them, and those who do not read."""

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest
from processes import Process, gatecrew

from survival.client import Client, connected
from survival.cluster import TESTS, Cluster, eventually
from survival.commands import BURST, FLOOD_GROUP, JOIN
from survival.members import members_of
from survival.probe import Phase, Probe, probing

MIB = 1 << 20
CALM_S = 3.0
MORE_MS = 50  # what others may wait longer while a worker pushes
ROUNDS = 5  # a busy machine has bad moments: the best of so many counts
COUNT, SIZE = 46, 65_000  # a burst: 3 MiB


def calm(probe: Probe) -> Phase:
    probe.phase()
    time.sleep(CALM_S)  # measures, waits for nothing
    return probe.phase()


def harm(phase: Phase) -> float:
    """How long others waited, in ms, without what the machine itself was late by."""
    return phase.p99_ms - phase.own_p99_ms


def burst(client: Client, group: str, first: int = 0) -> None:
    client.ask(BURST, f"{group} {first} {COUNT} {SIZE}".encode())


def test_a_burst_to_members_who_read(cluster: Cluster, measured: Callable[[str], None]) -> None:
    """Each has all of it in order, none is cut, others notice nothing, and nobody's copy is kept."""
    members, gateway = 300, cluster.gateway
    cut = gateway.counter("slow_clients_cut")
    with (
        probing(gateway.address) as probe,
        members_of("readers", gateway.address, members) as group,
        connected(gateway.address) as client,
    ):
        before = calm(probe)
        gateway.forget_peak()
        memory = gateway.memory()
        phases = []
        for number in range(ROUNDS):
            burst(client, "readers", number * COUNT)
            eventually(lambda number=number: group.read().fewest == (number + 1) * COUNT, "all have all")  # type: ignore[misc]
            phases.append(probe.phase())
        grown = gateway.memory("VmHWM") - memory
        read = group.read()
    measured(f"calm {before}")
    for phase in phases:
        measured(f"burst of {phase.seconds:.1f} s: {phase}")
    measured(f"memory grew by {grown / MIB:.1f} MiB, {gateway.counter('slow_clients_cut') - cut} cut")
    assert (read.members, read.most, read.disordered) == (members, ROUNDS * COUNT, 0)
    assert gateway.counter("slow_clients_cut") == cut
    assert min(map(harm, phases)) <= before.p99_ms + MORE_MS
    assert grown < 64 * MIB


def test_a_burst_to_members_who_do_not_read(cluster: Cluster, measured: Callable[[str], None]) -> None:
    """Others notice nothing, what is pushed is kept once and not for each; who never reads is cut in the end."""
    members, gateway = 300, cluster.gateway
    cut = gateway.counter("slow_clients_cut")
    with contextlib.ExitStack() as stack:
        probe = stack.enter_context(probing(gateway.address))
        for _ in range(members):
            member = stack.enter_context(connected(gateway.address, receive_buffer=4096))
            member.ask(JOIN, b"deaf")
        client = stack.enter_context(connected(gateway.address))
        before = calm(probe)
        gateway.forget_peak()
        memory = gateway.memory()
        began = time.monotonic()
        burst(client, "deaf")
        eventually(lambda: gateway.counter("slow_clients_cut") - cut == members, "all are cut")
        took = time.monotonic() - began
        during = probe.phase()
        grown = gateway.memory("VmHWM") - memory
    measured(f"calm {before}")
    measured(f"burst, all cut after {took:.1f} s: {during}")
    measured(f"memory grew by {grown / MIB:.1f} MiB")
    assert harm(during) <= before.p99_ms + MORE_MS
    assert grown < 64 * MIB


@pytest.fixture
def flooder(cluster: Cluster) -> Iterator[None]:
    """A worker of a service of its own, linked."""
    gateway = cluster.gateway
    others = gateway.ready_links()
    process = Process(
        gatecrew("worker", "survival.flooder:worker", "--listen", "127.0.0.1:0"),
        {"CONSUL_HTTP_ADDR": cluster.registry_address},
        TESTS,
    )
    try:
        eventually(lambda: len(gateway.ready_links()) > len(others), "the flooder is linked")
        yield
    finally:
        process.close()
        eventually(lambda: gateway.ready_links() == others, "the flooder is gone")


@pytest.mark.usefixtures("flooder")
def test_a_worker_that_never_stops_pushing(cluster: Cluster, measured: Callable[[str], None]) -> None:
    """More than the gateway can write: that worker waits, who needs others notices nothing, memory stays."""
    members, count, gateway = 100, 400, cluster.gateway
    pushed = gateway.counter("pushes")
    with probing(gateway.address) as probe, connected(gateway.address) as client:
        before = calm(probe)
        gateway.forget_peak()
        memory = gateway.memory()
        phases = []
        for number in range(ROUNDS):
            with members_of(f"flooded{number}", gateway.address, members) as group:
                probe.phase()
                client.ask(FLOOD_GROUP, f"flooded{number} {count} {SIZE}".encode())
                whole = pushed + (number + 1) * count
                eventually(lambda whole=whole: gateway.counter("pushes") >= whole, "all is pushed")  # type: ignore[misc]
                phases.append(probe.phase())
                assert group.read().disordered == 0
        grown = gateway.memory("VmHWM") - memory
    measured(f"calm {before}")
    for phase in phases:
        measured(f"flood of {phase.seconds:.1f} s: {phase}")
    measured(f"memory grew by {grown / MIB:.1f} MiB")
    assert min(map(harm, phases)) <= before.p99_ms + MORE_MS
    assert grown < 64 * MIB
