"""The links to all workers that the registry knows: opened, watched, opened again.

The registry proposes, the links decide: one whose link breaks is failed over at once, whatever the registry says, and a
registry that is down, empty or wrong takes nobody away. What people say by it counts: a worker in maintenance mode, or
deregistered beyond doubt while others of its service serve, is drained.
"""

from __future__ import annotations

import asyncio
import logging

from gatecrew.v1 import worker_pb2
from gatecrew_registry import Registry, Snapshot

from ..actions import Actions
from ..config import GatewayConfig
from ..counters import Counters
from ..deadlines import Deadlines
from ..dispatcher import Dispatcher
from ..memory import Memory
from ..routing.link import LinkState
from .member import Member
from .outflow import Outflow
from .retry import Attempts
from .stream import StreamLink
from .trust import Trust
from .unary import UnaryLink

log = logging.getLogger("gatecrew.gateway")

WORKER_TAG = "gatecrew-worker"
MAX_WORKERS = 256  # per service; the registry is not to be trusted without bound
TICK_S = 0.1
STALL_S = 0.5  # a tick so late says that we stood still, not the workers


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
        memory: Memory,
        counters: Counters,
    ) -> None:
        self.trust = trust
        self.hello = hello
        self.dispatcher = dispatcher
        self.actions = actions
        self.outflow = outflow
        self.memory = memory
        self.counters = counters
        self.members: dict[str, Member] = {}
        self.attempts = Attempts()
        self._leaving: list[Member] = []  # in maintenance or deregistered
        self._closed = False
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

    def reconcile(self, workers: Snapshot) -> None:
        listed = {entry.id: entry for entries in workers.values() for entry in entries[:MAX_WORKERS]}
        for id, entry in listed.items():
            member = self.members.get(id)
            if member is None:
                self.members[id] = Member(self, entry)
            else:
                member.update(entry)
        now = self._loop.time()
        for id, member in self.members.items():
            if id not in listed:
                member.unlist(now if id in workers.deregistered else None)
        self._leaving = [
            member
            for member in self.members.values()
            if member.deregistered_at is not None or (member.listed and member.entry.maintenance)
        ]

    def left(self, member: Member) -> None:
        """Its task has ended."""
        id = member.entry.id
        if self.members.get(id) is member:
            del self.members[id]
            if member.listed and not self._closed:  # it was listed again meanwhile
                self.members[id] = Member(self, member.entry)

    def _linked(self) -> list[tuple[Member, StreamLink | UnaryLink]]:
        return [
            (member, member.link)
            for member in self.members.values()
            if member.link is not None and member.link.link is not None and member.link.link.state is not LinkState.LOST
        ]

    def links(self) -> list[StreamLink | UnaryLink]:
        """Those that are up."""
        return [link for _, link in self._linked()]

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
        for member, shell in self._linked():
            self._judge(member, shell, now)
        if self._leaving:
            self._see_off(now)

    def _see_off(self, now: float) -> None:
        """Drain who is to leave: at once in maintenance; after a grace if deregistered, and while others serve."""
        serving = {each.entry.service for each in self.members.values() if each.is_serving}
        for member in self._leaving:
            since = member.deregistered_at
            if since is not None and now - since < self._config.deregistered_grace_s:
                continue
            if since is not None and member.entry.service not in serving:
                if not member.kept and member.is_ready:
                    member.kept = True
                    log.warning("worker %s is deregistered: it stays, the last of its service", member.entry.id)
                continue
            member.kept = False
            member.leave()

    def _judge(self, member: Member, shell: StreamLink | UnaryLink, now: float) -> None:
        link = shell.link
        silent = now - shell.heard_at
        if link is None or link.state is LinkState.LOST or shell.is_closing(now):
            return
        if silent > self._config.lost_after_s:
            told = {"worker": link.worker_id}
            log.warning("worker %s has been silent for %.1f s: given up", link.worker_id, silent, extra=told)
            shell.frozen(member.is_blocked, blame=not self._are_others_silent(shell, now))
        elif silent > self._config.suspect_after_s:
            if link.state is LinkState.READY:
                self.dispatcher.suspected(link)
                member.doubt()
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
        self._closed = True
        tasks = [member.task for member in self.members.values()]
        for member in self.members.values():
            member.listed = False
            member.task.cancel()
        if tasks:
            await asyncio.wait(tasks)
