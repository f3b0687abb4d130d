"""Those who wait until something has become true."""

from __future__ import annotations

import asyncio


class Waiters:
    """Woken all together; each then looks again, since what woke it may be over."""

    __slots__ = ("_futures", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._futures: list[asyncio.Future[None]] = []

    def __bool__(self) -> bool:
        return bool(self._futures)

    async def wait(self) -> None:
        future = self._loop.create_future()
        self._futures.append(future)
        await future

    def wake(self) -> None:
        for future in self._futures:
            if not future.done():
                future.set_result(None)
        self._futures.clear()
