"""The checker finds every kind of bad history, and nothing in good ones. A checker that can't fail proves nothing."""

from dataclasses import replace
from pathlib import Path

import pytest

from survival.history import (
    Answered,
    Ended,
    Executed,
    Finished,
    History,
    Pushed,
    Record,
    Sent,
    Stall,
    begun_late,
    body_of,
    latencies,
    read,
    to_line,
    violations,
)

pytestmark = pytest.mark.quick


def sent(seq: int, session: str = "a", at: float | None = None, command: int = 1, oneway: bool = False) -> Sent:
    when = float(seq) if at is None else at
    return Sent(session, seq, command, f"secret-of-{session}", f"n{session}{seq}", when, oneway)


def executed(seq: int, session: str = "a", at: float | None = None, attempt: int = 0, command: int = 1) -> Executed:
    when = seq + 0.1 if at is None else at
    return Executed(
        f"w{attempt}", attempt, session, seq, f"n{session}{seq}", command, attempt, f"g{session}", f"k{seq}", when
    )


def finished(seq: int, session: str = "a", at: float | None = None) -> Finished:
    return Finished(0, session, seq, f"n{session}{seq}", seq + 0.2 if at is None else at)


def answered(seq: int, session: str = "a", at: float | None = None, status: int = 0) -> Answered:
    when = seq + 0.3 if at is None else at
    return Answered(session, seq, status, when, "" if status else body_of(sent(seq, session)))


def whole(seq: int, session: str = "a", command: int = 1) -> list[Record]:
    return [
        sent(seq, session, command=command),
        executed(seq, session, command=command),
        finished(seq, session),
        answered(seq, session),
    ]


GOOD = [record for session in "ab" for seq in (1, 2, 3) for record in whole(seq, session)]


def found(records: list[Record], **routes: tuple[int, ...]) -> list[str]:
    return [violation.what for violation in violations(History.of(records), **routes)]


def test_a_good_history_has_no_violations() -> None:
    assert found(GOOD) == []
    assert found(GOOD, at_most_once=(1,), strict=(1,)) == []
    assert found([*GOOD, Pushed("a", "secret-of-a", 9.0)]) == []


def test_a_failover_is_no_violation() -> None:
    """Two in flight when the worker dies: both again, as one block, the first of them for the second time."""
    records: list[Record] = [
        *(sent(seq, at=0.0) for seq in (1, 2, 3)),
        executed(1, at=1.0),
        executed(1, at=2.0, attempt=1),
        executed(2, at=2.1, attempt=1),
        executed(3, at=2.2),
        *(answered(seq, at=3.0) for seq in (1, 2, 3)),
    ]
    assert found(records) == []


def test_a_frozen_worker_that_goes_on_after_its_successor_is_no_violation() -> None:
    records: list[Record] = [sent(1), executed(1, at=2.0, attempt=1), answered(1, at=3.0), executed(1, at=9.0)]
    assert found(records) == []


def test_a_notify_needs_no_answer_and_no_execution() -> None:
    assert found([*GOOD, sent(4, oneway=True)]) == []
    assert found([*GOOD, sent(4, oneway=True), executed(4)]) == []


BAD: dict[str, tuple[str, list[Record]]] = {
    "no answer": ("lost", [sent(4), executed(4)]),
    "two answers": ("twice", [answered(3, at=5.0)]),
    "an error after a reply": ("twice", [answered(3, at=5.0, status=14)]),
    "an answer to nothing": ("unasked", [answered(9)]),
    "an answer to a notify": ("unasked", [sent(4, oneway=True), executed(4), answered(4)]),
    "another session's reply": ("leak", [sent(4), executed(4), replace(answered(4), echo=body_of(sent(3, "b")))]),
    "another request's reply": ("garbled", [sent(4), executed(4), replace(answered(4), echo=body_of(sent(3)))]),
    "an empty reply": ("garbled", [sent(4), executed(4), replace(answered(4), echo="")]),
    "another session's push": ("leak", [Pushed("a", "secret-of-b", 9.0)]),
    "a push of nobody's": ("leak", [Pushed("a", "secret-of-z", 9.0)]),
    "a reply that no worker made": ("unexecuted", [sent(4), answered(4)]),
    "the same attempt twice": ("repeated", [executed(3, at=3.2)]),
    "another key for the same packet": ("repeated", [replace(executed(3, at=3.2, attempt=1), key="other")]),
    "a notify twice": ("again", [sent(4, oneway=True), executed(4), executed(4, at=4.2, attempt=1)]),
    "never sent": ("garbled", [executed(9)]),
    "another nonce": ("garbled", [sent(4), replace(executed(4), nonce="other"), answered(4)]),
    "a newer one first": (
        "order",
        [sent(4), sent(5), executed(5, at=6.0), executed(4, at=7.0), answered(4), answered(5)],
    ),
    "a newer one first, on another worker": (
        "order",
        [sent(4), sent(5), executed(5, at=6.0), executed(4, at=7.0, attempt=1), answered(4), answered(5)],
    ),
    "two sessions of the gateway": ("mixed", [sent(4), replace(executed(4), gateway_session="other"), answered(4)]),
    "two connections in one session": ("mixed", [sent(4), replace(executed(4), gateway_session="gb"), answered(4)]),
}


@pytest.mark.parametrize("name", BAD)
def test_it_finds(name: str) -> None:
    what, records = BAD[name]
    assert found([*GOOD, *records]) == [what]


def test_it_finds_at_most_once_packets_that_ran_twice() -> None:
    records: list[Record] = [*GOOD, executed(3, at=3.2, attempt=1)]
    assert found(records) == []
    assert found(records, at_most_once=(1,)) == ["again"]


def test_order_is_not_asked_of_what_begins_when_its_client_has_been_given_up_on() -> None:
    given_up = answered(1, at=2.0, status=4)
    records = [sent(1), given_up, *whole(2), executed(1, at=2.5), finished(1, at=2.6)]
    assert found(records) == []
    assert [late for _, late in begun_late(History.of(records))] == [0.5]
    assert found([*records, executed(1, at=1.9, attempt=1)]) == []  # it was in time
    in_time = [sent(1), answered(1, at=3.0, status=4), *whole(2), executed(1, at=2.5), finished(1, at=2.6)]
    assert found(in_time) == ["order"]


def test_order_is_not_asked_of_routes_that_have_none() -> None:
    records: list[Record] = [sent(1), sent(2), executed(2, at=3.0), executed(1, at=4.0), answered(1), answered(2)]
    assert found(records) == ["order"]
    assert found(records, unordered=(1,)) == []


def test_it_finds_strict_packets_begun_too_early() -> None:
    pair: list[Record] = [sent(1), sent(2), answered(1, at=9.0), answered(2, at=9.0)]
    in_time: list[Record] = [*pair, executed(1, at=2.0), finished(1, at=3.0), executed(2, at=4.0)]
    assert found(in_time, strict=(1,)) == []
    unfinished: list[Record] = [*pair, executed(1, at=2.0), executed(2, at=3.0), finished(1, at=4.0)]
    assert found(unfinished) == []
    assert found(unfinished, strict=(1,)) == ["strict"]
    begun_again: list[Record] = [*in_time, executed(1, at=5.0, attempt=1)]
    assert found(begun_again, strict=(1,)) == ["strict"]


def test_errors_and_redeliveries_are_told() -> None:
    history = History.of([*GOOD, executed(3, at=3.2, attempt=1), sent(4), answered(4, status=14)])
    assert [(answer.seq, answer.status) for answer in history.errors] == [(4, 14)]
    assert [execution.seq for execution in history.again] == [3]


def test_latency_leaves_out_what_the_machine_stood_still() -> None:
    records: list[Record] = [
        sent(1, at=10.0),
        answered(1, at=12.0),
        sent(2, at=20.0),
        answered(2, at=20.5),
        Stall(at=9.0, took=1.5),  # of which half a second after the request was sent
        Stall(at=10.2, took=0.5),  # overlaps the first by 0.3 s
        Stall(at=11.9, took=5.0),  # and 0.1 s of this one
        Stall(at=30.0, took=1.0),
    ]
    slowest, other = latencies(History.of(records))
    assert (slowest.sent.seq, slowest.took) == (1, 2.0)
    assert slowest.ours == pytest.approx(2.0 - 0.7 - 0.1)
    assert (other.sent.seq, other.took, other.ours) == (2, 0.5, 0.5)


def test_a_file_gives_back_what_was_written_and_drops_half_a_line(tmp_path: Path) -> None:
    records = [*GOOD, Pushed("a", "s", 1.0), Ended("a", "why", 2.0), Stall(3.0, 4.0)]
    file = tmp_path / "history"
    file.write_bytes(b"".join(map(to_line, records)) + to_line(records[0])[:-5])
    assert list(read(file)) == records
