"""A gateway process: builds its rooms, starts them, drains them, stops them."""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from gatecrew import __version__
from gatecrew.v1 import gateway_pb2, gateway_pb2_grpc, worker_pb2
from gatecrew_registry import Entry, Registration, Registry

from .actions import Actions
from .config import GatewayConfig, parse_size
from .counters import Counters
from .dispatcher import Dispatcher
from .memory import Holder, Memory
from .net.connection import Connection
from .net.crew import TICK_S, Crew
from .net.dead_letters import DeadLetters
from .net.descriptors import room_for_clients
from .net.entrance import House
from .net.listener import Listener
from .net.machine import available_memory, resident_memory
from .net.outflow import Outflow
from .net.peers import GATEWAY_TAG, Peers
from .net.service import GatewayService
from .net.suspicions import Suspicions
from .net.trust import Trust
from .replay import Replays
from .routing.pool import LINGER_S, Pool
from .session import PREFIX_BITS, SessionTable
from .wording import counted

log = logging.getLogger("gatecrew.gateway")

MOMENT_S = 0.02  # in which all workers of a host that has died are seen to be lost
HEALTH = "gatecrew.v1.Gateway"  # as the health service knows us


class Gateway:
    """`start`, then `drain` and `aclose`. Made inside a running loop; the registry stays the caller's.

    Raises:
        ConfigError: a certificate can't be read.
    """

    def __init__(self, config: GatewayConfig, registry: Registry) -> None:
        self.config = config
        self.gateway_id = f"{config.name}-{secrets.token_hex(4)}"
        self.service_address = ""
        self._registry = registry
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()
        self._draining = False
        self.counters = Counters()
        self._sessions = SessionTable(1 + secrets.randbelow((1 << PREFIX_BITS) - 1))
        self._actions = Actions(self._sessions, self.counters, self._loop.time)
        self._outflow = Outflow()
        limit = parse_size(config.memory_limit) if config.memory_limit else available_memory() // 2
        self._memory = Memory(
            limit, resident_memory(), self._connections, self._bytes_held, self._bytes_held_of, self.counters
        )
        self._dispatcher = Dispatcher(
            config, self._sessions, self.counters, self._loop.time, self._arm_linger, self._forget
        )
        self._dispatcher.quarantine.moment_s = MOMENT_S
        self._dispatcher.after_a_moment = self._after_a_moment
        self._hello = worker_pb2.GatewayHello(
            gateway_id=self.gateway_id, version=__version__, session_prefix=self._sessions.prefix
        )
        self._crew = Crew(
            config,
            registry,
            Trust(config),
            self._hello,
            self._dispatcher,
            self._actions,
            self._outflow,
            self._memory,
            self.counters,
        )
        self._peers = Peers(registry, self.gateway_id)
        self._suspicions = Suspicions(self._dispatcher, self._peers)
        house = House(min(room_for_clients(), config.max_sessions or sys.maxsize))
        self._listeners = [
            Listener(listener, self._dispatcher, self._sessions, self.counters, self._outflow, self._memory, house)
            for listener in config.listeners
        ]
        self._server: grpc.aio.Server | None = None
        self._registration: Registration | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def addresses(self) -> dict[str, str]:
        """Where clients connect: listener name -> host:port."""
        return {listener.config.name: listener.address for listener in self._listeners}

    async def start(self) -> None:
        """Listen, register, and begin to follow the registry.

        Raises:
            OSError: a port can't be had; nothing is left open.
        """
        try:
            await self._serve()
            for listener in self._listeners:
                await listener.start()
        except BaseException:
            await self.aclose()
            raise
        self._registration = Registration(self._registry, self._entry(), self._note)
        await self._registration.__aenter__()
        for name, work in (
            ("watch workers", self._crew.watch()),
            ("watch gateways", self._peers.watch()),
            ("tell gateways", self._suspicions.run()),
            ("tick", self._tick()),
        ):
            self._own(name, work)

    def _own(self, name: str, work: Coroutine[None, None, None]) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    async def _serve(self) -> None:
        # SO_REUSEPORT would let a second gateway on the same port take half of the calls.
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        replays = Replays(self._dispatcher, self._sessions, self._forget)
        dead_letters = DeadLetters(
            self.gateway_id,
            self._sessions.prefix,
            self._dispatcher.quarantine,
            replays,
            self._peers,
            self._loop.time,
        )
        status = GatewayService(
            self.gateway_id,
            self._sessions,
            self._actions,
            self._outflow,
            self._peers,
            dead_letters,
            self._suspicions,
            self._loop.time,
            self._status,
        )
        gateway_pb2_grpc.add_GatewayServicer_to_server(status, server)
        health = health_aio.HealthServicer()
        for name in ("", HEALTH):
            await health.set(name, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        address = f"{self.config.service_host}:{self.config.service_port}"
        try:
            port = server.add_insecure_port(address)
        except RuntimeError:
            raise OSError(
                f"can't listen on {address} for the Gateway service: in use, or not an address of ours"
            ) from None
        await server.start()
        self._server = server
        self.service_address = f"{self.config.advertise_host or self.config.service_host}:{port}"
        self._hello.service_address = self.service_address

    def _entry(self) -> Entry:
        host, _, port = self.service_address.rpartition(":")
        listeners = ",".join(f"{name}={address}" for name, address in self.addresses.items())
        return Entry(
            service="gatecrew-gateway",
            id=f"gatecrew-gateway-{host}-{port}",
            host=host,
            port=int(port),
            tags=(GATEWAY_TAG,),
            meta={
                "contract": "v1",
                "gateway_id": self.gateway_id,
                "session_prefix": str(self._sessions.prefix),
                "listeners": listeners[:512],
                "version": __version__,
            },
            # By name: whatever has our address after us, a worker in a container say, shall not look like us.
            check_service=HEALTH,
        )

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now = self._loop.time()
            self._do("crew", self._crew.tick, now)
            self._do("memory", self._look_at_memory)
            for listener in self._listeners:
                self._do(listener.config.name, listener.sweep, now)

    def _do(self, name: str, work: Callable[..., None], *arguments: float) -> None:
        try:
            work(*arguments)
        except Exception:
            log.exception("tick of %s", name)  # a bug of ours; the others must not stand still for it

    def _look_at_memory(self) -> None:
        if self._memory.has_cut:
            self._dispatcher.drop_forfeit()
        self._memory.tick()
        self._dispatcher.out_of_memory = self._memory.refuses

    def _connections(self) -> Iterator[Connection]:
        for listener in self._listeners:
            yield from listener.connections

    def _bytes_held(self) -> int:
        return self._dispatcher.bytes_held()

    def _bytes_held_of(self) -> Mapping[Holder, int]:
        """Of each connection. What is left of those that have gone is nobody's."""
        held = self._dispatcher.bytes_held_of()
        return {session.port: size for session, size in held.items() if isinstance(session.port, Connection)}

    def _after_a_moment(self, act: Callable[[], None]) -> None:
        self._loop.call_later(2 * MOMENT_S, act)

    def _arm_linger(self, pool: Pool) -> None:
        self._loop.call_later(LINGER_S, pool.linger_passed)

    def _forget(self, session_id: int) -> None:
        self._crew.forget(session_id)

    def _status(self) -> gateway_pb2.StatusResponse:
        response = gateway_pb2.StatusResponse(
            uptime_ms=int((self._loop.time() - self._started_at) * 1000),
            counters=self.counters.as_dict(),
            draining=self._draining,
        )
        for listener in self._listeners:
            response.listeners.add(
                name=listener.config.name, address=listener.address, sessions=len(listener.connections)
            )
        for member in self._crew.members.values():
            shell = member.link
            link = None if shell is None else shell.link
            status = response.links.add(
                service=member.entry.service,
                worker_id=member.entry.id,
                address=member.entry.address,
                state="draining" if member.listed and member.entry.maintenance else "connecting",
                status_text=member.status_text,
            )
            if shell is not None and link is not None:
                status.incarnation = shell.incarnation
                status.state = "ejected" if link.is_out else link.state
                if link.is_out:
                    share = link.conduct.share
                    status.status_text = f"{share:.0%} of its requests failed, of the others' not"
                status.in_flight = len(link.pending)
                status.limit = link.limit.now
                status.sent = link.sent
                status.answered = link.answered
                status.commands.extend(shell.commands)
                status.unary = shell.unary
        return response

    def _note(self) -> str:
        """What the registry shows of us: `main: 134 sessions; linked to 4 of 5 workers`."""
        status = self._status()
        listeners = ", ".join(f"{each.name}: {each.sessions} sessions" for each in status.listeners)
        ready = sum(link.state == "ready" for link in status.links)
        return f"{listeners}; linked to {ready} of {len(status.links)} workers"

    async def drain(self) -> None:
        """Lame duck: accept nobody new, tell every client to reconnect elsewhere, let what is open finish."""
        self._draining = True
        open_packets = sum(session.in_flight for session in self._sessions.by_id.values())
        told = {"gateway": self.gateway_id}
        clients = counted(len(self._sessions), "client")
        log.info("drain begins: %s, %s open", clients, counted(open_packets, "packet"), extra=told)
        for listener in self._listeners:
            listener.stop_accepting()
        spread = self.config.drain_s / 2 if len(self._sessions) > 100 else 0.0
        await asyncio.gather(
            self._deregister(),
            *(
                listener.drain(spread, self.config.drain_s, "the gateway is being stopped")
                for listener in self._listeners
            ),
        )
        left = len(self._sessions)
        if left:
            still = "1 client was still there and is" if left == 1 else f"{left} clients were still there and are"
            log.warning("drain ended: %s cut", still, extra=told)
        else:
            log.info("drain ended: all clients had left", extra=told)

    async def _deregister(self) -> None:
        if self._registration is not None:
            await self._registration.__aexit__(None, None, None)
            self._registration = None

    async def aclose(self) -> None:
        """Stop now. What is still open is cut."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
            self._tasks = []
        await self._deregister()
        for listener in self._listeners:
            await listener.aclose()
        await self._crew.aclose()
        await self._peers.aclose()
        if self._server is not None:
            await self._server.stop(0.5)
            self._server = None
