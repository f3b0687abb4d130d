"""A thread that watches the loop, and says where it stands still.

A handler that blocks the loop blocks all sessions of the worker, and after 2.5 s its gateways give the worker up. By
then the log must say which handler it was. Only the loop's stack knows: noting each handler would cost every request.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from types import CodeType, FrameType
from typing import Any

from .program import Handler
from .request import Request

log = logging.getLogger("gatecrew.worker")

EVERY_S = 0.25
STILL_S = 1.0
PUNCTUAL_S = 0.05  # a beat that is later than this says nothing about what else the loop had time for
MAX_FRAMES = 40  # of the stack, the innermost

# From the variables of a frame to the request whose handler runs in it.
Finder = Callable[[Mapping[str, Any]], tuple[Request, Handler] | None]


class Watch:
    """Watches the current loop from `start` to `close`.

    Args:
        finders: the functions in which handlers run, by their code.
        look: called on the loop EVERY_S.
    """

    def __init__(self, finders: dict[CodeType, Finder], look: Callable[[], None]) -> None:
        self._finders = finders
        self._look = look
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._beat_at = -math.inf  # monotonic seconds, as all times here
        self._watched_at = -math.inf
        self._stood_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="loop watch", daemon=True)

    def start(self) -> None:
        self._beat()
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        if self._timer is not None:
            self._timer.cancel()

    def watched_at(self) -> float:
        """A time at which the loop ran well, and since which it has served what was there."""
        return self._watched_at

    def _beat(self) -> None:
        now = time.monotonic()
        gap_s = now - self._beat_at
        if gap_s < EVERY_S + PUNCTUAL_S:
            self._watched_at = self._beat_at
        elif gap_s > STILL_S:
            self._stood_s = gap_s
        self._beat_at = now
        self._timer = self._loop.call_later(EVERY_S, self._beat)
        self._look()

    # In the thread.

    def _watch(self) -> None:
        seen, misses, place = self._beat_at, 0, None
        while not self._closed.wait(EVERY_S):
            if self._beat_at != seen:
                if place is not None:
                    log.warning("the loop runs again: it stood still for %.1f s%s", self._stood_s, place)
                seen, misses, place = self._beat_at, 0, None
                continue
            # Counted, since a process that was stopped as a whole wakes up here before its loop has a turn.
            misses += 1
            if place is None and misses * EVERY_S >= STILL_S:
                place = self._tell()

    def _tell(self) -> str:
        innermost = sys._current_frames().get(self._loop_thread)
        place = self._place(innermost)
        stack = "".join(traceback.format_stack(innermost)[-MAX_FRAMES:]) if innermost is not None else ""
        log.warning("the loop stood still for %g s%s; its stack:\n%s", STILL_S, place, stack.rstrip())
        return place

    def _place(self, frame: FrameType | None) -> str:
        """` in charge(), command 102, request 1000000001-7`, as far as the stack shows it."""
        while frame is not None:
            finder = self._finders.get(frame.f_code)
            found = None if finder is None else finder(frame.f_locals)
            if found is not None:
                request, handler = found
                return f" in {handler.name}(), {request.what}"
            frame = frame.f_back
        return ""
