"""The load, in a process of its own: sessions that send at their pace whatever comes back, and write their history.

python -m survival.load '{"name": "kill", "gateways": ["127.0.0.1:7000"], "history": "/tmp/kill.jsonl"}'

It prints `connected`, then `answered` after every 100 answers, until SIGTERM; then it sends no more, waits for what is
open, writes its history and prints `done`. Its own codec is a few lines, on purpose: it shall not share a mistake with
the gateway.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import uvloop

from survival.history import Answered, Ended, Pushed, Record, Sent, Stall, body_of, to_line

HEADER = struct.Struct(">IBBHI")
REQUEST, REPLY, NOTIFY, PUSH, ERROR, GOAWAY = 0, 1, 2, 3, 4, 7
PROBE_S = 0.01  # the machine is probed so often
STALL_S = 0.02  # and stalls when a probe takes so long
CATCH_UP_S = 0.25
PADDING = 64  # bytes after the text of a body
clock = time.monotonic  # a loop's own is as old as its last turn


@dataclass(frozen=True, kw_only=True)
class Load:
    """What to send. Each session sends `burst` packets at once, so that several are in flight, and then pauses."""

    name: str
    gateways: list[str]
    history: str
    sessions: int = 50
    rate: float = 2000.0  # packets a second, of all sessions
    burst: int = 4
    commands: list[list[int]]  # session n sends those of group n, in turn; groups are used in turn
    notify_every: int = 10  # every so many packets one is a notify; 0: none
    last_answers_s: float = 15.0  # for what is still open when the load ends; then it is lost


class Client(asyncio.Protocol):
    """One session."""

    def __init__(self, load: Load, number: int, records: list[Record]) -> None:
        self.name = f"{load.name}-{number}"
        self.open = 0
        self.answers = 0
        self.ended = False
        self.dismissed = False  # by a goaway: go on reading, send nothing more
        self._load = load
        self._commands = load.commands[number % len(load.commands)]
        self._secret = secrets.token_hex(8)
        self._records = records
        self._seq = 0
        self._tail = b""
        self._finished = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send_burst(self) -> None:
        if self.ended or self.dismissed:
            return
        data = []
        now = clock()
        for _ in range(self._load.burst):
            self._seq += 1
            seq = self._seq
            command = self._commands[seq % len(self._commands)]
            oneway = bool(self._load.notify_every) and seq % self._load.notify_every == 0
            sent = Sent(self.name, seq, command, self._secret, secrets.token_hex(4), now, oneway)
            self._records.append(sent)
            body = body_of(sent).encode() + b"\n" + b"." * PADDING
            kind, wire_seq = (NOTIFY, 0) if oneway else (REQUEST, seq)
            data.append(HEADER.pack(8 + len(body), kind, 0, command, wire_seq) + body)
            self.open += not oneway
        self._transport.write(b"".join(data))

    def data_received(self, data: bytes) -> None:
        now = clock()
        data = self._tail + data
        start = 0
        while len(data) - start >= HEADER.size:
            length, kind, _, _, seq = HEADER.unpack_from(data, start)
            end = start + 4 + length
            if end > len(data):
                break
            self._take(kind, seq, data[start + HEADER.size : end], now)
            start = end
        self._tail = data[start:]

    def _take(self, kind: int, seq: int, body: bytes, now: float) -> None:
        if kind == REPLY:
            echo = body.partition(b"\n")[0].decode(errors="replace")
            self._records.append(Answered(self.name, seq, 0, now, echo=echo))
        elif kind == ERROR:
            reason = body[2:].decode(errors="replace")
            self._records.append(Answered(self.name, seq, int.from_bytes(body[:2], "big"), now, reason=reason))
        elif kind == PUSH:
            self._records.append(Pushed(self.name, body.decode(errors="replace"), now))
            return
        else:
            self.dismissed = kind == GOAWAY
            what = "goaway" if self.dismissed else f"packet of kind {kind}"
            self._records.append(Ended(self.name, f"{what}: {body[4:].decode(errors='replace')}", now))
            return
        self.open -= 1
        self.answers += 1

    def connection_lost(self, error: Exception | None) -> None:
        self.ended = True
        if not self._finished and not self.dismissed:
            self._records.append(Ended(self.name, str(error or "closed by the gateway"), clock()))

    def close(self) -> None:
        self._finished = True
        self._transport.close()


class Probe(asyncio.Protocol):
    """Shows when the machine stands still: a process that only echoes is asked every PROBE_S.

    What this loop is late by is part of it, since the time at which a probe was due counts.
    """

    def __init__(self, records: list[Record]) -> None:
        self._records = records
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._due = clock()
        self._ask()

    def _ask(self) -> None:
        self._transport.write(b"?")

    def data_received(self, data: bytes) -> None:
        now = clock()
        if now - self._due > STALL_S:
            self._records.append(Stall(self._due, now - self._due))
        self._due = max(now, self._due + PROBE_S)
        self._loop.call_later(self._due - now, self._ask)


def echo_process() -> socket.socket:
    """Start a process that echoes, and ends with its socket. Call it before there is a loop."""
    ours, its = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        while data := its.recv(64):
            its.sendall(data)
        os._exit(0)
    its.close()
    return ours


async def run(load: Load, echo: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    records: list[Record] = []
    clients: list[Client] = []
    for number in range(load.sessions):
        host, _, port = load.gateways[number % len(load.gateways)].rpartition(":")
        _, client = await loop.create_connection(
            lambda number=number: Client(load, number, records),
            host,
            int(port),  # type: ignore[misc]
        )
        clients.append(client)
    probe, _ = await loop.create_connection(lambda: Probe(records), sock=echo)
    print("connected", flush=True)
    pacing = asyncio.create_task(pace(load, clients))
    await stop.wait()
    pacing.cancel()
    waits_until = clock() + load.last_answers_s
    while any(client.open > 0 and not client.ended for client in clients) and clock() < waits_until:
        await asyncio.sleep(0.01)
    for client in clients:
        client.close()
    probe.close()
    Path(load.history).write_bytes(b"".join(map(to_line, records)))
    print("done", flush=True)


async def pace(load: Load, clients: list[Client]) -> None:
    """Every session's bursts at their times, spread evenly. Behind time it catches up: the load is what was asked, but
    for what a machine that stood still would have it send in one moment.
    """
    between = load.burst / load.rate
    due = clock()
    turn = told = 0
    while True:
        clients[turn].send_burst()
        turn = (turn + 1) % len(clients)
        answers = sum(client.answers for client in clients) // 100 if turn == 0 else told
        for _ in range(answers - told):
            print("answered", flush=True)
        told = answers
        due = max(due + between, clock() - CATCH_UP_S)
        await asyncio.sleep(max(0.0, due - clock()))


if __name__ == "__main__":
    echo = echo_process()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(Load(**json.loads(sys.argv[1])), echo))
