"""How long somebody has been silent, counted in ticks of whoever listens.

While the listener stands still itself (stopped, a laptop asleep, a machine that stalls), nobody grows older.
"""

TICK_S = 0.25


class Silence:
    """`limit_s` is when it is too long."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.length_s = 0.0

    def heard(self) -> None:
        self.length_s = 0.0

    def tick(self, passed_s: float) -> bool:
        """So much time has passed since the last tick; returns whether it is too long now. A tick that comes late says
        that we stood still, and that what was said meanwhile is perhaps unread."""
        self.length_s += min(passed_s, 2 * TICK_S)
        return self.length_s >= self.limit_s
