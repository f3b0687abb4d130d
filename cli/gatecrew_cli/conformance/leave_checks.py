"""The checks that signal the worker's process; the last of each list ends it."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from .finding import Broken, Checks, Skipped, expect
from .link_checks import UNAVAILABLE, begun, said
from .played import PlayedGateway
from .program import Program

if TYPE_CHECKING:
    from .kit import Kit

LINK_LEAVE_CHECKS = Checks()
HANDLE_LEAVE_CHECKS = Checks()

STANDSTILL_S = 3.0  # longer than the two seconds after which a worker must doubt
EXIT_S = 12.0  # a drain with nothing open that is slow takes less
LEAVES_S = 1.0  # for what was written to be on its way, on a busy machine too
POLL_S = 0.05


@LINK_LEAVE_CHECKS.check(101, 106, timed=True)
async def standstill(kit: Kit) -> None:
    """A worker that stood still (SIGSTOP) begins nothing of a stream that was cancelled meanwhile."""
    program = kit.need_program()
    if sys.platform == "win32":
        raise Skipped("there is no SIGSTOP on Windows")
    async with kit.link() as gateway:
        before = await begun(gateway)
        await gateway.beat(1)
        await program.freeze()
        try:
            await gateway.post(*(gateway.request(101, session=number) for number in range(20)))
            await asyncio.sleep(STANDSTILL_S)
            gateway.call.cancel()
            await gateway.until(lambda: gateway.ended is not None, "the stream did not end")
            await asyncio.sleep(LEAVES_S)  # for the cancellation to leave this process
        finally:
            program.signal(signal.SIGCONT)
    async with kit.link() as gateway:
        ran = await begun(gateway) - before - 1
        expect(ran == 0, f"{ran} of 20 requests of the cancelled stream were run when it went on")


@LINK_LEAVE_CHECKS.check()
async def drain(kit: Kit) -> None:
    """SIGTERM: draining on every link, what is open is answered, the rest given back, then it exits with 0."""
    program = kit.need_program()
    slow = 104 if kit.serves(104) else kit.command
    async with AsyncExitStack() as stack:
        links = [await stack.enter_async_context(kit.link()) for _ in range(2)]
        open_ones = {link: [link.request(slow, b"3000", session=number) for number in range(10)] for link in links}
        for link, requests in open_ones.items():
            await link.post(*requests)
            await link.beat(1)  # the worker has read them
        program.signal(signal.SIGTERM)
        for link in links:
            await link.until(lambda link=link: link.draining, "no draining after SIGTERM")  # type: ignore[misc]
        await _health_is_off(kit)
        for link in links:
            [late] = await link.ask(link.request(slow, b"1", session=500))
            expect(late.not_started and late.status == UNAVAILABLE, f"a request after draining: {said(late)}")
        for link in links:
            for reply in await link.answers(*open_ones[link]):
                expect(not reply.not_started, "what was open when the signal came was given back")
        for link in links:
            await _leave(link)
        await kit.idle.until(lambda: kit.idle.draining, "no draining on an idle link")
        await _leave(kit.idle)
    await _has_exited(program)


async def _leave(link: PlayedGateway) -> None:
    await link.done_writing()
    await link.until(lambda: link.ended is not None, "the stream did not end when nothing was open any more")
    expect(link.ended is grpc.StatusCode.OK, f"the stream ended with {link.ended} {link.ending}")


async def _health_is_off(kit: Kit) -> None:
    """Within a moment of `draining`; a server that takes no call any more is as good."""
    for _ in range(40):
        try:
            if await kit.health() != "SERVING":
                return
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return
            raise
        await asyncio.sleep(POLL_S)
    raise Broken("health is still SERVING while it drains")


async def _has_exited(program: Program) -> None:
    if program.life is None:
        return  # somebody else's child: whether it has gone cannot be told from a process id
    try:
        async with asyncio.timeout(EXIT_S):
            code = await asyncio.shield(program.life.end)
    except TimeoutError:
        raise Broken(f"the process was still there {EXIT_S:g} s after all streams had ended") from None
    expect(code == 0, f"it exited with {code}")


@HANDLE_LEAVE_CHECKS.check()
async def drain_calls(kit: Kit) -> None:
    """SIGTERM: it exits with 0."""
    program = kit.need_program()
    program.signal(signal.SIGTERM)
    await kit.channel.close()  # a server may wait for connections that are open
    await _has_exited(program)
