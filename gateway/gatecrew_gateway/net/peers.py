"""The other gateways: carries what the Gateway service is asked to do to sessions that they hold."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TypeVar

import grpc
import grpc.aio

from gatecrew.v1 import gateway_pb2_grpc
from gatecrew_registry import Entry, Registry

log = logging.getLogger("gatecrew.gateway")

GATEWAY_TAG = "gatecrew-gateway"
HOP = "gatecrew-hop"  # metadata of a call that a gateway makes for another: it must not travel on
WITHIN_S = 2.0

CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    # With keepalive a connection ends when what was sent has been unconfirmed for 5 s. Without it, TCP tries again at
    # ever longer intervals, so that after a network is healed pushes are lost for about as long as it was cut.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # And a gateway that can be reached again must be within a second, not after gRPC's back-off of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # how long connecting may take
    ("grpc.max_reconnect_backoff_ms", 1_000),
)

Message = TypeVar("Message")


class Peers:
    def __init__(self, registry: Registry, own_id: str) -> None:
        self._registry = registry
        self._own_id = own_id
        self._channels: dict[str, tuple[str, grpc.aio.Channel]] = {}  # registry id -> (address, channel)
        self._prefixes: dict[str, int] = {}  # registry id -> session prefix
        self._closing: set[asyncio.Task[None]] = set()

    async def watch(self) -> None:
        """Follow the registry, until cancelled."""
        async for gateways in self._registry.watch(GATEWAY_TAG):
            self._reconcile(gateways)

    def _reconcile(self, gateways: Mapping[str, tuple[Entry, ...]]) -> None:
        listed = {
            entry.id: entry
            for entries in gateways.values()
            for entry in entries
            if entry.meta.get("gateway_id") != self._own_id
        }
        for id, (address, _) in list(self._channels.items()):
            entry = listed.get(id)
            if entry is None or entry.address != address:
                self._drop(id)
        for id, entry in listed.items():
            address = entry.address
            if id not in self._channels:
                self._channels[id] = (address, grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS))
            prefix = entry.meta.get("session_prefix", "")
            self._prefixes[id] = int(prefix) if prefix.isdecimal() else -1

    def _drop(self, id: str) -> None:
        _, channel = self._channels.pop(id)
        self._prefixes.pop(id, None)
        task = asyncio.create_task(channel.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def ask(
        self, method: str, request: object, prefix: int | None = None, within_s: float = WITHIN_S
    ) -> list[object]:
        """Make a call of the Gateway service to all others, or to the one whose sessions have this prefix.

        Returns the answers of those that gave one.
        """
        channels = [
            channel for id, (_, channel) in self._channels.items() if prefix is None or self._prefixes.get(id) == prefix
        ]
        if not channels:
            return []
        answers = await asyncio.gather(*(self._ask(channel, method, request, within_s) for channel in channels))
        return [answer for answer in answers if answer is not None]

    async def _ask(self, channel: grpc.aio.Channel, method: str, request: object, within_s: float) -> object | None:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        try:
            answer: object = await getattr(stub, method)(request, timeout=within_s, metadata=((HOP, "1"),))
            return answer
        except grpc.aio.AioRpcError as error:
            log.warning("a gateway did not answer %s: %s %s", method, error.code().name, error.details())
            return None

    async def aclose(self) -> None:
        for id in list(self._channels):
            self._drop(id)
        if self._closing:
            await asyncio.wait(self._closing)
