"""docs/wire.md is true: its bytes are packets, its table of kinds is the codec's, its client works."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from gatecrew_gateway.codec import (
    FROM_CLIENT,
    FROM_GATEWAY,
    Decoder,
    Kind,
    Packet,
    Status,
    decode_error,
    encode,
    encode_error,
)

PAGE = (Path(__file__).parents[2] / "docs" / "wire.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def drawn(block: str) -> bytes:
    """The bytes at the start of each line; two blanks or the end of the line follow them."""
    return b"".join(bytes.fromhex(re.split(r"  |$", line)[0]) for line in block.splitlines())


def test_drawn_packets() -> None:
    request, reply, error = blocks("hex")
    assert Decoder().decode(drawn(request)) == ([(Kind.REQUEST, 1, 1, b"hello")], None)
    gateway = Decoder(allowed=FROM_GATEWAY)
    assert gateway.decode(drawn(reply)) == ([(Kind.REPLY, 1, 1, b"world")], None)
    [(kind, command, seq, body)], broken = gateway.decode(drawn(error))
    assert (kind, command, seq, broken) == (Kind.ERROR, 1, 3, None)
    assert decode_error(body) == (Status.UNAVAILABLE, "no worker")


def test_kinds() -> None:
    rows = re.findall(r"^\| (\d) \| (\w+) \| (client|gateway|both) \|", PAGE, re.MULTILINE)
    senders = {(True, False): "client", (False, True): "gateway", (True, True): "both"}
    assert rows == [(str(k.value), k.name.lower(), senders[k in FROM_CLIENT, k in FROM_GATEWAY]) for k in Kind]


def test_statuses_have_their_names() -> None:
    named = re.findall(r"\b(\d+) ([A-Z_]{5,})\b", PAGE)
    assert named
    assert all(Status[name] == int(number) for number, name in named)


@pytest.mark.parametrize(
    ("answer", "printed"),
    [
        (encode(Kind.REPLY, 1, 1, b"world"), "reply: b'world'"),
        (encode_error(1, 1, Status.UNAVAILABLE, "no worker"), "error: 14 no worker"),
        (encode_error(0, 0, Status.RESOURCE_EXHAUSTED, "full"), "error: 8 full"),
        (b"", "closed by the gateway"),
    ],
    ids=["reply", "error", "refused", "closed"],
)
@pytest.mark.uvloop_only
async def test_the_client_of_the_page(answer: bytes, printed: str) -> None:
    """Before the answer come a push and a ping, whose pong the peer waits for."""
    received: list[Packet] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode(Kind.PUSH, 9, 0, b"news") + encode(Kind.PING, 0, 5, b"there?"))
        decoder = Decoder()
        while not received or received[-1].kind != Kind.PONG:
            packets, broken = decoder.decode(await reader.read(65536))
            assert broken is None
            received.extend(Packet(*packet) for packet in packets)
        writer.write(answer)
        writer.close()

    [code] = [block for block in blocks("python") if block.startswith("# runnable: gateway\n")]
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, asyncio.timeout(30):
        port = server.sockets[0].getsockname()[1]
        program = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            code,
            env={**os.environ, "GATECREW_ADDRESS": f"127.0.0.1:{port}"},
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await program.communicate()
    assert (program.returncode, output.decode().strip()) == (0, printed)
    assert received == [(Kind.REQUEST, 1, 1, b"hello"), (Kind.PONG, 0, 5, b"there?")]
