"""A chat: rooms, names, who is there. Run as many of these as you like and kill any of them.

Nothing is kept in this process, because the next packet of a session may go to another worker. A session's name is its
user, its room is an attribute and a group; the gateways keep all three.

Requests are UTF-8 text: 1 name NAME, 2 join ROOM, 3 say TEXT, 4 who. Pushes have command 10 and a JSON body:
{"id": ..., "room": ..., "who": ..., "what": "said" | "came" | "left", "text": ...}.
"""

import json

from gatecrew_worker import Request, Session, Status, StatusError, Worker

NAME, JOIN, SAY, WHO, EVENT = 1, 2, 3, 4, 10
LOBBY = "lobby"

worker = Worker("chat")


@worker.on_open
async def opened(session: Session) -> None:
    await session.bind(name_of(session))
    await enter(session, LOBBY, f"{session.id:x}")


@worker.on(NAME)
async def name(request: Request) -> bytes:
    wanted = word(request.body)
    # Two sessions that ask for one name in the same moment may both get it; a real chat asks its database.
    if any(other.id != request.session.id for other in await worker.list_names(user=wanted)):
        raise StatusError(Status.ALREADY_EXISTS, f"{wanted} is taken")
    await request.session.bind(wanted)
    return wanted.encode()


@worker.on(JOIN)
async def join(request: Request) -> bytes:
    session, room = request.session, word(request.body)
    old = room_of(session)
    if old != room:
        await session.leave(old)
        await tell(old, session, "left", request.idempotency_key)
    # Also where it is in the room already: an earlier attempt on a worker that was lost may have come half-way.
    await enter(session, room, request.idempotency_key)
    return room.encode()


@worker.on(SAY)
async def say(request: Request) -> bytes:
    session, text = request.session, request.body.decode("utf-8", "replace")
    await tell(room_of(session), session, "said", request.idempotency_key, text)
    return b""


@worker.on(WHO)
async def who(request: Request) -> bytes:
    there = await worker.list_names(group=room_of(request.session))
    return "\n".join(sorted(each.user for each in there)).encode()


@worker.on_close
async def closed(session: Session) -> None:
    await tell(room_of(session), session, "left", f"{session.id:x}")


async def enter(session: Session, room: str, key: str) -> None:
    await session.set(room=room)
    await session.join(room)
    await tell(room, session, "came", key)


async def tell(room: str, session: Session, what: str, key: str, text: str = "") -> None:
    """Push to the room. The id is the same when a request is handled again, so that clients can drop the second one."""
    event = {"id": f"{key}-{what}", "room": room, "who": name_of(session), "what": what, "text": text}
    await worker.push_group(room, json.dumps(event, ensure_ascii=False).encode(), command=EVENT)


def name_of(session: Session) -> str:
    return session.user or f"guest-{session.id % 10007}"


def room_of(session: Session) -> str:
    return session.attributes.get("room", LOBBY)


def word(body: bytes) -> str:
    """A name or a room.

    Raises:
        StatusError: INVALID_ARGUMENT, it is not one word of at most 20 characters.
    """
    text = body.decode("utf-8", "replace")
    if not 0 < len(text) <= 20 or not text.isprintable() or " " in text:
        raise StatusError(Status.INVALID_ARGUMENT, "give one word of at most 20 characters")
    return text
