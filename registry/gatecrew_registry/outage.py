"""Log that the registry does not answer: at once, then at most once a minute; and that it answers again."""

import logging
import time

from .entry import NoAnswer

LOG_EVERY_S = 60.0


class Outage:
    """The failing requests of one user of the registry, by a name for each.

    Args:
        consequence: what an outage means for the reader of the log.
        at_first: the same before the first answer.
        then: what is so once the first answer has come after all.
    """

    def __init__(self, logger: logging.Logger, consequence: str, at_first: str, then: str = "") -> None:
        self._logger = logger
        self._consequence = consequence
        self._at_first = at_first
        self._then = then
        self._has_answered = False
        self._failing: dict[str, float] = {}  # since when
        self._logged_at: float | None = None

    def failed(self, name: str, error: Exception) -> None:
        now = time.monotonic()
        since = self._failing.setdefault(name, now)
        if self._logged_at is not None and now - self._logged_at < LOG_EVERY_S:
            return
        self._logged_at = now
        if self._has_answered:
            self._logger.warning("%s; %s (for %.0f s)", error, self._consequence, now - since)
        else:
            do = "Start it, or set CONSUL_HTTP_ADDR; tried" if isinstance(error, NoAnswer) else "Tried"
            self._logger.warning("%s: %s. %s again by itself", error, self._at_first, do)

    def ended(self, name: str) -> None:
        since = self._failing.pop(name, None)
        if since is not None and not self._failing:
            if self._has_answered:
                self._logger.info("the registry answers again, after %.0f s", time.monotonic() - since)
            else:
                self._logger.info("the registry answers%s", self._then and f"; {self._then}")
        self._has_answered = True

    def forget(self, name: str) -> None:
        """The request is no longer made."""
        self._failing.pop(name, None)
