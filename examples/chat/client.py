"""Chat from a terminal or a pipe: python -m examples.chat.client [HOST:PORT]

Exits with 0 at the end of its input or /quit, with 1 when it can't connect or the connection ends.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import threading
from collections import deque

from gatecrew_cli.client import Client, ClientClosed, ReplyError

NAME, JOIN, SAY, WHO, EVENT = 1, 2, 3, 4, 10
HELP = """\
/nick NAME   take a name
/join ROOM   go to a room; you start in the lobby
/who         who is in the room
/quit        leave
/help        this
Anything else is said to the room."""


async def chat(host: str, port: int) -> int:
    try:
        client = await Client.connect(host, port)
    except OSError as error:
        reason = "no answer" if isinstance(error, TimeoutError) else error.strerror or error
        print(f"chat: can't connect to {host}:{port}: {reason}", file=sys.stderr)
        return 1
    lines: asyncio.Queue[str | None] = asyncio.Queue()
    # Daemon: a thread that waits for a line can't be told to stop.
    threading.Thread(target=read_lines, args=(asyncio.get_running_loop(), lines), daemon=True).start()
    async with client:
        showing = asyncio.create_task(show(client, lines))
        await obey(client, lines)
        ended = client.closed  # None: the input ended first
    await showing
    if ended is not None:
        print(f"chat: {ended}", file=sys.stderr)
        return 1
    return 0


def read_lines(loop: asyncio.AbstractEventLoop, lines: "asyncio.Queue[str | None]") -> None:
    # Unbuffered: a thread that holds sys.stdin's lock would break the interpreter's exit.
    with open(0, "rb", buffering=0, closefd=False) as stdin, contextlib.suppress(RuntimeError):  # the loop is closed
        for line in stdin:
            loop.call_soon_threadsafe(lines.put_nowait, line.decode("utf-8", "replace").strip())
        loop.call_soon_threadsafe(lines.put_nowait, None)


async def obey(client: Client, lines: "asyncio.Queue[str | None]") -> None:
    while (line := await lines.get()) is not None and line != "/quit":
        try:
            await obey_line(client, line)
        except ReplyError as error:
            print(f"! {error.reason or error}", flush=True)
        except TimeoutError:
            print("! no answer", flush=True)
        except ClientClosed:
            return


async def obey_line(client: Client, line: str) -> None:
    word, _, rest = line.partition(" ")
    rest = rest.strip()
    if word == "/nick":
        print(f"* you are {(await client.request(NAME, rest.encode())).decode()}", flush=True)
    elif word == "/join":
        print(f"* you are in {(await client.request(JOIN, rest.encode())).decode()}", flush=True)
    elif word == "/who":
        print(f"* here: {(await client.request(WHO)).decode().replace(chr(10), ', ')}", flush=True)
    elif word == "/help":
        print(HELP, flush=True)
    elif word.startswith("/"):
        print(f"! no command {word}; /help lists them", flush=True)
    elif line:
        await client.request(SAY, line.encode())


async def show(client: Client, lines: "asyncio.Queue[str | None]") -> None:
    seen: deque[str] = deque(maxlen=100)
    try:
        async for push in client.pushes():
            event = json.loads(push.body)
            # A worker that was lost after it pushed leaves its request to another one, which pushes again.
            if event["id"] not in seen:
                seen.append(event["id"])
                said = f"{event['who']}: {event['text']}" if event["text"] else f"* {event['who']} {event['what']}"
                print(f"[{event['room']}] {said}", flush=True)
    finally:
        lines.put_nowait(None)  # nothing typed from now on can be said


def address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def main() -> int:
    parser = argparse.ArgumentParser(prog="chat", description="Chat through a Gatecrew gateway.")
    parser.add_argument("address", nargs="?", type=address, default="127.0.0.1:7000", metavar="HOST:PORT")
    with contextlib.suppress(KeyboardInterrupt):
        return asyncio.run(chat(*parser.parse_args().address))
    return 130


if __name__ == "__main__":
    sys.exit(main())
