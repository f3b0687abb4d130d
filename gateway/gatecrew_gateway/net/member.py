"""One worker of the registry: tries to link to it for as long as it is listed, and keeps the link while it holds."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from gatecrew_registry import Entry

from ..config import ConfigError, parse_commands
from ..routing.link import LinkState
from . import probe
from .probe import Refused
from .retry import FIRST_S, Retry
from .stream import StreamLink, Unimplemented
from .unary import UnaryLink

if TYPE_CHECKING:
    from .crew import Crew

log = logging.getLogger("gatecrew.gateway")

SETTLED_S = 1.0  # a link that ends sooner is no better than a failed attempt
QUIET_S = 10.0  # a link that lived so long makes the next refusal worth a line again
MAX_TEXT = 200  # characters of what a server says

# No keepalive pings: every link has a heartbeat each second, which ends a silent one long before they would.
CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # gRPC would send our links to a proxy that the environment has for web pages
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
CORE_FAILED = "Internal error from Core"  # grpc.aio hides a status behind it that comes while a write is under way


class Member:
    """`deregistered_at`: loop time when the registry stopped listing it beyond doubt; None while nobody meant that."""

    def __init__(self, crew: Crew, entry: Entry) -> None:
        self.entry = entry
        self.listed = True
        self.deregistered_at: float | None = None
        self.link: StreamLink | UnaryLink | None = None
        self.kept = False  # deregistered, and the last of its service
        self._crew = crew
        self._retry = Retry()
        self._changed = asyncio.Event()
        self._refusal = ""
        self._shaking: asyncio.Task[bool] | None = None
        self.task = asyncio.create_task(self._run(), name=f"link {entry.id}")
        self.task.add_done_callback(lambda _: crew.left(self))

    # What the registry says.

    def update(self, entry: Entry) -> None:
        """It is listed, so."""
        self.listed = True
        self.deregistered_at = None
        self.kept = False
        if entry != self.entry:
            # That it is critical is no reason to try it again.
            is_news = entry.status == "passing" or replace(entry, status=self.entry.status) != self.entry
            self.entry = entry
            if is_news:
                self._retry.reset()
                self._changed.set()

    def unlist(self, deregistered_at: float | None) -> None:
        """The registry knows it no more: without a link it is forgotten. `deregistered_at`: loop time if somebody meant
        that, and then its link is to leave after a grace; else it stays for as long as it holds.
        """
        self.listed = False
        if self.deregistered_at is None:
            self.deregistered_at = deregistered_at
        self._changed.set()

    @property
    def is_ready(self) -> bool:
        link = None if self.link is None else self.link.link
        return link is not None and link.state is LinkState.READY

    @property
    def is_serving(self) -> bool:
        """Whether it has a link that is there to stay."""
        return self.listed and not self.entry.maintenance and self.is_ready

    @property
    def status_text(self) -> str:
        """Why it gets nothing, or soon will not; for people."""
        if self.listed and self.entry.maintenance:
            return "in maintenance"
        if self.deregistered_at is not None:
            return "deregistered: stays, the last of its service" if self.kept else "deregistered"
        return "" if self.is_ready else self._refusal

    def leave(self) -> None:
        """Nothing new goes to it. What is open is finished, then the link closes. Called again until it has closed."""
        if self.link is not None and self.link.link is not None:
            if not self.link.is_leaving:
                log.info("worker %s at %s is %s: drained", self.entry.id, self.entry.address, self.status_text)
            self.link.leave()

    # While it is silent.

    def doubt(self) -> None:
        """Find out meanwhile whether its process runs; `is_blocked` tells."""
        self._end_doubt()
        self._shaking = asyncio.create_task(self._shakes_hands(), name=f"handshake {self.entry.id}")

    async def _shakes_hands(self) -> bool:
        try:
            channel = self._crew.trust.open(self.entry, CHANNEL_OPTIONS)
        except ConfigError:
            return False
        try:
            return await probe.shakes_hands(channel)
        finally:
            await channel.close()

    @property
    def is_blocked(self) -> bool:
        """Whether its process runs, so that it is a handler that keeps it from speaking. As far as we know."""
        done = self._shaking is not None and self._shaking.done() and not self._shaking.cancelled()
        return done and self._shaking is not None and self._shaking.exception() is None and self._shaking.result()

    def _end_doubt(self) -> None:
        if self._shaking is not None:
            self._shaking.cancel()
            self._shaking = None

    # The link.

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self.listed:
            self._changed.clear()
            if self.entry.maintenance:
                await self._changed.wait()
                continue
            began = loop.time()
            if self._crew.attempts.begin(self._retry.is_patient):
                await self._attempt(self.entry)
            # From start to start, so that a host which answers nothing is asked as often as one that refuses.
            rest = max(FIRST_S, self._retry.failed(loop.time()) - (loop.time() - began))
            if self.listed:
                await self._wait(rest)

    async def _wait(self, pause: float) -> None:
        """About so long, or until there is a reason to try again."""
        try:
            async with asyncio.timeout(pause * random.uniform(0.8, 1.2)):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _attempt(self, entry: Entry) -> None:
        """Open a link and serve it to its end."""
        loop = asyncio.get_running_loop()
        linked_at: float | None = None
        trying = True

        def opened() -> None:
            nonlocal linked_at, trying
            self._crew.attempts.end()
            trying = False
            linked_at = loop.time()
            self._retry.linked(linked_at)

        channel: grpc.aio.Channel | None = None
        try:
            channel = self._crew.trust.open(entry, CHANNEL_OPTIONS)
            await self._serve(channel, entry, opened)
        except Refused as error:
            self._complain(entry, str(error))
        except grpc.aio.AioRpcError as error:
            details = (error.details() or "")[:MAX_TEXT]
            if details == CORE_FAILED:
                pass  # what the worker answered while we wrote is not known; the next attempt tells
            elif error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                cure = (
                    "a worker that serves only Handle must answer UNIMPLEMENTED; if its library does not, say it there"
                )
                self._complain(entry, f"it answered Link with {error.code().name} {details!r}; {cure}")
            elif self._crew.trust.is_tls:  # nobody there, or somebody with a wrong certificate
                self._complain(entry, details)
        except ConfigError as error:
            self._complain(entry, str(error))
        except Exception:
            log.exception("link to %s", entry.id)  # a bug of ours, which must not cost us the worker
        finally:
            if trying:
                self._crew.attempts.end()
            self.link = None
            self._end_doubt()
            if channel is not None:
                await channel.close()
        lived_s = 0.0 if linked_at is None else loop.time() - linked_at
        if lived_s >= SETTLED_S:
            self._retry.reset()
        if lived_s >= QUIET_S:
            self._refusal = ""

    def _complain(self, entry: Entry, reason: str) -> None:
        if reason != self._refusal:
            self._refusal = reason
            log.warning("worker %s at %s refused: %s", entry.id, entry.address, reason, extra={"worker": entry.id})

    async def _serve(self, channel: grpc.aio.Channel, entry: Entry, opened: Callable[[], None]) -> None:
        """Run a link to its end."""
        crew = self._crew
        stream = self.link = StreamLink(
            channel,
            entry.service,
            entry.id,
            crew.hello,
            crew.dispatcher,
            crew.actions,
            crew.outflow,
            crew.memory,
            crew.counters,
        )
        try:
            hello = await stream.open()
        except Unimplemented:
            metadata = (("gatecrew-gateway", crew.hello.service_address),)  # where it can push, bind and kick
            await probe.check(channel, metadata)
        else:
            opened()
            await stream.run(hello)
            return
        commands = parse_commands(entry.meta.get("commands", "*"))
        unary = self.link = UnaryLink(
            channel, entry.service, entry.id, commands, metadata, crew.dispatcher, crew.counters
        )
        opened()
        await unary.run()
