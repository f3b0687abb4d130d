"""The index of blocking queries and how often they may be repeated. Time is an argument here."""

import pytest

from gatecrew_registry.pace import MAX_BACKOFF_S, Pace, backoff_s, next_index

pytestmark = pytest.mark.quick


def test_next_index() -> None:
    assert next_index(0, 7) == 7
    assert next_index(7, 7) == 7
    assert next_index(7, 9) == 9
    assert next_index(100, 5) == 0  # another history
    assert next_index(0, 0) == 1  # zero would not block
    assert next_index(1, 0) == 0


def requests_in_a_minute(answered: list[int]) -> int:
    """How often a query is asked in 60 s if each answer comes at once; the answers repeat."""
    pace, now, asked, count = Pace(wait_s=55), 0.0, 0, 0
    while now < 60:
        index = answered[min(count, len(answered) - 1)]
        now += pace.delay_s(asked, index, 0.001, now)
        asked = next_index(asked, index)
        count += 1
    return count


def test_a_registry_that_does_not_block_is_asked_ten_times_a_minute_at_most() -> None:
    assert requests_in_a_minute([100]) <= 10
    assert requests_in_a_minute([0]) <= 10
    assert requests_in_a_minute([100, 100, 5, 5]) <= 10
    assert requests_in_a_minute([100, 100, 100, 0]) <= 10


def test_a_busy_cluster_is_asked_ten_times_at_once_then_once_a_second() -> None:
    assert 60 <= requests_in_a_minute(list(range(1, 1000))) <= 72


def test_a_query_that_blocks_for_its_time_is_never_delayed() -> None:
    pace, now = Pace(wait_s=55), 0.0
    for took_s in [55.0] * 50 + [28.0] * 50:
        now += took_s
        assert pace.delay_s(7, 7, took_s, now) == 0


def test_a_registry_that_blocks_again_is_asked_at_full_speed() -> None:
    for answered, took_s in ((8, 0.001), (7, 55.0)):
        pace = Pace(wait_s=55)
        delays = [pace.delay_s(7, 7, 0.001, 0) for _ in range(8)]
        assert delays == [0, 1, 2, 4, 8, 15, 15, 15]
        assert pace.delay_s(7, answered, took_s, 0) == 0
        assert pace.delay_s(8, 8, 0.001, 0) == 0


def test_backoff_grows_and_is_bounded() -> None:
    assert 0.1 <= backoff_s(1) <= 0.3
    for failures in (6, 10, 10_000):
        assert MAX_BACKOFF_S / 2 <= backoff_s(failures) <= MAX_BACKOFF_S * 1.5
