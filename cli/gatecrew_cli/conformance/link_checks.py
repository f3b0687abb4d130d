"""The checks of a worker that serves Link. Numbers above 100 are commands of the reference worker
(examples/workers/README.md); a check that needs none works with every worker.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from gatecrew.v1 import worker_pb2

from .finding import Broken, Checks, Skipped, expect
from .played import MAX_BODY, PlayedGateway
from .program import SERVICE

if TYPE_CHECKING:
    from .kit import Kit

LINK_CHECKS = Checks()
check = LINK_CHECKS.check

IDLE_S = 35.0  # three keepalive pings, and a little
BEAT_WITHIN_S = 2.0  # after so long a gateway gives a worker nothing new
QUIET_S = 0.2  # for what should not come
UNIMPLEMENTED, DEADLINE_EXCEEDED, FAILED_PRECONDITION, INTERNAL, UNAVAILABLE = 12, 4, 9, 13, 14
UNKNOWN_FIELD = bytes([0xFA, 0x3E, 3]) + b"new"  # field 1007, a string, at the end of any message
GO_ON = b"after"
M = TypeVar("M", bound=Message)


async def still_works(gateway: PlayedGateway, kit: Kit) -> None:
    """Raises:
    Broken: the link does not serve any more.
    """
    [reply] = await gateway.ask(gateway.request(kit.command, GO_ON, session=999))
    if kit.serves(101):
        expect((reply.status, reply.body) == (0, GO_ON), f"then an echo was answered with {said(reply)}")


def said(reply: worker_pb2.Reply) -> str:
    body = reply.body if len(reply.body) <= 40 else reply.body[:40] + b"..."
    return f"status {reply.status} {reply.message!r}" if reply.status else f"status 0 and {body!r}"


@check()
async def health(kit: Kit) -> None:
    """The standard health service says SERVING."""
    for service in ("", "gatecrew.v1.LogicWorker"):
        try:
            state = await kit.health(service)
        except grpc.aio.AioRpcError as error:
            raise Broken(f"health of {service!r}: {error.code().name} {error.details()}") from None
        expect(state == "SERVING", f"health of {service!r} is {state}")


@check()
async def hello(kit: Kit) -> None:
    """The first message is a hello with service and incarnation, and does not wait for the gateway's."""
    async with kit.link(greet=False) as gateway:
        await gateway.greeted()
        expect(bool(gateway.hello.service), "the hello has no service")
        if kit.program is not None and kit.program.life is not None:
            both = f"the hello has service {gateway.hello.service!r}, the environment SERVICE={SERVICE}"
            expect(gateway.hello.service == SERVICE, f"{both}: a gateway would refuse it")
        expect(bool(gateway.hello.incarnation), "the hello has no incarnation")
        expect(
            gateway.hello.incarnation == kit.hello.incarnation, "another incarnation on a second link of one process"
        )
        strange = [command for command in gateway.hello.commands if command > 0xFFFF]
        expect(not strange, f"the hello has commands that no packet can have: {strange}")
        await gateway.send(worker_pb2.GatewayMessage(hello=gateway.own_hello()))
        await still_works(gateway, kit)


@check()
async def batches(kit: Kit) -> None:
    """A batch of 256 requests of 64 sessions is answered, once each."""
    async with kit.link() as gateway:
        batch = [gateway.request(kit.command, b"%d" % number, session=number % 64) for number in range(256)]
        replies = await gateway.ask(*batch)
        if kit.serves(101):
            wrong = [reply.id for reply, request in zip(replies, batch, strict=True) if reply.body != request.body]
            expect(not wrong, f"{len(wrong)} echoes with another body, request {wrong[:1]} first")


@check()
async def once(kit: Kit) -> None:
    """No request is answered twice, over a thousand requests one at a time and in batches."""
    async with kit.link() as gateway:
        for number in range(50):
            batch = [gateway.request(kit.command, session=each) for each in range(1 + number % 40)]
            await gateway.ask(*batch)
        await asyncio.sleep(QUIET_S)


@check()
async def empty_message(kit: Kit) -> None:
    """A message with nothing in it is nothing."""
    async with kit.link() as gateway:
        await gateway.send(worker_pb2.GatewayMessage())
        await still_works(gateway, kit)


@check()
async def notify(kit: Kit) -> None:
    """A notify is answered, with an empty reply."""
    async with kit.link() as gateway:
        [reply] = await gateway.ask(gateway.request(kit.command, b"x", kind=worker_pb2.KIND_NOTIFY))
        expect(not reply.body, f"the reply of a notify has a body: {said(reply)}")


@check()
async def unknown_kind(kit: Kit) -> None:
    """A kind of a later version is answered with an empty reply."""
    async with kit.link() as gateway:
        [reply] = await gateway.ask(gateway.request(kit.command, b"x", kind=77))
        expect((reply.status, reply.body) == (0, b""), f"kind 77 was answered with {said(reply)}")


@check()
async def session_events(kit: Kit) -> None:
    """KIND_OPEN and KIND_CLOSE are answered with an empty reply, whether it asked for them or not."""
    async with kit.link() as gateway:
        for kind in (worker_pb2.KIND_OPEN, worker_pb2.KIND_CLOSE):
            [reply] = await gateway.ask(gateway.request(0, kind=kind))
            expect(not reply.body, f"{worker_pb2.Kind.Name(kind)} was answered with {said(reply)}")


@check()
async def unknown_command(kit: Kit) -> None:
    """A command that it does not serve is status 12, and no more."""
    if kit.serves(60_000) and not kit.hello.commands:
        raise Skipped("the worker serves every command")
    strange = next(command for command in range(60_000, 65_536) if not kit.serves(command))
    async with kit.link() as gateway:
        [reply] = await gateway.ask(gateway.request(strange))
        expect(reply.status == UNIMPLEMENTED, f"command {strange} was answered with {said(reply)}")
        expect(not reply.not_started, "not_started with an unknown command: the gateway would try all workers")
        await still_works(gateway, kit)


@check(101, 102)
async def refusal(kit: Kit) -> None:
    """A handler's refusal carries its status and message."""
    async with kit.link() as gateway:
        [reply] = await gateway.ask(gateway.request(102, "nö".encode()))
        expect((reply.status, reply.message) == (FAILED_PRECONDITION, "nö"), f"answered with {said(reply)}")


@check(101, 103)
async def handler_error(kit: Kit) -> None:
    """A handler that fails is status 13, tells the client nothing, and harms nobody beside it."""
    async with kit.link() as gateway:
        batch = [gateway.request(103 if number % 10 == 3 else 101, session=number) for number in range(50)]
        for request, reply in zip(batch, await gateway.ask(*batch), strict=True):
            if request.command == 101:
                expect(reply.status == 0, f"an echo beside it was answered with {said(reply)}")
            else:
                told = reply.status == INTERNAL and reply.message.startswith("internal error")
                expect(told, f"answered with {said(reply)}")
        await still_works(gateway, kit)
    async with kit.link() as gateway:
        await still_works(gateway, kit)


@check(101, 104, 105)
async def order(kit: Kit) -> None:
    """The requests of one session run in their order, also behind one that waits."""
    async with kit.link() as gateway:
        for begins_with in (0, 1):
            session = 1 + begins_with
            batch = [gateway.request(104, b"50", session=session)] * begins_with
            batch += [gateway.request(105, session=session) for _ in range(50)]
            others = [gateway.request(105, session=100 + number) for number in range(50)]
            mixed = [each for pair in zip(batch[-50:], others, strict=True) for each in pair]
            await gateway.post(*batch[:-50], *mixed)
            counted = [reply.body for reply in await gateway.answers(*batch[-50:])]
            expect(counted == [b"%d" % number for number in range(1, 51)], f"50 counts came out as {counted[:8]}...")
            await gateway.answers(*others, *batch)


@check(101, 104, timed=True)
async def independence(kit: Kit) -> None:
    """A session whose handler waits keeps nobody else waiting."""
    async with kit.link() as gateway:
        slow = [gateway.request(104, b"1500", session=number) for number in range(100)]
        quick = [gateway.request(101, session=200 + number) for number in range(100)]
        await gateway.post(*slow)
        await gateway.ask(*quick)
        early = [request for request in slow if request.id in gateway.replies]
        expect(not early, "echoes came after the requests of other sessions that take 1.5 s")
        await gateway.answers(*slow)


@check(timed=True)
async def heartbeat(kit: Kit) -> None:
    """A heartbeat comes back with its number, in time."""
    async with kit.link() as gateway:
        for number in (1, 2, 7_000_000_000):
            await beat_in_time(gateway, number)


@check(101, 104, timed=True)
async def heartbeat_while_busy(kit: Kit) -> None:
    """Heartbeats come back in time under load, and say what is open."""
    async with kit.link() as gateway:
        slow = [gateway.request(104, b"1500", session=number) for number in range(200)]
        await gateway.post(*slow)
        for number in range(1, 9):
            flood = [gateway.request(101, b"x" * 100, session=1000 + each) for each in range(500)]
            await gateway.post(*flood)
            beat = await beat_in_time(gateway, number)
            if any(request.id not in gateway.replies for request in slow):
                expect(beat.in_flight >= 1, f"with {len(slow)} open its heartbeat says in_flight {beat.in_flight}")
            await gateway.answers(*flood)
        await gateway.answers(*slow)


@check(101)
async def big_requests(kit: Kit) -> None:
    """A body of 1 MiB less 8 bytes comes through, two of them in one message too."""
    async with kit.link() as gateway:
        batch = [gateway.request(101, bytes([number]) * MAX_BODY, session=number) for number in range(3)]
        for part in (batch[:1], batch[1:]):
            for request, reply in zip(part, await gateway.ask(*part), strict=True):
                expect(reply.body == request.body, f"echo of {MAX_BODY} bytes: {said(reply)}")


@check(107)
async def big_replies(kit: Kit) -> None:
    """Ten replies of 1 MiB go out in messages under 4 MiB."""
    async with kit.link() as gateway:
        batch = [gateway.request(107, b"%d" % MAX_BODY, session=number) for number in range(10)]
        for reply in await gateway.ask(*batch):
            expect(len(reply.body) == MAX_BODY, f"{MAX_BODY} bytes were asked for, {len(reply.body)} came")


@check(101, 107)
async def oversize_reply(kit: Kit) -> None:
    """A handler whose reply is too large is status 13; the link lives."""
    async with kit.link() as gateway:
        [reply] = await gateway.ask(gateway.request(107, b"%d" % (MAX_BODY + 1)))
        expect((reply.status, reply.body) == (INTERNAL, b""), f"answered with {said(reply)}")
        await still_works(gateway, kit)


@check(104, 106)
async def deadline_passed(kit: Kit) -> None:
    """A request whose deadline passed before its turn is not begun: status 4."""
    async with kit.link() as gateway:
        before = await begun(gateway)
        first = gateway.request(104, b"400")
        late = gateway.request(104, b"1", remaining_ms=50)
        _, reply = await gateway.ask(first, late)
        expect(reply.status == DEADLINE_EXCEEDED, f"answered with {said(reply)}")
        expect(await begun(gateway) == before + 2, "its handler was begun")  # the wait, and the second question


@check(101, 104, timed=True)
async def too_much(kit: Kit) -> None:
    """What comes above its max_in_flight is answered not_started with status 14."""
    async with kit.link() as gateway:
        room = gateway.hello.max_in_flight or 1024
        if room > 20_000:
            raise Skipped(f"max_in_flight is {room}")
        batch = [gateway.request(104, b"1000", session=number) for number in range(room + 50)]
        replies = await gateway.ask(*batch)
        back = [reply for reply in replies if reply.not_started]
        wrong = [reply for reply in replies if (reply.status == UNAVAILABLE) != reply.not_started]
        expect(not wrong, f"not_started goes with status 14, here: {[said(reply) for reply in wrong[:1]]}")
        expect(len(back) == 50, f"{len(batch)} at once with max_in_flight {room}: {len(back)} were given back")
        await still_works(gateway, kit)


@check(108)
async def context(kit: Kit) -> None:
    """A handler sees who the client is, and what has changed since."""
    async with kit.link() as gateway:
        who = gateway.request(108)
        told = gateway.context(1, user="ann", attributes={"b": "2", "a": "1"})
        await gateway.send(worker_pb2.GatewayMessage(sessions=[told], requests=[who]))
        [reply] = await gateway.answers(who)
        text = f"session={gateway.session(1)}\nuser=ann\npeer=192.0.2.1:1\nlistener=main\na=1\nb=2"
        expect(reply.body == text.encode(), f"answered with {said(reply)}")
        again = gateway.request(108)
        told = gateway.context(1, attributes={"b": "3"})
        await gateway.send(worker_pb2.GatewayMessage(sessions=[told], requests=[again]))
        [reply] = await gateway.answers(again)
        text = f"session={gateway.session(1)}\nuser=\npeer=192.0.2.1:1\nlistener=main\nb=3"
        expect(reply.body == text.encode(), f"after a change: {said(reply)}")


@check(105)
async def forgotten_sessions(kit: Kit) -> None:
    """What it knew of a session is gone when the gateway says so, after the requests of the same message."""
    async with kit.link() as gateway:
        requests = [gateway.request(105), gateway.request(105)]
        told = worker_pb2.GatewayMessage(
            sessions=[gateway.context(1)], requests=requests, forgotten_sessions=[gateway.session(1)]
        )
        await gateway.send(told)
        counted = [reply.body for reply in await gateway.answers(*requests)]
        expect(counted == [b"1", b"2"], f"two counts came out as {counted}")
        [reply] = await gateway.ask(gateway.request(105))
        expect(reply.body == b"1", f"a forgotten session counts on with {said(reply)}")


@check(109)
async def push(kit: Kit) -> None:
    """A push goes to its session, before the reply of the request that it was made in."""
    async with kit.link() as gateway:
        batch = [gateway.request(109, b"%d" % number) for number in range(20)]
        await gateway.ask(*batch)
        pushes = [action.push for action in gateway.actions]
        expect([push.body for push in pushes] == [request.body for request in batch], "pushes are missing or mixed up")
        for push in pushes:
            expect((push.session, push.command) == (gateway.session(1), 109), f"a push to {push.session:x}")
        last = set[int | None]()
        for event in gateway.events:
            if isinstance(event, worker_pb2.Reply):
                number = next((at for at, request in enumerate(batch) if request.id == event.id), None)
                expect(number in last, "a reply overtook the push of its handler")
            elif isinstance(event, worker_pb2.Action):
                last.add(int(event.push.body))


async def known(*gateways: PlayedGateway) -> None:
    """Wait until the worker has read their hellos: its own may come before, and a link counts from the gateway's on."""
    for gateway in gateways:
        await gateway.beat(0)


@check(109, 110, 111, 112)
async def groups(kit: Kit) -> None:
    """Join and leave are actions; what is said to a group goes out on every link, to a session only on its own."""
    async with kit.link() as here, kit.link() as there:
        await known(here, there)
        await here.ask(here.request(110, b"room"))
        await here.ask(here.request(109, b"mine"))
        await here.ask(here.request(112, b"room hello all"))
        await there.until(lambda: there.actions, "a push to a group did not go out on the second link")
        await here.ask(here.request(111, b"room"))
        kinds = [action.WhichOneof("action") for action in here.actions]
        expect(kinds == ["join", "push", "push", "leave"], f"join, push, say and leave were sent as {kinds}")
        join, own, said_here, leave = here.actions
        expect((join.join.session, join.join.group) == (here.session(1), "room"), "a wrong join")
        expect((leave.leave.session, leave.leave.group) == (here.session(1), "room"), "a wrong leave")
        expect(own.push.session == here.session(1), "a wrong push")
        for action in (said_here, *there.actions):
            expect(action.push.group == "room", "a push on the second link that is not to the group")
            expect((action.push.command, action.push.body) == (112, b"hello all"), "another text or command")
            expect(action.push.except_session == here.session(1), "the session that spoke is not left out")
        expect(len(there.actions) == 1, f"{len(there.actions)} actions on the second link")


@check(101, 112)
async def crossfire(kit: Kit) -> None:
    """Sessions of two gateways that push to one group at once do not lock each other out."""
    async with kit.link() as one, kit.link() as other:
        await known(one, other)
        for _ in range(20):
            batches = {
                gateway: [gateway.request(112, b"room x", session=number) for number in range(50)]
                for gateway in (one, other)
            }
            await asyncio.gather(*(gateway.post(*batch) for gateway, batch in batches.items()))
            for gateway, batch in batches.items():
                await gateway.answers(*batch)
        for gateway in (one, other):
            await gateway.until(lambda gateway=gateway: len(gateway.actions) >= 2000, "not all pushes came")  # type: ignore[misc]


@check(113, 114, 115)
async def session_commands(kit: Kit) -> None:
    """Bind, set attributes and kick are actions on the session."""
    async with kit.link() as gateway:
        await gateway.ask(
            gateway.request(113, b"ann"), gateway.request(114, b"room=lobby"), gateway.request(115, b"enough")
        )
        kinds = [action.WhichOneof("action") for action in gateway.actions]
        expect(kinds == ["bind", "set_attributes", "kick"], f"bind, set and kick were sent as {kinds}")
        bind, attributes, kick = gateway.actions
        mine = gateway.session(1)
        expect((bind.bind.session, bind.bind.user) == (mine, "ann"), "a wrong bind")
        expect(attributes.set_attributes.session == mine, "attributes of another session")
        expect(dict(attributes.set_attributes.attributes) == {"room": "lobby"}, "other attributes")
        expect((kick.kick.session, kick.kick.reason) == (mine, "enough"), "a wrong kick")


@check()
async def two_gateways(kit: Kit) -> None:
    """Two links at once do not mix, although their requests have the same ids."""
    async with kit.link() as one, kit.link() as other:
        for _ in range(10):
            batches = [
                [gateway.request(kit.command, b"%d" % gateway.prefix, session=number) for number in range(50)]
                for gateway in (one, other)
            ]
            for gateway, batch in zip((one, other), batches, strict=True):
                await gateway.post(*batch)
            for gateway, batch in zip((one, other), batches, strict=True):
                replies = await gateway.answers(*batch)
                if kit.serves(101):
                    expect({reply.body for reply in replies} == {b"%d" % gateway.prefix}, "answers got mixed up")


@check()
async def unknown_fields(kit: Kit) -> None:
    """Fields of a later version are ignored, wherever they are."""
    async with kit.link(greet=False) as gateway:
        await gateway.send(worker_pb2.GatewayMessage(hello=later(gateway.own_hello())))
        await gateway.greeted()
        request = gateway.request(kit.command, b"x")
        message = worker_pb2.GatewayMessage(
            sessions=[later(gateway.context(1))],
            requests=[later(request)],
            heartbeat=later(worker_pb2.Heartbeat(number=9)),
        )
        await gateway.send(later(message))
        await gateway.answers(request)
        await still_works(gateway, kit)


def later(message: M) -> M:
    """The same with one field more."""
    return type(message).FromString(message.SerializeToString() + UNKNOWN_FIELD)


@check()
async def half_close(kit: Kit) -> None:
    """A gateway that closes its side gets what is still open; then the worker ends the stream with OK."""
    async with kit.link() as gateway:
        slow = kit.serves(104)
        batch = [gateway.request(104 if slow else kit.command, b"300", session=number) for number in range(20)]
        await gateway.post(*batch)
        await gateway.done_writing()
        await gateway.answers(*batch)
        await gateway.until(lambda: gateway.ended is not None, "the stream did not end")
        expect(gateway.ended is grpc.StatusCode.OK, f"the stream ended with {gateway.ended} {gateway.ending}")


@check()
async def reconnect(kit: Kit) -> None:
    """Links that break off with requests open do no harm to those that follow."""
    slow = 104 if kit.serves(104) else kit.command
    for number in range(30):
        async with kit.link() as gateway:
            await gateway.post(*(gateway.request(slow, b"200", session=each) for each in range(number)))
            if number % 2:
                gateway.call.cancel()  # in the midst of it
    async with kit.link() as gateway:
        await still_works(gateway, kit)
        await asyncio.sleep(QUIET_S)  # answers to the links before would be violations here


@check()
async def keepalive(kit: Kit) -> None:
    """A link on which nobody speaks stands keepalive pings, one every 10 s."""
    await asyncio.sleep(max(0.0, kit.opened_at + IDLE_S - time.monotonic()))
    ended = kit.idle.ended
    expect(ended is None, f"the stream ended with {ended} {kit.idle.ending}")
    await still_works(kit.idle, kit)


async def beat_in_time(gateway: PlayedGateway, number: int) -> worker_pb2.Heartbeat:
    began_at = time.monotonic()
    beat = await gateway.beat(number)
    took = time.monotonic() - began_at
    expect(took < BEAT_WITHIN_S, f"a heartbeat took {took:.1f} s: a gateway would give the worker up")
    return beat


async def begun(gateway: PlayedGateway) -> int:
    """How many handlers the reference worker has begun, this question included."""
    [reply] = await gateway.ask(gateway.request(106, session=998))
    words = reply.body.split()
    if len(words) != 3 or not words[2].isdigit():
        raise Broken(f"command 106 was answered with {said(reply)}")
    return int(words[2])
