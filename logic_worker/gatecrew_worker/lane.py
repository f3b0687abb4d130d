"""One handler after another: what a lane's requests wait in."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .dispatch import Waiting


class Lane:
    """A session's requests run one after another; those of one worker, if it does one thing at a time.

    `busy` while a handler of the lane has been started and has not ended. What waits is started in order of arrival.
    """

    __slots__ = ("busy", "waiting")

    def __init__(self) -> None:
        self.busy = False
        self.waiting: deque[Waiting] = deque()
