"""`gatecrew call`: one packet by hand."""

import asyncio
import sys

import click

from ..client import Client, ClientClosed, ReplyError
from ..errors import Failed, UserError
from ..loop import run
from ..options import ADDRESS, Seconds
from ..ports import join


@click.command("call")
@click.argument("number", metavar="COMMAND", type=click.IntRange(0, 0xFFFF))
@click.argument("body", default="")
@click.option("--gateway", type=ADDRESS, default="127.0.0.1:7000", show_default=True, help="A gateway's listener.")
@click.option("--hex", "as_hex", is_flag=True, help="BODY and what comes back are written in hex.")
@click.option("--notify", is_flag=True, help="Send a notify: nothing comes back.")
@click.option("--timeout", "timeout_s", type=Seconds(0.01), default=10.0, show_default=True, metavar="SECONDS")
@click.option("--listen-pushes", "listen_s", type=Seconds(0), metavar="SECONDS", help="Then print pushes for so long.")
def command(
    number: int,
    body: str,
    gateway: tuple[str, int],
    as_hex: bool,
    notify: bool,
    timeout_s: float,
    listen_s: float | None,
) -> None:
    """Send one packet with the number COMMAND and the text BODY (`-`: standard input) and print the reply's body.

    A reply with an error status is one line, and exit code 1.
    """
    content = sys.stdin.buffer.read() if body == "-" else body.encode(errors="surrogateescape")
    if as_hex:
        try:
            content = bytes.fromhex(content.decode("ascii"))
        except ValueError:
            raise UserError(f"call: {body!r} is not hex, such as 00ff17") from None
    run(_call(number, content, gateway, as_hex, notify, timeout_s, listen_s))


async def _call(
    number: int,
    body: bytes,
    gateway: tuple[str, int],
    as_hex: bool,
    notify: bool,
    timeout_s: float,
    listen_s: float | None,
) -> None:
    where = join(*gateway)
    try:
        client = await Client.connect(*gateway, timeout_s=timeout_s)
    except OSError as error:
        reason = error.strerror or str(error) or f"no answer within {timeout_s:g} s"
        raise Failed(f"gateway {where}: {reason}; is it running? say where with --gateway") from None
    async with client:
        try:
            if notify:
                await client.notify(number, body)
            else:
                _show(await client.request(number, body, timeout_s=timeout_s), as_hex)
            if listen_s is not None:
                await _listen(client, listen_s, as_hex)
        except ReplyError as error:
            raise Failed(str(error)) from None
        except TimeoutError:
            raise Failed(f"gateway {where}: no reply within {timeout_s:g} s") from None
        except ValueError as error:
            raise UserError(f"call: {error}") from None
        except ClientClosed as error:
            raise Failed(f"gateway {where}: {error}") from None


async def _listen(client: Client, listen_s: float, as_hex: bool) -> None:
    try:
        async with asyncio.timeout(listen_s):
            async for push in client.pushes():
                _show(push.body, as_hex, f"push {push.command}: ")
    except TimeoutError:
        return


def _show(body: bytes, as_hex: bool, before: str = "") -> None:
    sys.stdout.buffer.write(before.encode() + (body.hex().encode() if as_hex else body) + b"\n")
    sys.stdout.flush()
