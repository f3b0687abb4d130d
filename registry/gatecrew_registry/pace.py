"""When to ask a registry again: the index of blocking queries, the guard against busy loops, and back-off.

Pure: no clock, no I/O.
"""

import random

MAX_BACKOFF_S = 5.0
MIN_BACKOFF_S = 0.2
PAUSE_S = 1.0
MAX_FRUITLESS_S = 15.0


def next_index(asked: int, answered: int) -> int:
    """The index to ask with next. One that went backwards is of another history: ask afresh. Zero would not block."""
    if answered < asked:
        return 0
    return max(answered, 1)


def backoff_s(failures: int, first_s: float = MIN_BACKOFF_S) -> float:
    """Seconds to wait after the n-th failure in a row, doubling, spread by ±50 %, 5 s on average at most."""
    return min(MAX_BACKOFF_S, first_s * (1 << min(failures - 1, 10))) * random.uniform(0.5, 1.5)


class _TokenBucket:
    def __init__(self, burst: int, refill_s: float) -> None:
        self._burst = burst
        self._refill_s = refill_s
        self._tokens = float(burst)
        self._counted_at: float | None = None

    def delay_s(self, now: float) -> float:
        """Take one token; return how long to wait until it is there."""
        if self._counted_at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._counted_at) / self._refill_s)
        self._counted_at = now
        self._tokens -= 1
        return max(0.0, -self._tokens * self._refill_s)


class Pace:
    """How fast one blocking query may be repeated.

    An answer with a newer index is what a busy cluster gives: ten at once, then one a second. One whose index stood
    still or went back, and that came before half its time, is from a registry that does not block: two at once, then
    after 1, 2, 4, 8 and each 15 seconds. `pause_s` is what these seconds are multiples of.
    """

    def __init__(self, wait_s: float, pause_s: float = PAUSE_S) -> None:
        self._wait_s = wait_s
        self._pause_s = pause_s
        self._newer = _TokenBucket(burst=10, refill_s=pause_s)
        self._fruitless = 0

    def delay_s(self, asked: int, answered: int, took_s: float, now: float) -> float:
        """Seconds to wait before the next query, after one that took `took_s`."""
        if answered > asked:
            if asked > 0:  # an answer to 0 comes at once from any registry
                self._fruitless = 0
            return self._newer.delay_s(now)
        if took_s >= self._wait_s / 2:
            self._fruitless = 0
            return 0.0
        self._fruitless += 1
        return (
            0.0 if self._fruitless == 1 else min(MAX_FRUITLESS_S, self._pause_s * 2.0 ** min(self._fruitless - 2, 10))
        )
