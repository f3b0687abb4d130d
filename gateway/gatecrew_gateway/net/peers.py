"""The other gateways: carries what the Gateway service is asked to do to sessions that they hold."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gatecrew.v1 import gateway_pb2_grpc
from gatecrew_registry import Entry, Registry

log = logging.getLogger("gatecrew.gateway")

GATEWAY_TAG = "gatecrew-gateway"
HOP = "gatecrew-hop"  # metadata of a call that a gateway makes for another: it must not travel on
WITHIN_S = 2.0
LOOK_AGAIN_S = 0.5  # at one that is silent

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


class Peer:
    """One other gateway. Once it has let a call pass its deadline it is not asked, and nobody waits for it, until its
    health service answers again.
    """

    def __init__(self, id: str, address: str) -> None:
        self.address = address
        self.prefix = -1
        self.gateway_id = ""
        self._id = id
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._complained = False
        self._unknown: set[str] = set()  # methods that it does not know: it is older than we are
        self._looking: asyncio.Task[None] | None = None

    async def ask(self, method: str, request: object, within_s: float) -> object | None:
        """Make a call of the Gateway service; None: no answer."""
        if method in self._unknown or (self._looking is not None and not self._looking.done()):
            return None
        stub = gateway_pb2_grpc.GatewayStub(self._channel)
        try:
            answer: object = await getattr(stub, method)(request, timeout=within_s, metadata=((HOP, "1"),))
        except grpc.aio.AioRpcError as error:
            self._failed(method, error, within_s)
            return None
        self._complained = False
        return answer

    def update(self, gateway_id: str, prefix: str) -> None:
        """What the registry says of it now: the address may have gone to its successor."""
        if gateway_id != self.gateway_id:
            self.gateway_id = gateway_id
            self._unknown.clear()
        self.prefix = int(prefix) if prefix.isdecimal() else -1

    def _failed(self, method: str, error: grpc.aio.AioRpcError, within_s: float) -> None:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            self._unknown.add(method)
            log.info("%s at %s does not know %s: it is not asked again", self._id, self.address, method)
            return
        is_silent = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        if not self._complained:
            self._complained = True
            reason = f"within {within_s:g} s" if is_silent else f"{error.code().name} {error.details()}"
            log.warning("%s at %s gave no answer to %s: %s", self._id, self.address, method, reason)
        if is_silent and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look(), name=f"look at {self._id}")

    async def _look(self) -> None:
        health = health_pb2_grpc.HealthStub(self._channel)
        while True:
            try:
                await health.Check(health_pb2.HealthCheckRequest(), timeout=WITHIN_S)
                break
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):
                    break  # an answer
            await asyncio.sleep(LOOK_AGAIN_S)
        log.info("%s at %s answers again", self._id, self.address)

    async def aclose(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        await self._channel.close()


class Peers:
    def __init__(self, registry: Registry, own_id: str) -> None:
        self._registry = registry
        self._own_id = own_id
        self.known: dict[str, Peer] = {}  # by registry id
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
        for id, peer in list(self.known.items()):
            entry = listed.get(id)
            if entry is None or entry.address != peer.address:
                self._drop(id)
        for id, entry in listed.items():
            if id not in self.known:
                self.known[id] = Peer(id, entry.address)
            self.known[id].update(entry.meta.get("gateway_id", ""), entry.meta.get("session_prefix", ""))

    def _drop(self, id: str) -> None:
        task = asyncio.create_task(self.known.pop(id).aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def ask(
        self, method: str, request: object, prefix: int | None = None, within_s: float = WITHIN_S
    ) -> tuple[list[object], int]:
        """Make a call of the Gateway service to all others, or to the one whose sessions have this prefix.

        Returns the answers, and how many of those who were to answer did not.
        """
        asked = [peer for peer in self.known.values() if prefix is None or peer.prefix == prefix]
        if not asked:
            return [], 0
        answers = await asyncio.gather(*(peer.ask(method, request, within_s) for peer in asked))
        heard = [answer for answer in answers if answer is not None]
        return heard, len(asked) - len(heard)

    async def aclose(self) -> None:
        for id in list(self.known):
            self._drop(id)
        if self._closing:
            await asyncio.wait(self._closing)
