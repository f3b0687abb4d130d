"""The checks of a worker that serves Link: what nobody waits for any more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gatecrew.v1 import worker_pb2

from .finding import Checks, expect
from .link_checks import DEADLINE_EXCEEDED, QUIET_S, said, still_works

if TYPE_CHECKING:
    from .kit import Kit
    from .played import PlayedGateway

CANCEL_CHECKS = Checks()
check = CANCEL_CHECKS.check

FOR_EVER = b"60000"  # milliseconds: longer than the kit waits for anything
ENDS_MS = 2000
UNREAD_MS = 3000  # how long a message lay unread, as its `sent_ms` says
CLOCK_MS = 1 << 41  # what the gateway's clock shows; no clock of the worker's is near it


async def cancel(gateway: PlayedGateway, *requests: worker_pb2.Request) -> None:
    """Returns when the worker has read it."""
    ids = [request.id for request in requests]
    await gateway.send(worker_pb2.GatewayMessage(cancelled_requests=ids))
    await gateway.beat(ids[0])


@check(101, 104)
async def cancelled(kit: Kit) -> None:
    """A request that nobody waits for any more is answered once, and its session goes on at once."""
    async with kit.link() as gateway:
        endless, ends = gateway.request(104, FOR_EVER), gateway.request(104, b"%d" % ENDS_MS, session=2)
        behind = [gateway.request(101, b"behind", session=session) for session in (1, 2)]
        await gateway.post(endless, ends, *behind)
        await cancel(gateway, endless, ends)
        for reply in await gateway.answers(*behind):
            expect((reply.status, reply.body) == (0, b"behind"), f"an echo behind it was answered with {said(reply)}")
        await gateway.answers(ends)  # now, or where a handler cannot be stopped, when it has ended
        await asyncio.sleep(ENDS_MS / 1000 + QUIET_S)  # a second answer would come by then, and be a violation
        await still_works(gateway, kit)


@check(104, 105)
async def cancelled_in_the_lane(kit: Kit) -> None:
    """A request that is cancelled before its turn is not begun, and answered once."""
    async with kit.link() as gateway:
        first, waits = gateway.request(104, FOR_EVER), gateway.request(105)
        await gateway.post(first, waits)
        await cancel(gateway, waits)
        await cancel(gateway, first)
        _, counted = await gateway.ask(gateway.request(105, session=2), gateway.request(105))
        expect(counted.body == b"1", f"its handler was begun: the session's next count was {said(counted)}")
        await gateway.answers(waits)


@check()
async def cancelled_too_late(kit: Kit) -> None:
    """Cancelling what is answered already, or was never sent, does nothing."""
    async with kit.link() as gateway:
        answered = gateway.request(kit.command, b"x")
        await gateway.ask(answered)
        await gateway.send(worker_pb2.GatewayMessage(cancelled_requests=[answered.id, 1 << 40, (1 << 64) - 1]))
        await still_works(gateway, kit)
        await asyncio.sleep(QUIET_S)


@check(105)
async def time_unread(kit: Kit) -> None:
    """A request whose deadline passed while its message lay unread is not begun: status 4."""
    began_at = asyncio.get_running_loop().time()

    def sent_ms(unread_ms: int = 0) -> int:
        return CLOCK_MS + int((asyncio.get_running_loop().time() - began_at) * 1000) - unread_ms

    async def count(sent_ms: int, remaining_ms: int) -> worker_pb2.Reply:
        request = gateway.request(105, remaining_ms=remaining_ms)
        told = [gateway.context(1)]
        await gateway.send(worker_pb2.GatewayMessage(sessions=told, requests=[request], sent_ms=sent_ms))
        return (await gateway.answers(request))[0]

    async with kit.link(greet=False) as gateway:
        # The first message of all lies long, as one to a worker that has just started: the offset is the least seen.
        await gateway.send(worker_pb2.GatewayMessage(hello=gateway.own_hello(), sent_ms=sent_ms(UNREAD_MS)))
        await gateway.greeted()
        gateway.speak_on()
        reply = await count(sent_ms(), 60_000)
        expect(reply.body == b"1", f"a message just sent was answered with {said(reply)}")
        reply = await count(sent_ms(UNREAD_MS), UNREAD_MS - 1000)
        expect(
            reply.status == DEADLINE_EXCEEDED,
            f"{UNREAD_MS} ms unread with {UNREAD_MS - 1000} ms left was answered with {said(reply)}",
        )
        for sent, what in ((sent_ms(UNREAD_MS), "enough time left"), (0, "no sent_ms")):
            reply = await count(sent, 60_000)
            expect(reply.status == 0, f"a message with {what} was answered with {said(reply)}")
        expect(reply.body == b"3", f"a handler was begun for nobody: the third count was {said(reply)}")
