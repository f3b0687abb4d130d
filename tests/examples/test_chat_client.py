"""The chat's line client as a person or a script runs it, against a peer that knows a little of the chat."""

import asyncio
import json
import os
import pty
import socket
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gatecrew_gateway.codec import Decoder, Kind, Packet, Status, encode, encode_error, encode_goaway

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30.0
pytestmark = pytest.mark.uvloop_only


def event(id: str, who: str, what: str, text: str = "") -> bytes:
    body = {"id": id, "room": "tea", "who": who, "what": what, "text": text}
    return encode(Kind.PUSH, 10, 0, json.dumps(body).encode())


def answer(packet: Packet) -> bytes:
    """Like the worker: 1 name, 2 join, 3 say (heard twice, as after a failover), 4 who."""
    if packet.body == b"taken":
        return encode_error(packet.command, packet.seq, Status.ALREADY_EXISTS, "taken is taken")
    said = event("1-said", "bob", "said", packet.body.decode()) * 2 if packet.command == 3 else b""
    body = {1: packet.body, 2: packet.body, 3: b"", 4: b"ann\nbob"}[packet.command]
    return said + encode(Kind.REPLY, packet.command, packet.seq, body)


async def serve(reader: StreamReader, writer: StreamWriter) -> None:
    decoder = Decoder()
    writer.write(event("0-came", "ann", "came"))
    while data := await reader.read(65536):
        for packet in decoder.decode(data)[0]:
            writer.write(answer(Packet(*packet)))
    writer.close()


@asynccontextmanager
async def served(handler: Callable[[StreamReader, StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    async with server, asyncio.timeout(PATIENCE_S):
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def run(address: str, typed: str | None, stdin: int = asyncio.subprocess.PIPE) -> tuple[int | None, str, str]:
    """Exit code, standard output, standard error. `typed` None: its input stays open."""
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "examples.chat.client",
        address,
        cwd=ROOT,
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    if typed is not None:
        output, errors = await program.communicate(typed.encode())
        return program.returncode, output.decode(), errors.decode()
    assert program.stdout is not None
    assert program.stderr is not None
    output, errors = await asyncio.gather(program.stdout.read(), program.stderr.read())
    return await program.wait(), output.decode(), errors.decode()


async def test_a_script_in_a_pipe() -> None:
    typed = "/nick bob\n/join tea\n\nhello there\n/who\n/nick taken\n/dance\n"
    async with served(serve) as address:
        code, output, errors = await run(address, typed)
    assert (code, errors) == (0, "")
    assert output.splitlines() == [
        "[tea] * ann came",
        "* you are bob",
        "* you are in tea",
        "[tea] bob: hello there",
        "* here: ann, bob",
        "! taken is taken",
        "! no command /dance; /help lists them",
    ]


async def test_quit_leaves_what_follows_unsaid() -> None:
    async with served(serve) as address:
        code, output, _ = await run(address, "/help\n/quit\nhello\n")
    assert code == 0
    assert "/join ROOM" in output
    assert "hello" not in output


async def test_nobody_listens() -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unheard.getsockname()[1]}"
        code, output, errors = await run(address, "hello\n")
    assert (code, output) == (1, "")
    assert errors.startswith(f"chat: can't connect to {address}: ")
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("address", ["7000", "127.0.0.1:", "127.0.0.1:http"])
async def test_what_is_no_address(address: str) -> None:
    code, _, errors = await run(address, "")
    assert code == 2
    assert f"'{address}' is not HOST:PORT" in errors
    assert "Traceback" not in errors


async def goaway(reader: StreamReader, writer: StreamWriter) -> None:
    writer.write(event("0-said", "ann", "said", "bye") + encode_goaway(500, "restarting"))
    writer.close()


@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
async def test_the_gateway_leaves_while_nothing_is_typed(terminal: bool) -> None:
    """Its input stays open: it must not wait for one more line before it ends."""
    ends = pty.openpty() if terminal else os.pipe()
    ours, theirs = ends if terminal else (ends[1], ends[0])
    try:
        async with served(goaway) as address:
            code, output, errors = await run(address, None, theirs)
    finally:
        os.close(ours)
        os.close(theirs)
    assert (code, output, errors) == (1, "[tea] ann: bye\n", "chat: goaway: restarting\n")
