"""What the tests demand of a history, and ask of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise

from survival.checks import slowest
from survival.history import Executed, History, violations

from hosts.commands import ONCE, ONE_AT_A_TIME

ABORTED = 10
FOUND_S = 3.0  # a worker is given up within this time from when it was heard last
MOVED_S = FOUND_S + 1.0  # and what it had is answered by another one, after the long ones that are before it
UNTOUCHED_S = 2.0  # who had packets at a worker that is lost waits longer than this


def assert_promised(history: History) -> None:
    """Every promise of every kind of packet. Only what may run once at most has an unknown outcome, no other error."""
    broken = violations(history, at_most_once=ONCE, strict=ONE_AT_A_TIME)
    assert not broken, f"{len(broken)} violations, the first: {broken[0]}"
    assert not history.ended, f"{history.ended[0]}"
    commands = {(each.session, each.seq): each.command for each in history.sent}
    for error in history.errors:
        assert commands[error.session, error.seq] in ONCE, f"{error}"
        assert error.status == ABORTED, f"{error}"
        assert error.reason.startswith("outcome unknown"), f"{error}"
    for each in executed_again(history):
        for before, after in pairwise(each):
            assert before.attempt < after.attempt, f"an older attempt began after a newer one: {each}"


def assert_untouched(history: History, measured: Callable[[str], None], what: str) -> None:
    """No client noticed anything, and no worker got anything twice."""
    assert_promised(history)
    assert not history.errors, f"{history.errors[0]}"
    assert not history.again, f"{history.again[0]}"
    assert slowest(history, measured, what) <= UNTOUCHED_S


def executed_again(history: History) -> list[list[Executed]]:
    """All executions of each packet that was executed several times, in order of time."""
    executions: dict[tuple[str, int], list[Executed]] = defaultdict(list)
    for each in history.executed:
        executions[each.session, each.seq].append(each)
    return [each for each in executions.values() if len(each) > 1]


def executed_by(history: History, worker: str, since: float, until: float = float("inf")) -> int:
    """How many packets the worker began in that time."""
    return sum(each.worker == worker and since <= each.at <= until for each in history.executed)
