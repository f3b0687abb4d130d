"""The links to all workers that the registry knows: opened, watched, opened again.

The registry proposes, the links decide: a worker that is gone from the registry but whose link is healthy stays, and
one whose link breaks is failed over at once, whatever the registry says.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping

import grpc
import grpc.aio

from gatecrew.v1 import worker_pb2
from gatecrew_registry import Entry, Registry

from ..actions import Actions
from ..config import ConfigError, GatewayConfig, parse_commands
from ..counters import Counters
from ..deadlines import Deadlines
from ..dispatcher import Dispatcher
from ..routing.link import LinkState
from .outflow import Outflow
from .stream import Refused, StreamLink, Unimplemented
from .trust import Trust
from .unary import UnaryLink

log = logging.getLogger("gatecrew.gateway")

WORKER_TAG = "gatecrew-worker"
MAX_WORKERS = 256  # per service; the registry is not to be trusted without bound
RECONNECT_FIRST_S = 0.1
RECONNECT_MOST_S = 1.0
TICK_S = 0.1
STALL_S = 0.5  # a tick so late says that we stood still, not the workers

CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # gRPC would send our links to a proxy that the environment has for web pages
    # The second is what really ends a silent connection: reliability of keepalive_timeout_ms alone is 60 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    # A worker that is back must be used within a second, not after gRPC's back-off of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # This one is how long the handshakes of TCP, TLS and HTTP/2 may take together: over an ocean, on a busy machine.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_retries", 0),  # failover is ours
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.max_send_message_length", 4 << 20),
)


class Member:
    """One worker of the registry: keeps a link to it while it is listed, or while the link lives."""

    def __init__(self, crew: Crew, entry: Entry) -> None:
        self.entry = entry
        self.listed = True
        self.link: StreamLink | UnaryLink | None = None
        self._crew = crew
        self._retry = asyncio.Event()
        self.task = asyncio.create_task(self._run(), name=f"link {entry.id}")
        self.task.add_done_callback(lambda _: crew.left(self))

    def update(self, entry: Entry) -> None:
        if entry != self.entry:
            self.entry = entry
            self._retry.set()

    def unlist(self) -> None:
        """The registry knows it no more: it stays for as long as its link holds."""
        self.listed = False
        self._retry.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        pause = RECONNECT_FIRST_S
        refusal = ""
        while self.listed:
            entry = self.entry
            began = loop.time()
            self._retry.clear()
            try:
                channel = self._crew.trust.open(entry, CHANNEL_OPTIONS)
            except ConfigError as error:
                log.error("%s; no link to %s", error, entry.id)
                await self._wait(pause)
                continue
            try:
                if await self._serve(channel, entry):
                    pause, refusal = RECONNECT_FIRST_S, ""
            except Refused as error:
                refusal = self._complain(entry, str(error), refusal)
            except grpc.aio.AioRpcError as error:
                if self._crew.trust.is_tls:  # nobody there, or somebody with a wrong certificate
                    refusal = self._complain(entry, error.details() or "", refusal)
            except ConfigError as error:
                log.warning("worker %s: %s", entry.id, error)
            except Exception:
                log.exception("link to %s", entry.id)  # a bug of ours, which must not cost us the worker
            finally:
                self.link = None
                await channel.close()
            # From start to start, so that a host which answers nothing is asked as often as one that refuses.
            rest = max(RECONNECT_FIRST_S, pause - (loop.time() - began))
            if self.listed and not await self._wait(rest):
                pause = min(pause * 1.6, RECONNECT_MOST_S)

    def _complain(self, entry: Entry, reason: str, last: str) -> str:
        if reason != last:
            log.warning("worker %s at %s refused: %s", entry.id, entry.address, reason)
        return reason

    async def _wait(self, pause: float) -> bool:
        """About so long; returns at once, and whether, there is a reason to try again."""
        try:
            async with asyncio.timeout(pause * random.uniform(0.8, 1.2)):
                return await self._retry.wait()
        except TimeoutError:
            return False

    async def _serve(self, channel: grpc.aio.Channel, entry: Entry) -> bool:
        """Run a link to its end; returns whether there was one."""
        crew = self._crew
        stream = self.link = StreamLink(
            channel, entry.service, entry.id, crew.hello, crew.dispatcher, crew.actions, crew.outflow, crew.counters
        )
        try:
            await stream.run()
            return True
        except Unimplemented:
            commands = parse_commands(entry.meta.get("commands", "*"))
            self.link = UnaryLink(
                channel,
                entry.service,
                entry.id,
                commands,
                crew.hello.service_address,
                crew.dispatcher,
                crew.counters,
            )
            await self.link.run()
            return True


class Crew:
    """Watches the registry and keeps the members; ticks the clock of everything that has deadlines."""

    def __init__(
        self,
        config: GatewayConfig,
        registry: Registry,
        trust: Trust,
        hello: worker_pb2.GatewayHello,
        dispatcher: Dispatcher,
        actions: Actions,
        outflow: Outflow,
        counters: Counters,
    ) -> None:
        self.trust = trust
        self.hello = hello
        self.dispatcher = dispatcher
        self.actions = actions
        self.outflow = outflow
        self.counters = counters
        self.members: dict[str, Member] = {}
        self._deadlines = Deadlines(dispatcher)
        self._config = config
        self._registry = registry
        self._loop = asyncio.get_running_loop()
        self._ticked_at = self._loop.time()
        self._beat_at = 0.0

    async def watch(self) -> None:
        """Follow the registry, until cancelled."""
        async for workers in self._registry.watch(WORKER_TAG):
            self.reconcile(workers)

    def reconcile(self, workers: Mapping[str, tuple[Entry, ...]]) -> None:
        listed = {entry.id: entry for entries in workers.values() for entry in entries[:MAX_WORKERS]}
        for id, entry in listed.items():
            member = self.members.get(id)
            if member is None:
                self.members[id] = Member(self, entry)
            else:
                member.listed = True
                member.update(entry)
        for id, member in self.members.items():
            if id not in listed:
                member.unlist()

    def left(self, member: Member) -> None:
        if self.members.get(member.entry.id) is member:
            del self.members[member.entry.id]

    def links(self) -> list[StreamLink | UnaryLink]:
        """Those that are up."""
        return [
            member.link
            for member in self.members.values()
            if member.link is not None and member.link.link is not None and member.link.link.state is not LinkState.LOST
        ]

    def forget(self, session_id: int) -> None:
        for link in self.links():
            link.forget(session_id)

    def tick(self, now: float) -> None:
        """Every TICK_S: deadlines, heartbeats, silence."""
        late = now - self._ticked_at - TICK_S
        self._ticked_at = now
        links = self.links()
        if late > STALL_S:
            # We stood still, so the workers' answers are still unread: hear them before judging anyone.
            self.counters.loop_stalls += 1
            for shell in links:
                shell.heard_at = max(shell.heard_at, now - self._config.heartbeat_s)
        for shell in links:
            if shell.link is not None:
                self._deadlines.sweep_link(shell.link, now)
        self._deadlines.sweep(now)
        if now - self._beat_at >= self._config.heartbeat_s:
            self._beat_at = now
            for shell in links:
                shell.beat()
        for shell in links:
            self._judge(shell, now)

    def _judge(self, shell: StreamLink | UnaryLink, now: float) -> None:
        link = shell.link
        silent = now - shell.heard_at
        if link is None or link.state is LinkState.LOST:
            return
        if silent > self._config.lost_after_s:
            log.warning("worker %s has been silent for %.1f s: given up", link.worker_id, silent)
            shell.frozen(blame=not self._are_others_silent(shell, now))
        elif silent > self._config.suspect_after_s:
            if link.state is LinkState.READY:
                self.dispatcher.suspected(link)
        elif link.state is LinkState.SUSPECT:
            self.dispatcher.recovered(link)

    def _are_others_silent(self, shell: StreamLink | UnaryLink, now: float) -> bool:
        """Whether most other workers have missed a heartbeat too: then the machine or the network has stood still, and
        no packet is to blame.
        """
        longest = max(self._config.heartbeat_s, self._config.lost_after_s - self._config.heartbeat_s)
        others = [now - other.heard_at for other in self.links() if other is not shell]
        return sum(silent > longest for silent in others) * 2 > len(others)

    async def aclose(self) -> None:
        tasks = [member.task for member in self.members.values()]
        for member in self.members.values():
            member.listed = False
            member.task.cancel()
        if tasks:
            await asyncio.wait(tasks)
