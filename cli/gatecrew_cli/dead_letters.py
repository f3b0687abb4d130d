"""Dead letters as the gateways keep them: found at all of them, replayed at the one that has them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
import grpc.aio

from gatecrew.v1 import gateway_pb2, gateway_pb2_grpc
from gatecrew_gateway.net.dead_letters import REPLAY_WITHIN_S
from gatecrew_gateway.net.peers import GATEWAY_TAG, HOP

from .asking import CHANNEL_OPTIONS, PATIENCE_S
from .errors import Failed
from .registry_access import list_entries, registry_settings

_RECEIVE = ("grpc.max_receive_message_length", 8 << 20)
_OWN_ONLY = ((HOP, "1"),)  # each gateway for itself: then we know which one is silent


@dataclass(frozen=True, slots=True)
class Found:
    """Letters, newest first, each with the service address of its gateway; and the reasons of silent gateways."""

    letters: list[tuple[str, gateway_pb2.DeadLetter]]
    silent: dict[str, str]


async def service_addresses(given: str | None) -> list[str]:
    """The gateways to ask: the one that is given, or all of the registry.

    Raises:
        UserError: the registry does not answer.
        Failed: it knows none.
    """
    if given is not None:
        return [given]
    settings = registry_settings()
    [entries] = await list_entries(settings, GATEWAY_TAG)
    if not entries:
        raise Failed(f"no gateway is registered at {settings.url}; is CONSUL_HTTP_ADDR the right one?")
    return [entry.address for entry in entries]


async def find(
    addresses: Sequence[str], service: str = "", ids: Sequence[str] = (), with_bodies: bool = False
) -> Found:
    """Ask these gateways for the letters that they keep themselves."""
    request = gateway_pb2.ListDeadLettersRequest(service=service, ids=ids, with_bodies=with_bodies)
    answers = await asyncio.gather(*(_list(address, request) for address in addresses))
    found = Found([], {})
    for address, answer in zip(addresses, answers, strict=True):
        if isinstance(answer, str):
            found.silent[address] = answer
        else:
            found.letters.extend((address, letter) for letter in answer.dead_letters)
    found.letters.sort(key=lambda each: each[1].age_ms)
    return found


async def _list(address: str, request: gateway_pb2.ListDeadLettersRequest) -> gateway_pb2.ListDeadLettersResponse | str:
    async with grpc.aio.insecure_channel(address, options=(*CHANNEL_OPTIONS, _RECEIVE)) as channel:
        stub: gateway_pb2_grpc.GatewayAsyncStub = gateway_pb2_grpc.GatewayStub(channel)
        try:
            return await stub.ListDeadLetters(request, timeout=PATIENCE_S, metadata=_OWN_ONLY)
        except grpc.aio.AioRpcError as error:
            return f"gateway service {address}: {error.code().name}: {error.details()}"


async def replay(address: str, id: str) -> gateway_pb2.ReplayedDeadLetter | None:
    """Let a letter of that gateway go once more; None: it has gone meanwhile.

    Raises:
        Failed: the gateway does not answer.
    """
    async with grpc.aio.insecure_channel(address, options=(*CHANNEL_OPTIONS, _RECEIVE)) as channel:
        stub: gateway_pb2_grpc.GatewayAsyncStub = gateway_pb2_grpc.GatewayStub(channel)
        request = gateway_pb2.ReplayDeadLettersRequest(ids=[id])
        try:
            answer = await stub.ReplayDeadLetters(request, timeout=REPLAY_WITHIN_S, metadata=_OWN_ONLY)
        except grpc.aio.AioRpcError as error:
            raise Failed(f"gateway service {address}: {error.code().name}: {error.details()}") from None
    return answer.replayed[0] if answer.replayed else None
