"""How long to wait before a worker is tried again, and how many may be tried at once. Pure: the clock is handed in.

A worker that was linked lately and comes back must be used within a second. One that was never linked, or not for long,
is in the registry by mistake as likely as not: it is asked ever less often, until its entry changes.
"""

from __future__ import annotations

FIRST_S = 0.1
FIRST_OF_A_STRANGER_S = 0.3
GROWTH = 2
MOST_S = 1.0  # for a worker that was linked in the last KNOWN_FOR_S
MOST_OF_A_STRANGER_S = 30.0
KNOWN_FOR_S = 300.0
PATIENT_S = 2.0  # who waits so long is not in a hurry
MOST_ATTEMPTS = 256
MOST_PATIENT_ATTEMPTS = 32


class Retry:
    """The pauses of one worker."""

    def __init__(self) -> None:
        self._pause_s = FIRST_OF_A_STRANGER_S
        self._known_until = 0.0

    @property
    def is_patient(self) -> bool:
        return self._pause_s > PATIENT_S

    def failed(self, now: float) -> float:
        """An attempt has failed; returns the seconds from its start to the next one."""
        most_s = MOST_S if now < self._known_until else MOST_OF_A_STRANGER_S
        pause_s = min(self._pause_s, most_s)
        self._pause_s = min(pause_s * GROWTH, most_s)
        return pause_s

    def linked(self, now: float) -> None:
        self._known_until = now + KNOWN_FOR_S

    def reset(self) -> None:
        """There is a reason to try again: a new entry, or a link that has held."""
        self._pause_s = FIRST_S


class Attempts:
    """How many links are being opened. Those who try for the first time go before those who have waited for long."""

    def __init__(self) -> None:
        self._count = 0

    def begin(self, is_patient: bool) -> bool:
        """Whether one more may be; then `end` must follow."""
        if self._count >= (MOST_PATIENT_ATTEMPTS if is_patient else MOST_ATTEMPTS):
            return False
        self._count += 1
        return True

    def end(self) -> None:
        self._count -= 1
