"""Run a watch and keep every list that it gave."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from gatecrew_registry import Registry, Snapshot, Timing

PATIENCE_S = 30.0  # generous: it only ends a test that has failed already
# A wait as short as a test can bear, and losses judged fast; the grace is long, so that a test never passes by it.
QUICK = Timing(wait_s=2.0, slack_s=3.0, settle_s=0.1, grace_s=600.0, pause_s=0.1, backoff_s=0.02)


class Seen:
    def __init__(self) -> None:
        self.all: list[Snapshot] = []
        self._changed = asyncio.Condition()

    @property
    def last(self) -> Snapshot | None:
        return self.all[-1] if self.all else None

    async def follow(self, snapshots: AsyncIterator[Snapshot]) -> None:
        async for snapshot in snapshots:
            async with self._changed:
                self.all.append(snapshot)
                self._changed.notify_all()

    async def until(self, is_so: Callable[[Snapshot], object]) -> Snapshot:
        """Wait until the newest list is so; return it."""
        try:
            async with asyncio.timeout(PATIENCE_S), self._changed:
                await self._changed.wait_for(lambda: bool(self.all) and is_so(self.all[-1]))
        except TimeoutError:
            raise AssertionError(f"not seen; the lists were {[dict(each) for each in self.all]}") from None
        return self.all[-1]

    async def ids(self, *ids: str) -> Snapshot:
        """Wait until exactly these instances are listed."""
        return await self.until(lambda snapshot: ids_of(snapshot) == set(ids))


def ids_of(snapshot: Snapshot) -> set[str]:
    return {entry.id for entries in snapshot.values() for entry in entries}


@asynccontextmanager
async def watching(registry: Registry, tag: str, timing: Timing = QUICK) -> AsyncIterator[Seen]:
    seen = Seen()
    task = asyncio.create_task(seen.follow(registry.watch(tag, timing)))
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled(), f"the watch ended by itself: {task!r}"


async def soon(is_so: Callable[[], object], what: str) -> None:
    """For what cannot notify: ask until it is so."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not is_so():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(what) from None
