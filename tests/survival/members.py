"""Members of a group, in a process of their own: they join, read what is pushed as fast as they can, and count it.

python -m survival.members '{"address": "127.0.0.1:7000", "count": 300, "group": "all"}'

It prints `joined`, then after every SIGUSR1 a line of JSON, see Read; SIGTERM ends it. A pushed body begins with its
number: the members check that the numbers rise by one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import struct
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import uvloop
from processes import Process

from survival.commands import JOIN

HEADER = struct.Struct(">IBBHI")
NUMBER = struct.Struct(">I")
REQUEST, REPLY, PUSH = 0, 1, 3
TESTS = Path(__file__).parent.parent


@dataclass(frozen=True, kw_only=True)
class Setup:
    address: str  # of a listener
    count: int
    group: str


@dataclass(frozen=True, kw_only=True)
class Read:
    members: int  # that are still connected
    fewest: int  # pushes that one of those has got
    most: int
    disordered: int  # pushes whose number was not the next one


class Members:
    """The members' process, from the outside."""

    def __init__(self, setup: Setup) -> None:
        self.process = Process([sys.executable, "-m", "survival.members", json.dumps(asdict(setup))], {}, TESTS)
        self._asked = 0
        self.process.wait_line("^joined$")

    def read(self) -> Read:
        """What they have got until now."""
        self.process.send(signal.SIGUSR1)
        self._asked += 1
        return Read(**json.loads(self.process.wait_line("^read (.*)", count=self._asked)[1]))


@contextlib.contextmanager
def members_of(group: str, address: str, count: int) -> Iterator[Members]:
    members = Members(Setup(address=address, count=count, group=group))
    try:
        yield members
    finally:
        members.process.close()


# The rest runs in the members' process.


class Member(asyncio.Protocol):
    def __init__(self, group: str, joined: asyncio.Queue[None]) -> None:
        self.pushes = self.disordered = 0
        self.connected = True
        self._next: int | None = None
        self._group = group.encode()
        self._joined = joined
        self._tail = b""
        self._skip = 0  # bytes of a body that is not looked at

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        header = HEADER.pack(8 + len(self._group), REQUEST, 0, JOIN, 1)
        cast(asyncio.Transport, transport).write(header + self._group)

    def data_received(self, data: bytes) -> None:
        size = len(data)
        if self._skip >= size:
            self._skip -= size
            return
        data = self._tail + data[self._skip :]
        self._skip = at = 0
        while len(data) - at >= HEADER.size:
            length, kind, _, _, _ = HEADER.unpack_from(data, at)
            if kind == PUSH:
                if len(data) - at < HEADER.size + NUMBER.size:
                    break
                [number] = NUMBER.unpack_from(data, at + HEADER.size)
                self.disordered += self._next is not None and number != self._next
                self._next = number + 1
                self.pushes += 1
            elif kind == REPLY:
                self._joined.put_nowait(None)
            at += 4 + length
        self._skip = max(0, at - len(data))
        self._tail = data[at:]

    def connection_lost(self, error: Exception | None) -> None:
        self.connected = False


async def main(setup: Setup) -> None:
    loop = asyncio.get_running_loop()
    host, _, port = setup.address.rpartition(":")
    joined: asyncio.Queue[None] = asyncio.Queue()
    members = [
        (await loop.create_connection(lambda: Member(setup.group, joined), host, int(port)))[1]
        for _ in range(setup.count)
    ]
    for _ in members:
        await joined.get()

    def tell() -> None:
        left = [member for member in members if member.connected]
        read = Read(
            members=len(left),
            fewest=min((member.pushes for member in left), default=0),
            most=max((member.pushes for member in left), default=0),
            disordered=sum(member.disordered for member in members),
        )
        print("read", json.dumps(asdict(read)), flush=True)

    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, tell)
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    print("joined", flush=True)
    await stopping.wait()


if __name__ == "__main__":
    uvloop.run(main(Setup(**json.loads(sys.argv[1]))))
