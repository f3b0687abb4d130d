"""The gateways that are registered, what they say of themselves, and where their clients connect."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from gatecrew.v1 import gateway_pb2

from .asking import ask_status
from .errors import Failed
from .ports import EVERY_ADDRESS, join, parse_address


@dataclass(frozen=True, slots=True)
class Heard:
    """Answers of gateways, and the reasons of those that gave none; both by service address."""

    gateways: dict[str, gateway_pb2.StatusResponse]
    silent: dict[str, str]


async def ask_all(service_addresses: Sequence[str]) -> Heard:
    """Ask all at once for their status."""
    answers = await asyncio.gather(*map(ask_status, service_addresses), return_exceptions=True)
    heard = Heard({}, {})
    for address, answer in zip(service_addresses, answers, strict=True):
        if isinstance(answer, Failed):
            heard.silent[address] = str(answer)
        elif isinstance(answer, BaseException):
            raise answer
        else:
            heard.gateways[address] = answer
    return heard


def client_addresses(heard: Heard) -> list[tuple[str, str]]:
    """Where clients connect: (gateway id, HOST:PORT of its first listener), of each gateway that is not draining."""
    found = []
    for service_address, gateway in heard.gateways.items():
        if gateway.draining or not gateway.listeners:
            continue
        address = parse_address(gateway.listeners[0].address)
        service = parse_address(service_address)
        if address is None or service is None:
            continue
        host = service[0] if address[0] in EVERY_ADDRESS else address[0]
        found.append((gateway.gateway_id, join(host, address[1])))
    return found
