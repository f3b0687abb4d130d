"""The registry as the command line's processes reach it, with errors that their user can mend."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping

from gatecrew_registry import Entry, NoAnswer, Registry, RegistryError, RegistrySettings, Timing

from .errors import UserError
from .ports import EVERY_ADDRESS

LIST_WITHIN_S = 5.0


def registry_settings(environment: Mapping[str, str] = os.environ) -> RegistrySettings:
    """Where the registry is, from CONSUL_HTTP_ADDR and its family.

    Raises:
        UserError: a variable makes no sense.
    """
    try:
        return RegistrySettings.from_env(environment)
    except RegistryError as error:
        raise UserError(str(error)) from None


class Unreachable(UserError):
    """The registry does not answer."""


async def check_reachable(registry: Registry) -> None:
    """Ask it for its leader.

    Raises:
        UserError: it is down, or is no registry.
    """
    try:
        await registry.leader()
    except RegistryError as error:
        kind = Unreachable if isinstance(error, NoAnswer) else UserError
        raise kind(f"{error}; start it, or say where it is with CONSUL_HTTP_ADDR") from None


async def list_entries(settings: RegistrySettings, *tags: str) -> list[list[Entry]]:
    """All instances that have a tag, as they are now; a list for each tag.

    Raises:
        UserError: the registry does not answer, or does not let us read.
    """
    async with Registry(settings) as registry:
        await check_reachable(registry)
        try:
            async with asyncio.timeout(LIST_WITHIN_S):
                await registry.query_services(0, Timing())  # a watch would go on trying
                return [await _list(registry, tag) for tag in tags]
        except RegistryError as error:
            raise UserError(str(error)) from None
        except TimeoutError:
            raise UserError(f"registry {settings.url}: no list within {LIST_WITHIN_S:g} s") from None


async def _list(registry: Registry, tag: str) -> list[Entry]:
    async with contextlib.aclosing(registry.watch(tag)) as snapshots:
        services = await anext(snapshots)
    return [entry for name in sorted(services) for entry in services[name]]


def advertised_host(listen_host: str, settings: RegistrySettings) -> str:
    """The host that others are told for a server listening there.

    For one that listens on every address: the address of the interface that leads to the registry. It is where the
    others are too, or they could not have heard of us.
    """
    if listen_host not in EVERY_ADDRESS:
        return listen_host
    try:
        family, kind, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)  # datagrams: nothing is sent
            return str(probe.getsockname()[0])
    except OSError as error:
        raise UserError(f"no way to the registry {settings.host}: {error}; or say our host with --advertise") from None
