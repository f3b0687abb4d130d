"""Attacks that go on for ten seconds, and what bystanders feel of them, measured by a probe in a process of its own.

The control is a process that is as busy as the attacker and sends nothing: on a small machine that alone is felt.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import Process

from survival.client import REPLY, connected
from survival.cluster import TESTS, Cluster, Gateway, eventually
from survival.commands import QUERY
from survival.probe import Phase, probing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

MIB = 1 << 20
HELD_S = 10.0
CONTROL_S = 5.0
WORSE_MS = 50.0  # the others' p99, at most


@pytest.fixture
def attack(start: Callable[..., Process]) -> Callable[..., Process]:
    def begin(kind: str, address: str, number: int = 0) -> Process:
        process = start([sys.executable, "-m", "survival.attacker", kind, address, str(number)], {}, TESTS)
        process.wait_line("^attacking$")
        return process

    return begin


def descriptors(gateway: Gateway) -> int:
    return len(list(Path(f"/proc/{gateway.process.pid}/fd").iterdir()))


def sessions(gateway: Gateway) -> int:
    return sum(each.sessions for each in gateway.status().listeners)


def assert_unharmed(control: Phase, attacked: Phase) -> None:
    """Nobody was refused or lost, and nobody waited; what the probe itself was late says how busy the machine is."""
    assert (attacked.errors, attacked.unanswered) == (0, 0), attacked
    assert attacked.p99_ms <= control.p99_ms + WORSE_MS + 2 * attacked.own_p99_ms, f"{attacked}; control: {control}"


@pytest.mark.parametrize(
    ("kind", "number", "counter"),
    [
        ("pings", 0, "flooding_clients_cut"),
        ("pongs", 0, "flooding_clients_cut"),
        ("notifies", 0, "notifies_dropped"),
        ("empty requests", 0, "requests"),
        ("refused requests", 0, "errors"),
        ("wire errors", 0, "wire_errors"),
        ("deaf", 20, "slow_clients_cut"),
        ("connects", 33, "sessions_opened"),
        ("connects", 100, "sessions_opened"),
    ],
)
def test_bystanders_feel_nothing(
    cluster: Cluster,
    attack: Callable[..., Process],
    measured: Callable[[str], None],
    kind: str,
    number: int,
    counter: str,
) -> None:
    gateway = cluster.gateway
    with probing(gateway.address) as probe:
        eventually(lambda: sessions(gateway) == 10, "only the probe is here")
        memory, open_before, counted = gateway.memory(), descriptors(gateway), gateway.counter(counter)
        spin = attack("spin", gateway.address)
        probe.phase()
        time.sleep(CONTROL_S)
        control = probe.phase()
        spin.close()
        attacker = attack(kind, gateway.address, number)
        probe.phase()
        time.sleep(HELD_S)
        attacked = probe.phase()
        attacker.close()
        measured(f"attacked: {attacked}; control: {control}; {attacker.lines[-1]}")
        eventually(lambda: sessions(gateway) == 10, "all of the attacker are gone")
        eventually(lambda: descriptors(gateway) <= open_before + 1, "the descriptors are back")
        eventually(lambda: gateway.memory() - memory < 32 * MIB, "the memory is back")
    assert_unharmed(control, attacked)
    assert gateway.counter(counter) > counted


def test_ten_thousand_who_say_nothing(
    cluster: Cluster, attack: Callable[..., Process], measured: Callable[[str], None]
) -> None:
    """From one address, as many as the listener takes: they are gone soon, and make place for newcomers before that."""
    count = 10_000
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < count + 200:
        pytest.skip("NOT TESTED: ten thousand silent clients; too few file descriptors")
    gateway = cluster.gateway
    with probing(gateway.address) as probe:
        eventually(lambda: sessions(gateway) == 10, "only the probe is here")
        open_before, cut = descriptors(gateway), gateway.counter("silent_clients_cut")
        spin = attack("spin", gateway.address)
        probe.phase()
        time.sleep(CONTROL_S)
        control = probe.phase()
        spin.close()
        probe.phase()
        attacker = attack("silent", gateway.address, count)
        began = time.monotonic()

        def is_let_in() -> bool:
            with connected(gateway.address) as client:
                try:
                    return client.ask(QUERY, b"s 1 x n").kind == REPLY
                except ConnectionError:
                    return False

        eventually(is_let_in, "a newcomer is let in")
        let_in_s = time.monotonic() - began
        eventually(lambda: sessions(gateway) == 10, "the silent ones are gone")
        gone_s = time.monotonic() - began
        attacked = probe.phase()
        attacker.close()
        measured(f"a newcomer came in after {let_in_s:.1f} s, all silent ones were gone after {gone_s:.1f} s")
        measured(f"attacked: {attacked}; control: {control}")
        eventually(lambda: descriptors(gateway) <= open_before + 1, "the descriptors are back")
        assert gateway.counter("silent_clients_cut") - cut >= count - 100
    assert_unharmed(control, attacked)
