"""A retry budget: retries may be a share of the requests plus a small floor, so that they never become the outage.

Finagle's figures: 20 % of requests plus 10 a second.
"""


class RetryBudget:
    __slots__ = ("_at", "_tokens")

    RATIO = 0.2
    PER_SECOND = 10.0
    MOST = 2000.0  # tokens that can be saved up

    def __init__(self) -> None:
        self._tokens = self.PER_SECOND
        self._at = 0.0

    def earn(self, requests: int) -> None:
        self._tokens = min(self.MOST, self._tokens + requests * self.RATIO)

    def spend(self, now: float) -> bool:
        """Whether one more retry may be made now (seconds, any monotonic clock)."""
        if self._at:
            self._tokens = min(self.MOST, self._tokens + (now - self._at) * self.PER_SECOND)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
