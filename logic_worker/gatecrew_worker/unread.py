"""How long a message lay unread: in sockets and buffers, while the loop was blocked or behind."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

DRIFT = 1e-3  # how much faster than the other machine's a clock may run: NTP turns one by half of that at most


class Unread:
    """Finds out when a gateway's messages arrived, from the times at which it sent them.

    The two clocks have nothing in common but their pace. The least difference that was ever seen between reading and
    sending belongs to a message that was read at once; what another one has more than that, it lay unread.

    Args:
        watched_at: a time on our clock at which the loop ran: what had arrived before then was read before now.
    """

    def __init__(self, watched_at: Callable[[], float]) -> None:
        self._watched_at = watched_at
        self._offset_s = math.inf  # the least difference
        self._at = 0.0  # when that was brought up to date

    def arrived_at(self, sent_ms: int, asked_at: float) -> float:
        """When a message arrived that has been read just now. All times are seconds of our monotonic clock.

        Args:
            sent_ms: what it says; 0, as an older gateway does, counts as read at once.
            asked_at: when we began to wait for it.
        """
        now = time.monotonic()
        if not sent_ms:
            return now
        difference = now - sent_ms / 1000
        offset = min(difference, self._offset_s + (now - self._at) * DRIFT)
        watched_at = self._watched_at()
        if watched_at > asked_at:
            # It was not there yet then. So if it seems to be older, the gateway's clock has stood still meanwhile, as
            # that of a paused virtual machine does.
            offset = max(offset, difference - (now - watched_at))
        self._offset_s, self._at = offset, now
        return min(now, sent_ms / 1000 + offset)
