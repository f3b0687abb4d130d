"""The checks of a worker that serves only Handle."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from gatecrew.v1 import worker_pb2
from gatecrew_gateway.net import probe

from .finding import Broken, Checks, Skipped, expect
from .link_checks import UNIMPLEMENTED, later, said
from .played import MAX_BODY

if TYPE_CHECKING:
    from .kit import Kit

HANDLE_CHECKS = Checks()
check = HANDLE_CHECKS.check

AT_ONCE = 100  # calls that a gateway has open at a time


def request(kit: Kit, number: int = 1, body: bytes = b"x", command: int | None = None) -> worker_pb2.Request:
    context = worker_pb2.SessionContext(session=number, peer="192.0.2.1:1", listener="main")
    return worker_pb2.Request(
        id=number,
        session=number,
        command=kit.command if command is None else command,
        remaining_ms=60_000,
        body=body,
        context=context,
    )


@check()
async def health(kit: Kit) -> None:
    """The standard health service says SERVING, or is not there."""
    try:
        state = await kit.health()
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            raise Skipped("it has no health service: Consul cannot check it, and it cannot drain") from None
        raise
    expect(state == "SERVING", f"health is {state}")


@check()
async def told_from_others(kit: Kit) -> None:
    """A gateway can tell it from a server that is no worker: by its health service, or by a call of Handle."""
    try:
        await probe.check(kit.channel, ())
    except probe.Refused as error:
        cure = f"let the health service name {probe.SERVICE}, or answer unknown commands with a Reply of status 12"
        raise Broken(f"a gateway would refuse it: {error}; {cure}") from None


@check()
async def reply(kit: Kit) -> None:
    """A request is answered, with its id or none."""
    answer = await kit.handle(request(kit, 7))
    expect(answer.status != UNIMPLEMENTED, f"command {kit.command} was answered with {said(answer)}; see --command")
    expect(answer.id in (0, 7), f"request 7 was answered with id {answer.id}")


@check()
async def at_once(kit: Kit) -> None:
    """A hundred calls at once are all answered, each its own."""
    calls = (kit.handle(request(kit, number)) for number in range(1, AT_ONCE + 1))
    for number, answer in enumerate(await asyncio.gather(*calls), 1):
        expect(answer.id in (0, number), f"request {number} was answered with id {answer.id}")


@check()
async def unknown_command(kit: Kit) -> None:
    """A command that it does not serve is status 12, in the reply or of the call."""
    answer = await kit.handle(request(kit, command=65_535))
    expect(answer.status == UNIMPLEMENTED, f"command 65535 was answered with {said(answer)}")


@check()
async def big_request(kit: Kit) -> None:
    """A body of 1 MiB less 8 bytes comes through."""
    answer = await kit.handle(request(kit, body=b"x" * MAX_BODY))
    expect(answer.status == 0, f"answered with {said(answer)}")


@check()
async def notify(kit: Kit) -> None:
    """A notify is answered."""
    sent = request(kit)
    sent.kind = worker_pb2.KIND_NOTIFY
    await kit.handle(sent)


@check()
async def unknown_fields(kit: Kit) -> None:
    """Fields of a later version are ignored."""
    answer = await kit.handle(later(request(kit)))
    expect(answer.status == 0, f"answered with {said(answer)}")
