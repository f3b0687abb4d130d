"""The reference worker in Python. What each command does is said in the README of the folder above."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from weakref import WeakKeyDictionary

from gatecrew_worker import Request, Session, Status, StatusError, Worker

PUSH, SAY = 109, 112

worker = Worker(os.environ.get("SERVICE") or "tour")
begun = 0  # handlers that this process has begun
counts: WeakKeyDictionary[Session, int] = WeakKeyDictionary()  # a session goes when its gateway says so

Handler = Callable[[Request], Awaitable[bytes]]


def on(command: int) -> Callable[[Handler], Handler]:
    """`worker.on` for handlers that are counted."""

    def hang(handler: Handler) -> Handler:
        @worker.on(command)
        async def counted(request: Request) -> bytes:
            global begun
            begun += 1
            return await handler(request)

        return handler

    return hang


@on(101)
async def echo(request: Request) -> bytes:
    return request.body


@on(102)
async def refuse(request: Request) -> bytes:
    raise StatusError(Status.FAILED_PRECONDITION, text(request))


@on(103)
async def crash(request: Request) -> bytes:
    raise RuntimeError("as asked")


@on(104)
async def wait(request: Request) -> bytes:
    await asyncio.sleep(number(request) / 1000)
    return request.body


@on(105)
async def count(request: Request) -> bytes:
    counts[request.session] = counts.get(request.session, 0) + 1
    return b"%d" % counts[request.session]


@on(106)
async def about(request: Request) -> bytes:
    return f"python {worker.incarnation} {begun}".encode()


@on(107)
async def big(request: Request) -> bytes:
    return b"x" * number(request)  # if that is too much, the SDK says so


@on(108)
async def who(request: Request) -> bytes:
    session = request.session
    lines = [f"session={session.id}", f"user={session.user}", f"peer={session.peer}", f"listener={session.listener}"]
    return "\n".join([*lines, *(f"{name}={value}" for name, value in sorted(session.attributes.items()))]).encode()


@on(PUSH)
async def push(request: Request) -> bytes:
    await request.session.push(request.body, command=PUSH)
    return b"ok"


@on(110)
async def join(request: Request) -> bytes:
    await request.session.join(text(request))
    return b"ok"


@on(111)
async def leave(request: Request) -> bytes:
    await request.session.leave(text(request))
    return b"ok"


@on(SAY)
async def say(request: Request) -> bytes:
    group, _, body = request.body.partition(b" ")
    await worker.push_group(group.decode("utf-8", "replace"), body, command=SAY, except_session=request.session)
    return b"ok"


@on(113)
async def bind(request: Request) -> bytes:
    await request.session.bind(text(request))
    return b"ok"


@on(114)
async def set_attribute(request: Request) -> bytes:
    name, _, value = text(request).partition("=")
    await request.session.set(**{name: value})
    return b"ok"


@on(115)
async def kick(request: Request) -> bytes:
    await request.session.kick(text(request))
    return b""


def text(request: Request) -> str:
    return request.body.decode("utf-8", "replace")


def number(request: Request) -> int:
    """Raises:
    StatusError: INVALID_ARGUMENT, the body is no decimal number.
    """
    if not request.body.isdigit():
        raise StatusError(Status.INVALID_ARGUMENT, "give a decimal number")
    return int(request.body)
