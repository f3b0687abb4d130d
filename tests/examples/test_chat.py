"""The chat as its README runs it: one command, three workers, two of which are killed while people talk."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import Process

from gatecrew_cli.client import Client, ReplyError
from gatecrew_gateway.codec import Status

ROOT = Path(__file__).parents[2]
NAME, JOIN, SAY, WHO = 1, 2, 3, 4
PATIENCE_S = 30.0
SAID = 200
pytestmark = pytest.mark.uvloop_only


@pytest.fixture
def chat(start: Callable[..., Process]) -> tuple[str, int, list[int]]:
    """Host and port for clients, and the workers' process ids."""
    command = [sys.executable, "-m", "gatecrew_cli", "up", "examples.chat.worker:worker", "--workers", "3"]
    up = start(
        [*command, "--listen", "127.0.0.1:0"],
        cwd=ROOT,
        env={"CONSUL_HTTP_ADDR": None, "GATECREW_REGISTRY__LISTEN": "127.0.0.1:0"},
    )
    host, port = up.wait_line(r"^ready: clients connect to ([\d.]+):(\d+)").groups()
    pids = [int(found[1]) for line in up.lines if (found := re.match(r"worker-\d: .*, pid (\d+)$", line))]
    assert len(pids) == 3
    return host, int(port), pids


async def heard(client: Client, count: int) -> list[str]:
    """The texts of the next `count` messages, without those that were pushed twice."""
    texts: dict[str, str] = {}
    async for push in client.pushes():
        event = json.loads(push.body)
        if event["what"] == "said":
            texts[event["id"]] = event["text"]
        if len(texts) == count:
            return list(texts.values())
    raise AssertionError(f"heard {len(texts)} of {count}: {client.closed}")


async def test_nobody_notices_that_workers_die(chat: tuple[str, int, list[int]]) -> None:
    host, port, pids = chat
    texts = [f"message {number}" for number in range(SAID)]
    async with asyncio.timeout(PATIENCE_S * 2), await Client.connect(host, port) as ann:
        async with await Client.connect(host, port) as bob:
            assert await ann.request(NAME, b"ann") == b"ann"
            assert await bob.request(NAME, b"bob") == b"bob"
            with pytest.raises(ReplyError, match="ann is taken") as taken:
                await bob.request(NAME, b"ann")
            assert taken.value.status == Status.ALREADY_EXISTS
            for client in (ann, bob):
                assert await client.request(JOIN, b"tea") == b"tea"
            listening = asyncio.create_task(heard(bob, SAID))
            for number, text in enumerate(texts):
                if number in (SAID // 3, SAID // 2):
                    os.kill(pids.pop(), signal.SIGKILL)
                await ann.request(SAY, text.encode())
            assert await listening == texts
            assert await ann.request(WHO) == b"ann\nbob"
        async for push in ann.pushes():  # bob has left: his connection is closed
            event = json.loads(push.body)
            if (event["who"], event["what"]) == ("bob", "left"):
                break
        assert await ann.request(WHO) == b"ann"


async def test_what_is_no_room(chat: tuple[str, int, list[int]]) -> None:
    host, port, _ = chat
    async with asyncio.timeout(PATIENCE_S), await Client.connect(host, port) as client:
        for body in (b"", b"two words", b"line\nbreak", b"x" * 21):
            with pytest.raises(ReplyError) as refused:
                await client.request(JOIN, body)
            assert refused.value.status == Status.INVALID_ARGUMENT
        assert await client.request(JOIN, b"x" * 20) == b"x" * 20


async def test_the_line_client(chat: tuple[str, int, list[int]]) -> None:
    host, port, _ = chat
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "examples.chat.client",
        f"{host}:{port}",
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_S):
        output, _ = await program.communicate(b"/nick bob\n/join tea\nhello\n/who\n")
    assert program.returncode == 0
    for line in ("* you are bob", "[tea] * bob came", "* you are in tea", "[tea] bob: hello", "* here: bob"):
        assert line in output.decode().splitlines()
