"""The worker that is killed, frozen and replaced: writes down what it executes, and echoes.

Records go to the file by one write each, so that those of a killed worker are all there.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from gatecrew_worker import Request, Worker
from survival.commands import (
    AT_MOST_ONCE,
    BIG,
    BIND,
    BLOCK,
    BURST,
    ECHO,
    FLOOD,
    GUARDED,
    JOIN,
    POISON,
    POISONED,
    PUSH_BACK,
    PUSHED,
    QUERY,
    SLOW,
    STRICT,
    UNORDERED,
)
from survival.history import Executed, Finished, Record, to_line

QUERY_S = 0.004  # as a query to a data base on the same network
GUARDED_S = 0.02
AT_ONCE = 4  # of those
FLOOD_BODY = bytes(8 * 1024)

directory = Path(os.environ["SURVIVAL_DIRECTORY"])
name = os.environ["SURVIVAL_WORKER"]
pid = os.getpid()
log = os.open(directory / f"worker-{name}-{pid}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
worker = Worker("survival")
guard = asyncio.Semaphore(AT_ONCE)


def write(record: Record) -> None:
    os.write(log, to_line(record))


def begin(request: Request) -> tuple[str, int, str, str]:
    session, seq, secret, nonce = request.body.partition(b"\n")[0].decode().split()
    write(
        Executed(
            name,
            pid,
            session,
            int(seq),
            nonce,
            request.command,
            request.attempt,
            f"{request.session.id:x}",
            request.idempotency_key,
            time.monotonic(),
        )
    )
    return session, int(seq), secret, nonce


def finish(request: Request, session: str, seq: int, nonce: str) -> bytes:
    write(Finished(pid, session, seq, nonce, time.monotonic()))
    return request.body


@worker.on(*(base + ECHO for base in (0, AT_MOST_ONCE, STRICT, UNORDERED)))
async def echo(request: Request) -> bytes:
    session, seq, _, nonce = begin(request)
    return finish(request, session, seq, nonce)


@worker.on(*(base + QUERY for base in (0, AT_MOST_ONCE, STRICT, UNORDERED)))
async def query(request: Request) -> bytes:
    session, seq, _, nonce = begin(request)
    await asyncio.sleep(QUERY_S)
    return finish(request, session, seq, nonce)


@worker.on(GUARDED)
async def guarded(request: Request) -> bytes:
    session, seq, _, nonce = begin(request)
    async with guard:
        await asyncio.sleep(GUARDED_S)
    return finish(request, session, seq, nonce)


@worker.on(PUSH_BACK)
async def push_back(request: Request) -> bytes:
    session, seq, secret, nonce = begin(request)
    await asyncio.sleep(0)
    await request.session.push(secret.encode(), PUSHED)
    return finish(request, session, seq, nonce)


@worker.on(BIND)
async def bind(request: Request) -> bytes:
    await request.session.bind(request.body.decode())
    return b""


@worker.on(JOIN)
async def join(request: Request) -> bytes:
    await request.session.join(request.body.decode())
    return b""


@worker.on(FLOOD)
async def flood(request: Request) -> bytes:
    """Push so many packets to whoever asks."""
    for _ in range(int(request.body)):
        await request.session.push(FLOOD_BODY, PUSHED)
    return b""


@worker.on(BURST)
async def burst(request: Request) -> bytes:
    """Push packets to a group; their bodies begin with a number, which counts from `first`."""
    group, first, count, size = request.body.decode().split()
    for number in range(int(first), int(first) + int(count)):
        await worker.push_group(group, number.to_bytes(4, "big").ljust(int(size), b"."), PUSHED)
    return b""


@worker.on(BIG)
async def big(request: Request) -> bytes:
    return bytes(int(request.body))


@worker.on(SLOW)
async def slow(request: Request) -> bytes:
    """Answer after so many seconds."""
    await asyncio.sleep(float(request.body))
    return request.body


@worker.on(POISON)
async def poison(request: Request) -> bytes:
    os._exit(POISONED)


@worker.on(BLOCK)
async def block(request: Request) -> bytes:
    """Stand still for good, and leave the processor to those who are well."""
    os.close(os.open(directory / f"blocked-{pid}", os.O_CREAT | os.O_WRONLY))
    os.nice(19)
    while True:
        pass
