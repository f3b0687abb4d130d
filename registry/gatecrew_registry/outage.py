"""Log that the registry does not answer: at once, then at most once a minute; and that it answers again."""

import logging
import time

LOG_EVERY_S = 60.0


class Outage:
    """The failing requests of one user of the registry, by a name for each."""

    def __init__(self, logger: logging.Logger, consequence: str) -> None:
        self._logger = logger
        self._consequence = consequence  # what this means for the reader of the log
        self._failing: dict[str, float] = {}  # since when
        self._logged_at: float | None = None

    def failed(self, name: str, error: Exception) -> None:
        now = time.monotonic()
        since = self._failing.setdefault(name, now)
        if self._logged_at is None or now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            self._logger.warning("%s; %s (for %.0f s)", error, self._consequence, now - since)

    def ended(self, name: str) -> None:
        since = self._failing.pop(name, None)
        if since is not None and not self._failing:
            self._logger.info("the registry answers again, after %.0f s", time.monotonic() - since)

    def forget(self, name: str) -> None:
        """The request is no longer made."""
        self._failing.pop(name, None)
