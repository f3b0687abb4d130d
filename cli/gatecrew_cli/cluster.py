"""What `gatecrew up` runs: registry, workers, gateways, as children of one supervising process.

They start in this order, so that each finds what it needs, and stop in the reverse one: gateways stop listening and
finish while their workers are there, workers leave a registry that is alive.
"""

import asyncio
import contextlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, replace

from gatecrew_gateway.config import GatewayConfig

from .child import command as own_command
from .console import Console
from .errors import UserError
from .loop import stop_requested
from .ports import join, reason_not_to_bind
from .settings import Settings, WorkerConfig
from .supervisor import Child, Command, Facts
from .watchdog import GATEWAY_S

REGISTRY_PORT = 8500  # where every Consul tool looks first
STOP_MARGIN_S = 5.0  # over the drain, then a child is killed
WORKER_STOP_S = 15.0


class Cluster:
    """The children of one `gatecrew up`. One that is silent for `unresponsive_after_s` seconds is killed, to start
    again, a gateway after GATEWAY_S at most; 0: never. `client` is a command that talks to it, for people; {} in it is
    where clients connect."""

    def __init__(self, settings: Settings, gateways: int, client: str, unresponsive_after_s: float) -> None:
        self._settings = settings
        self._client = client
        self._unresponsive_after_s = unresponsive_after_s
        self._gateways = {config.name: config for config in settings.gateways(gateways)}
        starts = [(each, number) for each in settings.worker for number in range(each.count)]
        self._workers = {f"worker-{number}": start for number, start in enumerate(starts, 1)}
        self._console = Console(["registry", *self._workers, *self._gateways])
        self._environment = {**os.environ, **settings.registry.environment(), "PYTHONUNBUFFERED": "1"}
        self._groups: list[tuple[list[Child], float]] = []  # in order of start, with the time that each has to stop

    async def run(self) -> None:
        """Until a signal. Returns when all children have gone.

        Raises:
            UserError: a child says that its input is bad; nothing is left running.
        """
        with contextlib.closing(self._console):
            await self._run(stop_requested(self._kill))
            self._console.say("stopped")

    async def _run(self, stop: asyncio.Event) -> None:
        starting = asyncio.create_task(self._start())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await stopping
            self._console.say("stopping")
        finally:
            starting.cancel()
            stopping.cancel()
            for group, stop_s in reversed(self._groups):
                await asyncio.gather(*(child.stop(stop_s) for child in group))
            await asyncio.gather(starting, stopping, return_exceptions=True)

    async def _start(self) -> None:
        for config in self._gateways.values():
            _check_listeners(config)
        registry = await self._start_registry()
        # Workers before gateways: these find all of them at once, and are ready when they are linked to all.
        workers = await self._start_group(
            {name: _worker_command(*start) for name, start in self._workers.items()}, WORKER_STOP_S
        )
        gateways = await self._start_group(
            {name: _gateway_command(config, len(self._workers)) for name, config in self._gateways.items()},
            self._settings.gateway.drain_s + STOP_MARGIN_S,
            GATEWAY_S,
        )
        say = self._console.say
        say(f"registry: {registry}")
        if not self._settings.registry.address:
            say(f"page: http://{self._environment['CONSUL_HTTP_ADDR']}/ui/")
        for name, facts in zip(self._workers, workers, strict=True):
            say(f"{name}: {facts['service']} on {facts['address']}, pid {facts['pid']}")
        for name, facts in zip(self._gateways, gateways, strict=True):
            listeners = ", ".join(f"{name} on {address}" for name, address in _listeners(facts).items())
            say(f"{name}: {listeners}, service on {facts['service']}, pid {facts['pid']}")
        first = next(iter(_listeners(gateways[0]).values()))
        say(f"ready: clients connect to {first}, such as `{self._client.replace('{}', first)}`")

    async def _start_registry(self) -> str:
        """Returns where it is, as a URL for people."""
        registry = self._settings.registry
        if registry.address:
            from gatecrew_registry import Registry  # costs an HTTP client, so only here

            from .registry_access import Unreachable, check_reachable, registry_settings

            async with Registry(registry_settings(self._environment)) as consul:
                try:
                    await check_reachable(consul)
                except Unreachable as error:
                    if not os.environ.get("CONSUL_HTTP_ADDR"):
                        raise
                    stale = f"CONSUL_HTTP_ADDR names a registry that does not answer, {consul.settings.url}"
                    raise UserError(f"{stale}; unset it, and `up` starts its own") from error
                return consul.settings.url
        listen = (
            registry.listen or f"127.0.0.1:{0 if reason_not_to_bind('127.0.0.1', REGISTRY_PORT) else REGISTRY_PORT}"
        )
        [facts] = await self._start_group({"registry": _registry_command(listen)}, STOP_MARGIN_S)
        address = self._environment["CONSUL_HTTP_ADDR"] = facts["address"]
        where = f"http://{address}, pid {facts['pid']}"
        if address.endswith(f":{REGISTRY_PORT}"):
            return where
        return f"{where}; other commands find it with CONSUL_HTTP_ADDR={address}"

    async def _start_group(
        self, commands: dict[str, Command], stop_s: float, most_silent_s: float = math.inf
    ) -> Sequence[Facts]:
        """Start beside each other; returns when all are ready, with what they said of themselves."""
        silent_s = min(self._unresponsive_after_s, most_silent_s)
        group = [Child(name, command, self._environment, self._console, silent_s) for name, command in commands.items()]
        self._groups.append((group, stop_s))
        return await asyncio.gather(*(child.started for child in group))

    def _kill(self) -> None:
        for group, _ in self._groups:
            for child in group:
                child.kill()


def _listeners(facts: Facts) -> dict[str, str]:
    """Of what a gateway says of itself: listener name -> address."""
    return {key.removeprefix("listener-"): value for key, value in facts.items() if key.startswith("listener-")}


# A child that starts again gets the addresses that it had: clients come back to them, and the registry knows them.


def _registry_command(listen: str) -> Command:
    return lambda last: own_command("registry", "--listen", last.get("address", listen))


def _worker_command(worker: WorkerConfig, number: int) -> Command:
    listen = join(worker.host, worker.port and worker.port + number)
    return lambda last: own_command("worker", worker.target, "--listen", last.get("address", listen))


def _gateway_command(config: GatewayConfig, workers: int) -> Command:
    def command(last: Facts) -> list[str]:
        addresses = _listeners(last)
        again = replace(
            config,
            service_port=_port(last.get("service"), config.service_port),
            listeners=tuple(
                replace(each, port=_port(addresses.get(each.name), each.port)) for each in config.listeners
            ),
        )
        return own_command("gateway", "--handed-down", json.dumps({"config": asdict(again), "workers": workers}))

    return command


def _port(address: str | None, otherwise: int) -> int:
    return int(address.rpartition(":")[2]) if address else otherwise


def _check_listeners(config: GatewayConfig) -> None:
    """Find out that a port is in use before anything is started, rather than from the gateway, which comes last."""
    for listener in config.listeners:
        reason = reason_not_to_bind(listener.host, listener.port)
        if reason:
            where = join(listener.host, listener.port)
            raise UserError(f"listener {listener.name}: {where}: {reason}; choose another with --listen")
