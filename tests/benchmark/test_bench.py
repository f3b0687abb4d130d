"""The bench measures what it says: its load counts only true answers, its floors are judged rightly."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable

import pytest
from processes import Process

from bench.report import Floor, floors, verdicts

pytestmark = pytest.mark.uvloop_only


def load(address: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "bench.load", address, "--clients=3", "--open=4", "--seconds=0.3", "--warmup=0.1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_load_counts_answers(start: Callable[..., Process]) -> None:
    echo = start([sys.executable, "-m", "bench.raw_echo"])
    address = echo.wait_line(r"ready (\S+)")[1]
    done = load(address)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["per_second"] > 0


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (lambda data: data[:-1] + b"!", "not a reply"),
        (lambda data: data[:4] + b"\x04" + data[5:], "not a reply"),
        (lambda data: data + data, "not a reply|more answers"),
        (lambda data: b"", "never answered"),
    ],
    ids=["other body", "error packet", "twice", "never"],
)
async def test_the_load_finds_a_system_that_does_not_answer_truly(
    answer: Callable[[bytes], bytes], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.readexactly(76):
                writer.write(answer(data))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    done = await asyncio.to_thread(load, f"{host}:{port}")
    server.close()
    assert done.returncode != 0
    assert any(part in done.stderr for part in complaint.split("|")), done.stderr


def test_floors_are_ratios_of_the_same_round() -> None:
    samples = {
        "gatecrew3": {"200x1": [50.0, 100.0, 80.0], "lone": [0.0004]},
        "raw": {"200x1": [100.0, 120.0, 100.0], "lone": [0.0001]},
    }
    found = {floor.title: floor for floor in floors(samples, 7.0)}
    assert found["200 x 1, of raw echo"].value == pytest.approx(0.8)
    assert found["200 x 1, of raw echo"].verdict == "aim reached"
    assert found["lone client's median round trip, of raw echo's"].verdict == "aim reached"
    assert found["KiB of an idle session in the gateway"].verdict == "MISSED"
    assert found["50 x 1, against ZeroMQ"].verdict == "not measured"
    assert "MISSED" in verdicts(list(found.values()))
    assert Floor("x", 0.6, 0.5, 0.7).verdict == "floor kept"
    assert Floor("x", 5.0, 7, 4.5, at_least=False).verdict == "floor kept"
