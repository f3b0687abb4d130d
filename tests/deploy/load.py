"""Clients that ask all the time, and compare every answer with what it must be."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from gatecrew_cli.client import Client, ClientClosed, ReplyError

PATIENCE_S = 30.0  # generous: it only ends a test that has failed already
JOIN = 2  # of the chat worker: is answered with the room's name
ECHO = 101  # of the tour worker
OPEN = 4  # requests of each client at a time

_names = itertools.count(1)


@dataclass
class Load:
    """What came of it. A client whose connection ends is in `lost`, with its gateway, and asks no more."""

    answers: int = 0
    wrong: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    lost: list[tuple[str, str]] = field(default_factory=list)
    slowest_s: float = 0.0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait_answers(self, count: int) -> None:
        """Until so many more requests have been answered."""
        wanted = self.answers + count
        try:
            async with asyncio.timeout(PATIENCE_S):
                while self.answers < wanted:
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            raise AssertionError(f"{self.answers} answers instead of {wanted} within {PATIENCE_S} s: {self}") from None

    def assert_kept(self) -> None:
        """Every request was answered rightly, and every client stayed."""
        assert not self.wrong, f"{len(self.wrong)} wrong answers, the first: {self.wrong[0]}"
        assert not self.errors, f"{len(self.errors)} errors, the first: {self.errors[0]}"
        assert not self.lost, f"{len(self.lost)} clients lost, the first: {self.lost[0]}"


@contextlib.asynccontextmanager
async def load(
    gateways: Sequence[str], *, commands: Sequence[int] = (JOIN, ECHO), clients: int = 10, warm_up: int = 100
) -> AsyncIterator[Load]:
    """Ask for as long as the `async with` lasts, which begins after `warm_up` answers. Then what is open is awaited."""
    result = Load()
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for number in range(clients):
            tasks.create_task(_client(gateways[number % len(gateways)], commands, result, stop))
        try:
            await result.wait_answers(warm_up)
            yield result
        finally:
            stop.set()


async def _client(gateway: str, commands: Sequence[int], result: Load, stop: asyncio.Event) -> None:
    host, _, port = gateway.rpartition(":")
    async with await Client.connect(host, int(port)) as client:
        try:
            await asyncio.gather(*(_ask(client, commands, result, stop) for _ in range(OPEN)))
        except ClientClosed as reason:
            result.lost.append((gateway, str(reason)))


async def _ask(client: Client, commands: Sequence[int], result: Load, stop: asyncio.Event) -> None:
    clock = asyncio.get_running_loop().time
    while not stop.is_set():
        for command in commands:
            body = f"room-{next(_names)}".encode()
            asked_at = clock()
            try:
                answer = await client.request(command, body, timeout_s=PATIENCE_S)
            except ReplyError as error:
                result.errors.append(f"command {command}: {error}")
            except TimeoutError:
                result.errors.append(f"command {command}: no answer in {PATIENCE_S} s")
            else:
                result.answers += 1
                if answer != body:
                    result.wrong.append(f"command {command}, {body!r}: {answer!r}")
            result.slowest_s = max(result.slowest_s, clock() - asked_at)
            result.changed.set()
            # A load that anybody can bear: how fast it goes is the benchmark's question.
            await asyncio.sleep(0.005)
