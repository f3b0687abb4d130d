"""What pushes and other actions return: they are queued already, this is for who wants to wait."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Generator, Sequence
from typing import Any

from .outbox import STUCK_S, Outbox


class Sent:
    """An action that is on its way. Leaving it is fine.

    Awaiting it waits only while the gateways are behind by megabytes, and a few seconds at most, and for the receipt
    if one was asked for. The result is the number of sessions reached, 0 without a receipt.

    Example:
        reached = await worker.push_group("lobby", b"hello", receipt=True)
    """

    __slots__ = ("_outboxes", "_receipts")

    def __init__(self, outboxes: Sequence[Outbox], receipts: Sequence[asyncio.Future[int]]) -> None:
        self._outboxes = outboxes
        self._receipts = receipts

    def __await__(self) -> Generator[Any, None, int]:
        for outbox in self._outboxes:
            if outbox.is_full and not outbox.is_stuck:
                yield from _room(outbox).__await__()
        reached = 0
        for receipt in self._receipts:
            reached += yield from receipt
        return reached

    @property
    def is_done(self) -> bool:
        """Whether awaiting it would not wait."""
        return not self._receipts and not any(outbox.is_full for outbox in self._outboxes)

    def result(self, timeout_s: float | None = None) -> int:
        """The same as awaiting, for handlers that run in a thread.

        Args:
            timeout_s: seconds to wait at most.

        Returns:
            The number of sessions reached, 0 without a receipt.

        Raises:
            StatusError: there was nowhere to send it.
            TimeoutError: it took longer.
            RuntimeError: called on the loop's thread, which would wait for itself.
        """
        raise RuntimeError("on the event loop's thread, await it instead")


class SentFromThread(Sent):
    """An action that another thread has posted to the loop."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: concurrent.futures.Future[int] = concurrent.futures.Future()

    @property
    def is_done(self) -> bool:
        return self.future.done()

    def __await__(self) -> Generator[Any, None, int]:
        return asyncio.wrap_future(self.future).__await__()

    def result(self, timeout_s: float | None = None) -> int:
        return self.future.result(timeout_s)


async def _room(outbox: Outbox) -> None:
    try:
        async with asyncio.timeout(STUCK_S):
            await outbox.room()
    except TimeoutError:
        pass  # it is queued; a gateway that reads nothing is not waited for again
