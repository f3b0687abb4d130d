"""Which losses are believed at once, and which are held back. Time is an argument here, in seconds."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatecrew_registry import Entry, last_good
from gatecrew_registry.last_good import LastKnownGood

SETTLE, GRACE = 0.5, 30.0


def listing(*ports: int, service: str = "chat", host: str = "h") -> dict[str, Entry]:
    return {f"{service}-{port}": Entry(service=service, id=f"{service}-{port}", host=host, port=port) for port in ports}


def ports(view: LastKnownGood) -> dict[str, list[int]]:
    return {service: [entry.port for entry in entries] for service, entries in view.snapshot().items()}


def heard(**listings: Mapping[str, Entry]) -> LastKnownGood:
    view = LastKnownGood(SETTLE, GRACE)
    for service, instances in listings.items():
        view.hear(service, instances, 0, doubtful=False)
    assert view.judge(0) is None
    return view


def test_additions_and_changes_are_believed_at_once() -> None:
    view = heard(chat=listing(1))
    view.hear("chat", listing(1, 2, host="elsewhere"), 1, doubtful=True)
    assert view.judge(1) is None
    assert [(entry.port, entry.host) for entry in view.snapshot()["chat"]] == [(1, "elsewhere"), (2, "elsewhere")]


def test_a_single_loss_leaves_after_the_settling_time() -> None:
    for left, before in ((listing(), listing(1)), (listing(1), listing(1, 2)), (listing(1, 2), listing(1, 2, 3))):
        view = heard(chat=before)
        view.hear("chat", left, 1, doubtful=False)
        assert view.judge(1) == 1 + SETTLE
        assert len(view.snapshot()["chat"]) == len(before)
        assert view.judge(1 + SETTLE) is None
        assert len(view.snapshot().get("chat", ())) == len(left)


def test_half_may_leave_together_and_more_than_half_may_not() -> None:
    view = heard(chat=listing(1, 2, 3, 4))
    view.hear("chat", listing(1, 2), 1, doubtful=False)
    view.judge(1 + SETTLE)
    assert ports(view) == {"chat": [1, 2]}

    view = heard(chat=listing(1, 2, 3))
    view.hear("chat", listing(1), 1, doubtful=False)
    assert view.judge(1 + SETTLE) == 1 + GRACE
    assert ports(view) == {"chat": [1, 2, 3]}
    assert view.judge(1 + GRACE) is None
    assert ports(view) == {"chat": [1]}


def test_one_that_is_listed_again_never_left() -> None:
    view = heard(chat=listing(1, 2, 3))
    view.hear("chat", {}, 1, doubtful=False)
    view.hear("chat", listing(1, 2, 3), 20, doubtful=False)
    assert view.judge(20) is None
    view.hear("chat", {}, 29, doubtful=False)
    assert view.judge(40) == 29 + GRACE
    assert ports(view) == {"chat": [1, 2, 3]}


def test_replaced_instances_are_no_loss() -> None:
    view = heard(chat=listing(1, 2, 3))
    view.hear("chat", listing(4, 5, 6), 1, doubtful=False)
    assert ports(view) == {"chat": [1, 2, 3, 4, 5, 6]}
    view.judge(1 + SETTLE)
    assert ports(view) == {"chat": [4, 5, 6]}


def test_one_by_one_is_believed_and_all_in_one_moment_is_not() -> None:
    view = heard(chat=listing(1, 2, 3))
    for now, left in ((10, listing(1, 2)), (20, listing(1)), (30, listing())):
        view.hear("chat", left, now, doubtful=False)
        view.judge(now)
        assert view.judge(now + SETTLE) is None
    assert ports(view) == {}

    view = heard(chat=listing(1, 2, 3))
    for now, left in ((10.0, listing(1, 2)), (10.1, listing(1)), (10.2, listing())):
        view.hear("chat", left, now, doubtful=False)
        view.judge(now)
    assert view.judge(11) == 10 + GRACE
    assert ports(view) == {"chat": [1, 2, 3]}


def test_the_whole_registry_is_judged_too() -> None:
    services = {name: listing(1, service=name) for name in "abcd"}
    view = heard(**services)
    for name in "abc":
        view.hear(name, {}, 1, doubtful=False)
    assert view.judge(1 + SETTLE) == 1 + GRACE
    assert ports(view) == {name: [1] for name in "abcd"}

    view = heard(**services)
    for name in "ab":
        view.hear(name, {}, 1, doubtful=False)
    assert view.judge(1 + SETTLE) is None
    assert ports(view) == {"c": [1], "d": [1]}


def test_a_doubtful_answer_takes_nobody_away_at_once() -> None:
    view = heard(chat=listing(1))
    view.hear("chat", {}, 1, doubtful=True)
    view.hear("chat", {}, 2, doubtful=False)
    assert view.judge(1 + SETTLE) == 1 + GRACE
    assert ports(view) == {"chat": [1]}
    assert view.judge(1 + GRACE) is None
    assert ports(view) == {}


def test_who_left_beyond_doubt_is_named() -> None:
    view = heard(chat=listing(1, 2, 3, 4, 5))
    view.hear("chat", listing(2, 3, 4, 5), 1, doubtful=False)
    view.judge(1 + SETTLE)
    assert view.snapshot().deregistered == {"chat-1"}
    view.hear("chat", listing(3, 4, 5), 10, doubtful=True)  # the first answer after an outage
    view.judge(10 + GRACE)
    assert ports(view) == {"chat": [3, 4, 5]}
    assert view.snapshot().deregistered == {"chat-1"}
    view.hear("chat", listing(3), 50, doubtful=False)  # most of them at once
    view.judge(50 + GRACE)
    assert ports(view) == {"chat": [3]}
    assert view.snapshot().deregistered == {"chat-1"}
    view.hear("chat", listing(1, 3), 90, doubtful=False)
    view.judge(90)
    assert view.snapshot().deregistered == set()


def test_as_many_as_fit_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_good, "MAX_DEREGISTERED", 2)
    view = heard(chat=listing(*range(10)))
    for number in range(4):
        view.hear("chat", listing(*range(number + 1, 10)), number, doubtful=False)
        view.judge(number + SETTLE)
    assert view.snapshot().deregistered == {"chat-2", "chat-3"}


_ports = st.sets(st.integers(1, 6))
_answers = st.lists(st.tuples(st.sampled_from("ab"), _ports, st.floats(0, 40), st.booleans()), max_size=12)


@given(_answers)
def test_what_is_listed_is_believed_and_in_the_end_nothing_else(
    answers: list[tuple[str, set[int], float, bool]],
) -> None:
    view = LastKnownGood(SETTLE, GRACE)
    now = 0.0
    listed: dict[str, set[int]] = {}
    for service, numbers, passed, doubtful in answers:
        now += passed
        view.judge(now)
        view.hear(service, listing(*numbers, service=service), now, doubtful)
        listed[service] = numbers
        again_at = view.judge(now)
        believed = {name: set(found) for name, found in ports(view).items()}
        assert all(numbers <= believed.get(name, set()) for name, numbers in listed.items())
        assert (again_at is None) == (believed == {name: found for name, found in listed.items() if found})
        assert again_at is None or now < again_at <= now + GRACE
    assert view.judge(now + GRACE) is None
    assert {name: set(found) for name, found in ports(view).items()} == {
        n: found for n, found in listed.items() if found
    }
