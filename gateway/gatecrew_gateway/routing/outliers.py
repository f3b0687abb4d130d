"""Which worker answers so much worse than the others of its service that it had better get nothing for a while.

A worker that beats and never answers, or that fails everything at once, is healthy to all other eyes, and with errors
that come fast it even attracts packets. Once a second each link's share of failures is looked at: requests that passed
their deadline there, and answers INTERNAL or UNAVAILABLE. Where the others fail as well it is the command that is
broken, and nobody is out. (Envoy's outlier detection.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .link import Link

EVERY_S = 1.0
LEAST = 5  # outcomes: fewer say nothing
BAD_SHARE = 0.5  # of failures among a worker's outcomes
WELL_SHARE = 0.25  # of failures among those of the others: below, it is the worker
OUT_S = 1.0  # times the number of times that it was out
MOST_OUT_S = 30.0
FORGIVEN_AFTER_S = 30.0  # without being out again, one of these times is forgotten
MEMORY = 0.5  # of what was counted until the last look


class Conduct:
    """How one link has done lately: outcomes and failures, older ones counting less."""

    __slots__ = ("_answered", "_failed", "bad", "forgiven_at", "outcomes", "times_out")

    def __init__(self) -> None:
        self.outcomes = self.bad = 0.0
        self.times_out = 0
        self.forgiven_at = 0.0
        self._answered = self._failed = 0  # at the last look

    def look(self, answered: int, failed: int) -> None:
        """`answered` and `failed` since the link's start; what failed without an answer is in `failed` only."""
        new = answered - self._answered
        bad = failed - self._failed
        self.outcomes = self.outcomes * MEMORY + max(new, bad)
        self.bad = self.bad * MEMORY + bad
        self._answered, self._failed = answered, failed

    @property
    def share(self) -> float:
        return self.bad / self.outcomes if self.outcomes >= LEAST else 0.0


def find(links: Iterable[Link], now: float) -> list[tuple[Link, float]]:
    """Those that should be out from now on, and for how many seconds. Never more than half are out at a time."""
    links = list(links)
    for link in links:
        link.conduct.look(link.answered, link.failed)
        if link.conduct.times_out and now >= link.conduct.forgiven_at:
            link.conduct.times_out -= 1
            link.conduct.forgiven_at = now + FORGIVEN_AFTER_S
    room = len(links) // 2 - sum(link.is_out for link in links)
    found = []
    for link in sorted(links, key=lambda link: link.conduct.share, reverse=True):
        if room <= 0 or link.conduct.share <= BAD_SHARE:
            break
        others = [other.conduct for other in links if other is not link and not other.is_out]
        bad, outcomes = sum(each.bad for each in others), sum(each.outcomes for each in others)
        if not link.is_out and outcomes >= LEAST and bad <= WELL_SHARE * outcomes:
            room -= 1
            conduct = link.conduct
            conduct.times_out += 1
            out_s = min(OUT_S * conduct.times_out, MOST_OUT_S)
            conduct.forgiven_at = now + out_s + FORGIVEN_AFTER_S
            found.append((link, out_s))
    return found
