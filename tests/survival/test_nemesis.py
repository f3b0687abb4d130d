"""Everything at once: faults of all kinds at random times, and everything that was promised still holds."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from survival.checks import CRASH_LATENCY_S, LOOP_STALL_S, slowest
from survival.cluster import Cluster
from survival.commands import GUARDED
from survival.history import Answered, History, begun_late, latencies, violations
from survival.nemesis import Fault, Nemesis, draw
from survival.probe import Phase, probing

WORKERS = 4
FAULTS_S = 15.0
FROZEN_FOUND_S = 3.0
PATIENT_MS = 20_000  # longer than two frozen workers after each other take
OFFERED, CAPACITY = 1600.0, 800.0  # requests a second; what GUARDED takes of four workers
LAST_ANSWERS_S = 60.0  # a session that waited in its socket has one request after the other handled
RECOVERED_S = 10.0
BEGUN_LATE = 0.05  # of those whose deadline has passed: the cancellation, or a clock's last millisecond, came late
BYSTANDERS_MS = 50.0
LOOKS = 12  # of two seconds, for the p99 to be what it was
FAILED_PRECONDITION = 9
OVERLOADED = {4: "deadline exceeded", 8: "resource exhausted", 14: "unavailable"}


@pytest.fixture(scope="module")
def module_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("nemesis")
    patient = f'[[route]]\ncommands = "1-9"\ndeadline_ms = {PATIENT_MS}\n'
    cluster = Cluster(directory, workers=WORKERS, settings=patient)
    yield cluster
    cluster.close()


@pytest.fixture
def faults(chance: random.Random, measured: Callable[[str], None]) -> list[Fault]:
    faults = draw(chance, FAULTS_S, WORKERS)
    measured(", ".join(f"{count} x {what}" for what, count in Counter(fault.what for fault in faults).most_common()))
    print(*faults, sep="\n")
    return faults


@pytest.mark.row(65)
@pytest.mark.timeout(180)
def test_faults_at_random_times(cluster: Cluster, faults: list[Fault], measured: Callable[[str], None]) -> None:
    stalls = cluster.gateway.counter("loop_stalls")
    with probing(cluster.gateway.address) as probe, cluster.load(rate=1000, burst=4) as (load, history):
        load.wait_answers(1000)
        calm = probe.phase()
        Nemesis(cluster).run(faults)
        faulty = probe.phase()
        load.wait_answers(1000)
        after = [probe.phase()]
        while not well_again(calm, after[-1]) and len(after) < LOOKS:  # a busy machine
            load.wait_answers(2000)
            after.append(probe.phase())
    stalls = cluster.gateway.counter("loop_stalls") - stalls
    for name, phase in (("calm", calm), ("under faults", faulty), ("after", after[-1])):
        measured(f"{name}: {phase}")
    assert_kept_but_for_quarantine(history, faults)
    assert calm.unanswered == faulty.unanswered == after[-1].unanswered == 0
    assert well_again(calm, after[-1])
    frozen_s = sum(fault.lasts_s for fault in faults if fault.what == "freeze gateway")
    longest = slowest(history, measured, f"{len(faults)} faults, {len(history.again)} executed again")
    assert longest <= 2 * FROZEN_FOUND_S + CRASH_LATENCY_S + frozen_s + stalls * LOOP_STALL_S


def well_again(calm: Phase, after: Phase) -> bool:
    return after.p99_ms <= calm.p99_ms + BYSTANDERS_MS + after.own_p99_ms


def assert_kept_but_for_quarantine(history: History, faults: list[Fault]) -> None:
    """A packet that was with two workers when they fell looks as if it had felled them; a worker that falls takes one
    suspect with it.
    """
    broken = violations(history)
    assert not broken, f"{len(broken)} violations, the first: {broken[0]}"
    assert not history.ended, f"{history.ended[0]}"
    others = [error for error in history.errors if not is_quarantined(error)]
    assert not others, f"{len(others)} errors, the first: {others[0]}"
    assert len(history.errors) <= sum(fault.what in ("kill", "freeze") for fault in faults) / 2


def is_quarantined(error: Answered) -> bool:
    return error.status == FAILED_PRECONDITION and error.reason.startswith("quarantined")


@pytest.mark.row(65)
@pytest.mark.timeout(240)
def test_faults_while_there_is_too_much_to_do(
    cluster: Cluster, faults: list[Fault], measured: Callable[[str], None]
) -> None:
    """Twice what the workers can do: everything has one outcome, and refusing ends with the load."""
    with cluster.load(commands=[[GUARDED]], rate=OFFERED, burst=4, last_answers_s=LAST_ANSWERS_S) as (_, history):
        Nemesis(cluster).run(faults)
    broken = violations(history)
    assert not broken, f"{len(broken)} violations, the first: {broken[0]}"
    assert not history.ended, f"{history.ended[0]}"
    others = [error for error in history.errors if error.status not in OVERLOADED and not is_quarantined(error)]
    assert not others, f"{len(others)} other errors, the first: {others[0]}"
    until = history.sent[-1].at
    seconds = until - history.sent[0].at
    good = sum(not answer.status and answer.at <= until for answer in history.answered)
    counts = Counter(OVERLOADED.get(error.status, "quarantined") for error in history.errors)
    measured(f"{good / seconds:.0f}/s of {len(history.sent) / seconds:.0f}/s answered well; {dict(counts)}")
    late = [seconds for _, seconds in begun_late(history)]
    measured(f"{len(late)} begun after their deadline, {max(late, default=0) * 1000:.0f} ms at most")
    assert len(late) <= counts["deadline exceeded"] * BEGUN_LATE
    # The deadline begins when the gateway reads a packet, which it does later then.
    longest = latencies(history)[0].ours
    measured(f"the slowest outcome after {longest:.1f} s")

    began_at = time.monotonic()
    with cluster.load(commands=[[GUARDED]], rate=CAPACITY / 2, burst=4) as (load, history):
        while time.monotonic() < began_at + RECOVERED_S:
            load.wait_answers(100)
        recovered_at = time.monotonic()
        load.wait_answers(1000)
    late = [error for error in history.errors if error.at > recovered_at]
    last = max((error.at for error in history.errors), default=began_at)
    measured(f"the last error {last - began_at:.1f} s after the load has gone")
    assert not late, f"{len(late)} errors, the first: {late[0]}"


def test_a_seed_repeats_its_faults() -> None:
    first, again, other = (draw(random.Random(seed), 600, WORKERS) for seed in (1, 1, 2))
    assert first == again != other
    assert {fault.what for fault in first} == {fault.what for fault in other}  # every kind
    assert [fault.at_s for fault in first] == sorted(fault.at_s for fault in first)
