"""Follow a registry: which services have a tag, and their instances, by blocking queries.

One task asks which services there are, one more for each service asks for its instances. All tell `LastKnownGood`;
the reader of `snapshots` gets what that believes. No answer and no failure of the registry ends a watch.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from .entry import Entry, RegistryError, is_name
from .last_good import LastKnownGood
from .outage import Outage
from .pace import MIN_BACKOFF_S, PAUSE_S, Pace, backoff_s, next_index
from .snapshot import Snapshot

_logger = logging.getLogger(__name__)
_Data = TypeVar("_Data")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long a query blocks, how long a loss is doubted, and how soon is asked again; seconds."""

    wait_s: float = 55.0
    slack_s: float = 5.0
    settle_s: float = 0.5
    grace_s: float = 30.0
    pause_s: float = PAUSE_S  # the unit of the pace of queries that come back at once
    backoff_s: float = MIN_BACKOFF_S  # after a first failure; it doubles

    @property
    def timeout_s(self) -> float:
        """A blocking query's answer comes up to a sixteenth after its time: Consul spreads the ends."""
        return self.wait_s * 17 / 16 + self.slack_s


@dataclass(frozen=True, slots=True)
class Answer(Generic[_Data]):
    """The answer to a blocking query and the index that it is as of."""

    index: int
    data: _Data


class Source(Protocol):
    """The blocking queries that a watch asks. They raise RegistryError."""

    async def query_services(self, index: int, timing: Timing) -> Answer[dict[str, tuple[str, ...]]]: ...

    async def query_instances(self, service: str, tag: str, index: int, timing: Timing) -> Answer[dict[str, Entry]]: ...


class Watch:
    """One watch. Its tasks live from the first snapshot that is asked for until `aclose`."""

    def __init__(self, source: Source, tag: str, timing: Timing) -> None:
        self._source = source
        self._tag = tag
        self._timing = timing
        self._believed = LastKnownGood(timing.settle_s, timing.grace_s)
        self._outage = Outage(_logger, "the last known list stays", "there is no list yet")
        self._changed = asyncio.Event()
        self._closed = False
        self._is_listed = False  # the registry has told once which services there are
        self._refused: set[str] = set()  # services with names that no path should carry
        self._unheard: set[str] = set()  # services whose first query is still out
        self._followers: dict[str, asyncio.Task[None]] = {}  # by service
        self._tasks: set[asyncio.Task[None]] = set()  # the followers, those that are being cancelled, and the root

    async def aclose(self) -> None:
        """Cancel the queries and wait for their end; `snapshots` then ends too."""
        self._closed = True
        self._changed.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def snapshots(self) -> AsyncGenerator[Snapshot, None]:
        loop = asyncio.get_running_loop()
        self._start(self._follow("", partial(self._source.query_services, timing=self._timing), self._on_services))
        last: Snapshot | None = None
        while not self._closed:
            self._changed.clear()
            judge_at = self._believed.judge(loop.time())
            # The first snapshot waits for one answer or failure per service, else it would grow one by one.
            if self._is_listed and not (last is None and self._unheard):
                snapshot = self._believed.snapshot()
                if snapshot != last:
                    last = snapshot
                    yield snapshot
                    continue
            with suppress(TimeoutError):  # it is time to judge a loss again
                async with asyncio.timeout_at(judge_at):
                    await self._changed.wait()

    def _start(self, coroutine: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _follow(
        self,
        service: str,
        query: Callable[[int], Awaitable[Answer[_Data]]],
        on_answer: Callable[[_Data, bool], None],
    ) -> None:
        """Ask for ever; hand each answer on, with whether it is doubtful. `service` is "" for the list of services."""
        loop = asyncio.get_running_loop()
        pace = Pace(self._timing.wait_s, self._timing.pause_s)
        index = 0
        failures = 0
        while True:
            asked_at = loop.time()
            try:
                answer = await query(index)
            except RegistryError as error:
                failures += 1
                index = 0
                self._outage.failed(service, error)
                delay_s = backoff_s(failures, self._timing.backoff_s)
            else:
                self._outage.ended(service)
                on_answer(answer.data, failures > 0 or answer.index < index)
                failures = 0
                delay_s = pace.delay_s(index, answer.index, loop.time() - asked_at, loop.time())
                index = next_index(index, answer.index)
            self._unheard.discard(service)
            self._changed.set()
            await asyncio.sleep(delay_s)

    def _on_services(self, services: Mapping[str, tuple[str, ...]], doubtful: bool) -> None:
        self._is_listed = True
        tagged = {service for service, tags in services.items() if self._tag in tags}
        refused = {service for service in tagged if not is_name(service)}
        if refused != self._refused:
            self._refused = refused
            if refused:
                _logger.warning("service names that are not of A-Z a-z 0-9 . _ - are left out: %s", _some(refused))
        tagged -= refused
        for service in self._followers.keys() - tagged:
            self._followers.pop(service).cancel()
            self._outage.forget(service)
            self._unheard.discard(service)
            self._on_instances(service, {}, doubtful)
        for service in tagged - self._followers.keys():
            self._unheard.add(service)
            query = partial(self._source.query_instances, service, self._tag, timing=self._timing)
            self._followers[service] = self._start(self._follow(service, query, partial(self._on_instances, service)))

    def _on_instances(self, service: str, instances: Mapping[str, Entry], doubtful: bool) -> None:
        self._believed.hear(service, instances, asyncio.get_running_loop().time(), doubtful)


def _some(names: set[str]) -> str:
    """For one line of a log, whatever is in them and however many there are."""
    shown = [repr(name[:64]) for name in sorted(names)[:3]]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
