"""Keep one entry registered for as long as its owner lives."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from typing import Self

from .entry import Entry, RegistryError
from .outage import Outage
from .pace import backoff_s
from .registry import Registry

REREGISTER_S = 60.0
LOOK_EVERY_S = 2.0
NOTE_EVERY_S = 10.0
LEAVE_S = 2.0

_logger = logging.getLogger(__name__)


class Registration:
    """Registers the entry, keeps it registered, and deregisters it at the end.

    Every 60 s ± 20 % it registers anew; in between it looks every 2 s whether the entry is still there, since an agent
    that restarts without a data directory forgets what it was told. With a TTL check, looking is renewing. A registry
    that is down, at start too, is no reason to stop: it goes on trying. Entering waits for the end of the first try
    only; `wait` is for those who must know. Leaving takes 4 s at most, twice `leave_s`, and never raises. `note` is
    asked every 10 s for a line that people read beside the entry. `at_first` says for the log what it means that
    the registry has not answered yet.
    """

    def __init__(
        self,
        registry: Registry,
        entry: Entry,
        note: Callable[[], str] | None = None,
        *,
        at_first: str = "",
        look_every_s: float | None = None,  # LOOK_EVERY_S
        leave_s: float | None = None,  # LEAVE_S
    ) -> None:
        self.entry = entry
        self._note = note
        self._look_every_s = LOOK_EVERY_S if look_every_s is None else look_every_s
        self._leave_s = LEAVE_S if leave_s is None else leave_s
        self._registry = registry
        self._outage = Outage(
            _logger,
            f"{entry.id} is not registered anew",
            at_first or f"{entry.id} is not registered yet",
            f"{entry.id} is registered",
        )
        self._tried = asyncio.Event()
        self._registered = asyncio.Event()
        self._leaving = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def is_registered(self) -> bool:
        """Whether the registry had the entry when it was last asked."""
        return self._registered.is_set()

    async def wait(self) -> None:
        """Wait until the entry is registered."""
        await self._registered.wait()

    async def __aenter__(self) -> Self:
        self._keeper = asyncio.create_task(self._keep())
        try:
            await self._tried.wait()
        except asyncio.CancelledError:
            await self._leave()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._leave()

    async def _leave(self) -> None:
        assert self._keeper is not None
        self._leaving.set()
        # Not cancelled at once: a registration that is under way must not arrive after the deregistration.
        await asyncio.wait((self._keeper,), timeout=self._leave_s)
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)
        try:
            async with asyncio.timeout(self._leave_s):
                await self._registry.deregister(self.entry.id)
        except (RegistryError, TimeoutError) as error:
            _logger.info("%s could not be deregistered: %s", self.entry.id, error or "no answer in time")

    async def _keep(self) -> None:
        failures = 0
        again = False
        while not self._leaving.is_set():
            try:
                await self._registry.register(self.entry, with_note=self._note is not None, again=again)
                again = True
                self._outage.ended("")
                failures = 0
                self._registered.set()
                self._tried.set()
                await self._until_lost_or_due()
            except RegistryError as error:
                failures += 1
                self._outage.failed("", error)
                self._registered.clear()
                self._tried.set()
                await self._sleep(backoff_s(failures))

    async def _until_lost_or_due(self) -> None:
        loop = asyncio.get_running_loop()
        due_at = loop.time() + REREGISTER_S * random.uniform(0.8, 1.2)
        if self.entry.check == "ttl":
            await self._registry.renew(self.entry.id)
        note_at = loop.time()
        while loop.time() < due_at and not self._leaving.is_set():
            if self._note is not None and loop.time() >= note_at:
                await self._registry.note(self.entry.id, self._note())
                note_at = loop.time() + NOTE_EVERY_S
            await self._sleep(self._look_every_s)
            if self._leaving.is_set():
                return
            if self.entry.check == "ttl":
                await self._registry.renew(self.entry.id)
            elif not await self._registry.is_registered(self.entry.id):
                _logger.warning("the registry lost %s; it is registered again", self.entry.id)
                return

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._leaving.wait()
