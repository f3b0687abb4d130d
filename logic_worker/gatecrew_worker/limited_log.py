"""A log that a failing handler cannot flood."""

from __future__ import annotations

import logging
import time

from .request import Request

PER_SECOND = 10


class LimitedLog:
    """At most PER_SECOND errors a second; the first one after that says how many were left out."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._second = 0
        self._count = 0

    def error(self, text: str, about: object, error: BaseException | str) -> None:
        """Log an error about something, with the traceback if it is an exception."""
        second = int(time.monotonic())
        if second != self._second:
            left_out = self._count - PER_SECOND
            self._second, self._count = second, 0
            if left_out > 0:
                self._logger.error("%d more errors in a second were left out", left_out)
        self._count += 1
        if self._count <= PER_SECOND:
            if isinstance(error, BaseException):
                self._logger.error(text, about, exc_info=error, extra=_fields(about))
            else:
                self._logger.error(text, about, error, extra=_fields(about))


def _fields(about: object) -> dict[str, object]:
    """What a log for machines says besides the text."""
    if not isinstance(about, Request):
        return {}
    session = about.session
    return {
        "session": f"{session.id:x}",
        "user": session.user,
        "peer": session.peer,
        "command": about.command,
        "attempt": about.attempt,
        "request": about.idempotency_key,
    }
