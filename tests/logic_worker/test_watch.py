"""A worker whose loop stands still says where, while it still can; and shows its stacks when it is asked."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from processes import Process

from .gateway_end import GatewayEnd

pytestmark = pytest.mark.uvloop_only  # the workers are processes, and have the loop that they are told

PROGRAM = """
import asyncio, signal, sys, time
import uvloop
from gatecrew_worker import Worker, serve

worker = Worker("watched")

def block(request):
    print("blocks", flush=True)
    until = time.monotonic() + float(request.body)
    while time.monotonic() < until:
        pass
    print("blocked", flush=True)

@worker.on(101)
async def charge(request):
    block(request)

@worker.on(102)
async def charge_later(request):
    await asyncio.sleep(0.001)
    block(request)

@worker.on(103, concurrent=True)
async def wait_for_lane(request):
    await asyncio.sleep(0)
    await asyncio.create_task(in_child(request))

async def in_child(request):
    block(request)

@worker.on(104)
async def quick(request):
    return b"quick"

@worker.on_open
async def opened(session):
    time.sleep(2)

if "own" in sys.argv:
    signal.signal(signal.SIGUSR1, lambda *_: print("own handler", flush=True))
run = {"asyncio": asyncio.run, "uvloop": uvloop.run}[sys.argv[1]]
run(serve(worker, on_ready=lambda address: print("ready", address, flush=True)))
"""


@asynccontextmanager
async def watched(
    start: Callable[..., Process], folder: Path, *arguments: str
) -> AsyncIterator[tuple[GatewayEnd, Process]]:
    path = folder / "program.py"
    path.write_text(PROGRAM)
    process = start([sys.executable, str(path), *arguments])
    address = (await asyncio.to_thread(process.wait_line, "ready (.*)"))[1]
    async with GatewayEnd(address) as gateway:
        yield gateway, process


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("command", "kind", "place"),
    [
        (101, 0, r"in charge\(\), command 101, request 1000000001-1"),
        (102, 0, r"in charge_later\(\), command 102, request 1000000001-1"),
        (0, 2, r"in opened\(\), KIND_OPEN, request 1000000001-1"),
    ],
    ids=["in-place", "suspended", "event"],
)
async def test_log_says_where_the_loop_stands_still(
    start: Callable[..., Process], tmp_path: Path, loop: str, command: int, kind: int, place: str
) -> None:
    async with watched(start, tmp_path, loop) as (gateway, process):
        await gateway.ask(gateway.request(command, b"2.5", kind=kind))
        await asyncio.to_thread(process.wait_line, rf"the loop stood still for 1 s {place}; its stack:")
        await asyncio.to_thread(process.wait_line, rf"the loop runs again: it stood still for \d\.\d s {place}")
        assert sum("stood still for 1 s" in line for line in process.stderr) == 1
        assert any("program.py" in line for line in process.stderr)
        if not kind:
            assert "until = time.monotonic()" in process.output or "while time.monotonic()" in process.output
            told = next(n for n, line in enumerate(process.lines) if "stood still for 1 s" in line)
            assert told < process.lines.index("blocked"), "it was told afterwards"


async def test_stack_is_there_though_no_handler_is_known(start: Callable[..., Process], tmp_path: Path) -> None:
    async with watched(start, tmp_path, "uvloop") as (gateway, process):
        await gateway.ask(gateway.request(103, b"2"))
        await asyncio.to_thread(process.wait_line, "the loop stood still for 1 s; its stack:")
        assert "in in_child" in process.output


async def test_each_standstill_is_told_once(start: Callable[..., Process], tmp_path: Path) -> None:
    async with watched(start, tmp_path, "asyncio") as (gateway, process):
        for _ in range(2):
            await gateway.ask(gateway.request(101, b"1.8"))
            await gateway.ask(gateway.request(101, b"0.3"))
        await asyncio.to_thread(process.wait_line, "the loop runs again", count=2)
        assert sum("stood still for 1 s" in line for line in process.stderr) == 2


async def test_process_that_was_stopped_blames_nobody(start: Callable[..., Process], tmp_path: Path) -> None:
    async with watched(start, tmp_path, "uvloop") as (gateway, process):
        process.send(signal.SIGSTOP)
        await asyncio.sleep(2.5)  # it is what is tested
        process.send(signal.SIGCONT)
        await gateway.ask(gateway.request(104))
        await gateway.ask(gateway.request(101, b"2"))
        await asyncio.to_thread(process.wait_line, "the loop runs again")
        assert sum("stood still for 1 s" in line for line in process.stderr) == 1


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_signal_shows_all_stacks_of_a_blocked_worker(
    start: Callable[..., Process], tmp_path: Path, loop: str
) -> None:
    async with watched(start, tmp_path, loop) as (gateway, process):
        await gateway.post(gateway.request(101, b"3"))
        await asyncio.to_thread(process.wait_line, "blocks")
        process.send(signal.SIGUSR1)
        await asyncio.to_thread(process.wait_line, r'File ".*program.py", line \d+ in charge')
        assert any("(most recent call first)" in line for line in process.stderr)
        await gateway.until(lambda: gateway.replies)  # and it lives on


async def test_handler_of_the_program_for_that_signal_stays(start: Callable[..., Process], tmp_path: Path) -> None:
    async with watched(start, tmp_path, "uvloop", "own") as (gateway, process):
        process.send(signal.SIGUSR1)
        await asyncio.to_thread(process.wait_line, "own handler")
        await gateway.ask(gateway.request(104))
        assert process.stderr == []
