"""Clients that ask at their pace, in the test's own process: so few packets that they disturb no measurement."""

from __future__ import annotations

import asyncio
import struct
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import quantiles

HEADER = struct.Struct(">IBBHI")
REQUEST, REPLY, ERROR = 0, 1, 4


@dataclass
class Answer:
    status: int  # 0: a reply
    body: bytes
    took_s: float
    at: float  # monotonic seconds


@dataclass
class Client:
    """One connection. Ends its requests in order of `seq`, whatever their order of arrival."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    _open: dict[int, tuple[float, asyncio.Future[Answer]]] = field(default_factory=dict)
    _seq: int = 0
    _reading: asyncio.Task[None] | None = None

    @staticmethod
    async def connect(address: str, source: str = "127.0.0.1") -> Client:
        host, _, port = address.rpartition(":")
        client = Client(*await asyncio.open_connection(host, int(port), local_addr=(source, 0)))
        client._reading = asyncio.create_task(client._read())
        return client

    def ask(self, command: int, body: bytes = b"") -> asyncio.Future[Answer]:
        self._seq += 1
        future = asyncio.get_running_loop().create_future()
        self._open[self._seq] = time.monotonic(), future
        self.writer.write(HEADER.pack(8 + len(body), REQUEST, 0, command, self._seq) + body)
        return future

    async def _read(self) -> None:
        try:
            while True:
                length, kind, _, _, seq = HEADER.unpack(await self.reader.readexactly(12))
                body = await self.reader.readexactly(length - 8)
                if kind in (REPLY, ERROR) and seq in self._open:
                    asked_at, future = self._open.pop(seq)
                    now = time.monotonic()
                    status = 0 if kind == REPLY else int.from_bytes(body[:2], "big")
                    if not future.done():
                        future.set_result(Answer(status, body, now - asked_at, now))
        except (asyncio.IncompleteReadError, ConnectionError):
            for asked_at, future in self._open.values():
                if not future.done():
                    future.set_result(Answer(-1, b"", time.monotonic() - asked_at, time.monotonic()))

    async def close(self) -> None:
        self.writer.close()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait((self._reading,))


async def connect(address: str, count: int, source: str = "127.0.0.1") -> list[Client]:
    return [await Client.connect(address, source) for _ in range(count)]


async def close(clients: Iterable[Client]) -> None:
    for client in clients:
        await client.close()


async def burst(clients: list[Client], command: int) -> tuple[float, list[Answer]]:
    """One request of each at once; returns the seconds until the last answer, and the answers."""
    began = time.monotonic()
    answers = await asyncio.gather(*(client.ask(command) for client in clients))
    return time.monotonic() - began, answers


async def steady(clients: list[Client], command: int, seconds: float, body: bytes = b"") -> list[Answer]:
    """Each has one open all the time."""
    until = time.monotonic() + seconds
    answers: list[Answer] = []

    async def one(client: Client) -> None:
        while time.monotonic() < until:
            answers.append(await client.ask(command, body))

    await asyncio.gather(*map(one, clients))
    return answers


async def at_rate(clients: list[Client], command: int, per_second: float, seconds: float) -> list[Answer]:
    """Sent at this rate whatever comes back, by each client in turn; returns all answers when all have come."""
    began = time.monotonic()
    asked: list[asyncio.Future[Answer]] = []
    while (passed := time.monotonic() - began) < seconds:
        while len(asked) < passed * per_second:
            asked.append(clients[len(asked) % len(clients)].ask(command))
        await asyncio.sleep(0.01)
    return list(await asyncio.gather(*asked))


def good(answers: Iterable[Answer]) -> list[Answer]:
    return [answer for answer in answers if answer.status == 0]


def shares(answers: Iterable[Answer]) -> Counter[str]:
    """Worker -> requests that it answered."""
    return Counter(answer.body.decode() for answer in good(answers))


def p99(answers: Iterable[Answer]) -> float:
    """Seconds."""
    return quantiles([answer.took_s for answer in answers], n=100)[98]
