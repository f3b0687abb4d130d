"""`gatecrew call`: one packet by hand."""

import asyncio
import sys

import click

from ..client import Client, ClientClosed, ReplyError
from ..errors import Failed, UserError
from ..loop import run
from ..options import ADDRESS, Seconds
from ..ports import join, parse_address
from ..terminal import visible

GATEWAY_VARIABLE = "GATECREW_GATEWAY"


@click.command("call")
@click.argument("number", metavar="COMMAND", type=click.IntRange(0, 0xFFFF))
@click.argument("body", default="")
@click.option(
    "--gateway", type=ADDRESS, envvar=GATEWAY_VARIABLE, show_envvar=True, help="A listener; else the registry is asked."
)
@click.option("--hex", "as_hex", is_flag=True, help="BODY and what comes back are written in hex.")
@click.option("--notify", is_flag=True, help="Send a notify: nothing comes back.")
@click.option("--timeout", "timeout_s", type=Seconds(0.01), default=10.0, show_default=True, metavar="SECONDS")
@click.option("--listen-pushes", "listen_s", type=Seconds(0), metavar="SECONDS", help="Then print pushes for so long.")
def command(
    number: int,
    body: str,
    gateway: tuple[str, int] | None,
    as_hex: bool,
    notify: bool,
    timeout_s: float,
    listen_s: float | None,
) -> None:
    """Send one packet with the number COMMAND and the text BODY (`-`: standard input) and print the reply's body.

    The gateway is --gateway, or else the first one of the registry (CONSUL_HTTP_ADDR, 127.0.0.1:8500 without it). A
    reply with an error status is one line, and exit code 1.
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
    given: tuple[str, int] | None,
    as_hex: bool,
    notify: bool,
    timeout_s: float,
    listen_s: float | None,
) -> None:
    gateway = given or await _find()
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


async def _find() -> tuple[str, int]:
    """The listener of a gateway that is registered.

    Raises:
        UserError: the registry does not answer.
        Failed: it knows no gateway that takes clients.
    """
    # Imported here: with --gateway nothing of it is needed, and it takes longer than the call.
    from gatecrew_gateway.net.peers import GATEWAY_TAG

    from ..gateways import ask_all, client_addresses
    from ..registry_access import list_entries, registry_settings

    settings = registry_settings()
    try:
        [entries] = await list_entries(settings, GATEWAY_TAG)
    except UserError as error:
        raise UserError(f"{error}; or name a gateway with --gateway") from None
    if not entries:
        raise Failed(f"no gateway is registered at {settings.url}; name one with --gateway")
    heard = await ask_all([entry.address for entry in entries])
    found = client_addresses(heard)
    if not found:
        reasons = "; ".join(heard.silent.values()) or "all are draining"
        raise Failed(f"no gateway of {settings.url} takes clients: {reasons}")
    gateway_id, where = found[0]
    if len(entries) > 1:
        print(
            visible(f"gatecrew: {len(entries)} gateways: this is {gateway_id} on {where}; --gateway names another"),
            file=sys.stderr,
        )
    address = parse_address(where)
    assert address is not None
    return address


async def _listen(client: Client, listen_s: float, as_hex: bool) -> None:
    try:
        async with asyncio.timeout(listen_s):
            async for push in client.pushes():
                _show(push.body, as_hex, f"push {push.command}: ")
    except TimeoutError:
        return


def _show(body: bytes, as_hex: bool, before: str = "") -> None:
    """As it is into a file or a pipe; a terminal gets its control characters written out."""
    if as_hex:
        body = body.hex().encode()
    elif sys.stdout.isatty():
        body = visible(body.decode(errors="backslashreplace"), keep_lines=True).encode()
    sys.stdout.buffer.write(before.encode() + body + b"\n")
    sys.stdout.flush()
