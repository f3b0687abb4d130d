"""What the tests demand of a history."""

from __future__ import annotations

from collections.abc import Callable

from survival.history import History, latencies, violations

CRASH_LATENCY_S = 0.5  # nobody waits longer than this when a worker crashes
LOOP_STALL_S = 1.5  # a gateway that stood still itself gives every worker so much more time


def assert_kept(history: History) -> None:
    """All promises of the default routes, no error, and every client stayed."""
    broken = violations(history)
    assert not broken, f"{len(broken)} violations, the first: {broken[0]}"
    assert not history.errors, f"{len(history.errors)} errors, the first: {history.errors[0]}"
    assert not history.ended, f"{history.ended[0]}"


def slowest(history: History, measured: Callable[[str], None], what: str) -> float:
    """The longest latency, without the machine's own stalls."""
    found = latencies(history)
    raw = max(each.took for each in found)
    stalled = sum(stall.took for stall in history.stalls)
    measured(
        f"{what}: {len(found)} requests, slowest {found[0].ours * 1000:.0f} ms"
        f" ({raw * 1000:.0f} ms with the machine's stalls, {stalled * 1000:.0f} ms in all)"
    )
    return found[0].ours
