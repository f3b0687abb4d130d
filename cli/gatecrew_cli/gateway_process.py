"""The life of a gateway process: start, say where it listens, drain when told to stop."""

import asyncio
from dataclasses import replace
from typing import Any

from gatecrew_gateway import Gateway, GatewayConfig, ListenerConfig, RouteConfig
from gatecrew_gateway.config import ConfigError
from gatecrew_registry import Registry

from . import ready
from .asking import ask_status
from .errors import UserError
from .loop import stop_requested
from .registry_access import advertised_host, registry_settings

LINKED_WITHIN_S = 5.0
LOOK_AGAIN_S = 0.02


def read_handed_down(handed_down: dict[str, Any]) -> tuple[GatewayConfig, int]:
    """Settings that a supervising process has checked already, and how many workers it started."""
    config = handed_down["config"]
    config["listeners"] = tuple(ListenerConfig(**listener) for listener in config["listeners"])
    config["routes"] = tuple(RouteConfig(**route) for route in config["routes"])
    return GatewayConfig(**config), handed_down["workers"]


async def serve(config: GatewayConfig, workers: int) -> None:
    """Run a gateway until SIGTERM or SIGINT, then drain it. It says that it is ready when it is linked to so many
    workers, so that who connects then is served at once.

    Raises:
        UserError: an address can't be had.
    """
    stop = stop_requested()
    settings = registry_settings()
    if not config.advertise_host:
        config = replace(config, advertise_host=advertised_host(config.service_host, settings))
    async with Registry(settings) as registry:
        try:
            gateway = Gateway(config, registry)
        except ConfigError as error:
            raise UserError(str(error)) from None
        try:
            await gateway.start()
        except OSError as error:
            raise UserError(_explain(error, gateway)) from None
        try:
            await _linked(gateway.service_address, workers)
            listeners = {f"listener-{name}": address for name, address in gateway.addresses.items()}
            ready.announce("gateway", **listeners, service=gateway.service_address)
            await stop.wait()
            await gateway.drain()
        finally:
            await gateway.aclose()


def _explain(error: OSError, gateway: Gateway) -> str:
    if error.errno is None:
        return str(error)
    # Listeners start in order, so the first without an address is the one that failed.
    listener = next(each for each in gateway.config.listeners if not gateway.addresses[each.name])
    return f"listener {listener.name}: {listener.host}:{listener.port}: {error.strerror}; choose another with --listen"


async def _linked(service_address: str, workers: int) -> None:
    """Return when so many workers are linked, or after a while without them: a gateway serves with those it has."""
    try:
        async with asyncio.timeout(LINKED_WITHIN_S):
            while True:
                status = await ask_status(service_address)
                if sum(link.state == "ready" for link in status.links) >= workers:
                    return
                await asyncio.sleep(LOOK_AGAIN_S)
    except TimeoutError:
        return
