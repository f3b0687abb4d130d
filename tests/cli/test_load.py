"""`gatecrew bench` against a scripted gateway that drains."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from command_line import run

from gatecrew_gateway.codec import Decoder, Kind, encode, encode_goaway

CLIENTS = 5
AFTER_MS = 100


class Draining:
    """Tells each of its first clients to go away when it has answered it some requests; those that come later stay."""

    def __init__(self, answers_the_rest: bool) -> None:
        self.after_goaway: list[int] = []  # requests that a client sent after it could have known
        self._answers_the_rest = answers_the_rest
        self._connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        leaves = self._connections <= CLIENTS
        decoder = Decoder()
        answered = 0
        while data := await reader.read(65536):
            packets, broken = decoder.decode(data)
            assert broken is None
            for _, command, seq, body in packets:
                answered += 1
                if leaves and answered == 10:
                    # Its answer comes after the goaway: an open request is still answered.
                    writer.write(encode_goaway(AFTER_MS, "the gateway is being stopped"))
                    if not self._answers_the_rest:
                        writer.close()
                        return
                if answered > 10 and leaves:
                    self.after_goaway.append(seq)
                writer.write(encode(Kind.REPLY, command, seq, body))
        writer.close()


@asynccontextmanager
async def draining(answers_the_rest: bool) -> AsyncIterator[tuple[Draining, str]]:
    gateway = Draining(answers_the_rest)
    server = await asyncio.start_server(gateway.serve, "127.0.0.1", 0)
    async with server:
        yield gateway, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def bench(address: str) -> tuple[int, dict[str, object], str]:
    arguments = ("bench", address, "--clients", str(CLIENTS), "--seconds", "3", "--json")
    code, out, error = await asyncio.to_thread(run, *arguments)
    return code, json.loads(out), error


@pytest.mark.uvloop_only
async def test_its_clients_finish_leave_and_come_back() -> None:
    async with draining(answers_the_rest=True) as (gateway, address):
        code, figures, error = await bench(address)
    assert (code, error, figures["errors"]) == (0, "", {})
    assert (figures["goaways"], figures["reconnects"]) == (CLIENTS, CLIENTS)
    assert gateway.after_goaway == []


@pytest.mark.uvloop_only
async def test_what_is_not_answered_after_a_goaway_is_an_error() -> None:
    async with draining(answers_the_rest=False) as (_, address):
        code, figures, error = await bench(address)
    assert (code, figures["errors"]) == (1, {"unanswered after goaway": CLIENTS})
    assert error == f"gatecrew: bench: {CLIENTS} × unanswered after goaway"
    assert figures["reconnects"] == CLIENTS
