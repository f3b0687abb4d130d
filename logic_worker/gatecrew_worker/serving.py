"""A worker's life: bind, register, serve, drain.

Drain is our own, not gRPC's, whose grace period waits for streams that never end by themselves: say so on every link,
give back what still comes, finish what is open, write it out, close the streams, and only then stop the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import faulthandler
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from gatecrew.v1 import worker_pb2, worker_pb2_grpc
from gatecrew_registry import Entry, Registration, Registry

from .dispatch import Shared
from .mailbox import Mailbox
from .program import commands_text
from .servicer import Servicer
from .status import WorkerError
from .threads import Threads
from .tls import TLS

if TYPE_CHECKING:
    from .worker import Worker

log = logging.getLogger("gatecrew.worker")

TAG = "gatecrew-worker"
META_LIMIT = 512  # characters of a metadata value in the registry
LEAVE_S = 1.0  # for gateways to close their side once nothing is open, so that nothing is under way when we end
STOP_S = 1.0  # for calls that are neither Link nor finished, once everything else is done
EVERY_ADDRESS = ("", "0.0.0.0", "::", "[::]")
SIGNALS = (signal.SIGTERM, signal.SIGINT)
STACKS_SIGNAL = signal.SIGUSR1

OPTIONS = (
    ("grpc.so_reuseport", 0),  # else a second worker on the port takes half of the connections, unnoticed
    # However often a gateway, or what is between, pings to see that the connection lives: no reason to end it.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    # And a frozen gateway is found by ours. gRPC has two time-outs, and the second one decides.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.http2.ping_timeout_ms", 5000),
    ("grpc.http2.max_pings_without_data", 0),
    # grpc.http2.bdp_probe stays on: 4 MiB of a link in transit, not 64 KiB, is what 4 KiB bodies need for full speed.
)


class Serving:
    """A worker that listens. `address` is host:port as the registry is told."""

    def __init__(self, worker: Worker, drain_s: float, tls: TLS | None) -> None:
        loop = asyncio.get_running_loop()
        mailbox = Mailbox(loop)
        worker._links.attach(mailbox)
        self.incarnation = worker.incarnation
        self.address = ""
        self.port = 0
        self._worker = worker
        self._drain_s = drain_s
        self._tls = tls
        self._threads = Threads(worker.threads, mailbox)
        self._shared = Shared(worker._program, worker._links, self._threads, worker.max_in_flight, worker.one_at_a_time)
        self._servicer = Servicer(self._shared, self._hello(), only_gateways=tls is not None)
        self._health = health_aio.HealthServicer()
        self._server = grpc.aio.server(options=OPTIONS)
        self._registered = AsyncExitStack()
        self._draining: asyncio.Task[None] | None = None
        self._hurry: asyncio.Future[None] = loop.create_future()

    def _hello(self) -> worker_pb2.WorkerHello:
        program = self._worker._program
        return worker_pb2.WorkerHello(
            service=self._worker.service,
            incarnation=self.incarnation,
            commands=program.commands,
            no_commands=program.serves_nothing,
            max_in_flight=self._worker.max_in_flight,
            session_events=bool(program.events),
            version=self._worker.version,
            concurrency=self._concurrency(),
        )

    def _concurrency(self) -> int:
        """How many handlers can run at once; 0 where that has no limit, as with one that awaits, or isn't known."""
        if self._worker.one_at_a_time:
            return 1
        return self._worker.threads if self._worker._program.threaded else 0

    def _entry(self, host: str) -> Entry:
        service = self._worker.service
        return Entry(
            service=service,
            id=f"{service}-{host}-{self.port}",
            host=host,
            port=self.port,
            tags=(TAG,),
            meta={
                "contract": "v1",
                "incarnation": self.incarnation,
                "commands": commands_text(self._worker._program.commands, META_LIMIT),
                "version": self._worker.version,
                "weight": "1",
                "session_events": "true" if self._worker._program.events else "false",
            },
            # The registry's agent has no certificate that we would take, so it cannot ask: we tell.
            check="ttl" if self._tls else "grpc",
            check_service="gatecrew.v1.LogicWorker",  # somebody else at our address, later, is not us
        )

    async def start(self, host: str, port: int, registry: Registry | None, advertise_host: str) -> None:
        worker_pb2_grpc.add_LogicWorkerServicer_to_server(self._servicer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        for name in ("", "gatecrew.v1.LogicWorker", self._worker.service):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        try:
            if self._tls is None:
                self.port = self._server.add_insecure_port(_join(host, port))
            else:
                self.port = self._server.add_secure_port(_join(host, port), self._tls._credentials())
        except RuntimeError:
            raise WorkerError(f"cannot listen on {_join(host, port)}: {_why_not(host, port)}; choose another") from None
        self._shared.watch.start()
        await self._server.start()
        self.address = _join(advertise_host or host, self.port)
        if registry is not None:
            entry = self._entry(advertise_host or host)
            registration = Registration(registry, entry, at_first="no gateway can find this worker yet")
            await self._registered.enter_async_context(registration)

    def hurry(self) -> None:
        """Leave at once, whatever is open."""
        if not self._hurry.done():
            self._hurry.set_result(None)

    async def drain(self) -> None:
        """Finish what is open and leave, in `drain_s` at most. Once begun it is not cancelled with its caller."""
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain(), name="drain")
        await asyncio.shield(self._draining)

    async def _drain(self) -> None:
        self._shared.draining = True
        for link in self._servicer.streams:
            link.outbox.draining()
        finishing = asyncio.create_task(self._finish(), name="finish")
        await asyncio.wait((finishing, self._hurry), timeout=self._drain_s, return_when=asyncio.FIRST_COMPLETED)
        if not finishing.done():
            in_flight = sum(len(dispatcher.open) for dispatcher in self._shared.dispatchers)
            log.warning("left with %d requests in flight", in_flight)
            finishing.cancel()
        await asyncio.wait((finishing,))
        for link in self._servicer.streams:
            link.end()
        await self._server.stop(STOP_S)
        for dispatcher in tuple(self._shared.dispatchers):
            await dispatcher.cancel()
        self._threads.close()
        self._shared.watch.close()
        await self._worker._links.detach()

    async def _finish(self) -> None:
        await self._health.enter_graceful_shutdown()
        await self._registered.aclose()
        for dispatcher in tuple(self._shared.dispatchers):
            await dispatcher.idle()
        for link in tuple(self._servicer.streams):
            await link.outbox.empty()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                for link in tuple(self._servicer.streams):
                    await link.over.wait()


@asynccontextmanager
async def serving(
    worker: Worker,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    registry: Registry | None = None,
    advertise_host: str = "",
    tls: TLS | None = None,
    drain_s: float = 10.0,
) -> AsyncIterator[Serving]:
    """Serve inside an `async with`; leaving it drains. Arguments and errors as in `serve`."""
    if registry is not None and not advertise_host and host in EVERY_ADDRESS:
        raise WorkerError(f"listening on every address ({host!r}): say with advertise_host which one others reach")
    server = Serving(worker, drain_s, tls)
    try:
        await server.start(host, port, registry, advertise_host)
        log.info("worker of %s listens on %s, threads=%d", worker.service, server.address, worker.threads)
        if worker._program.serves_nothing and not worker._program.events:
            log.warning("worker of %s has no handlers: it can only push", worker.service)
        yield server
    finally:
        await server.drain()


async def serve(
    worker: Worker,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    registry: Registry | None = None,
    advertise_host: str = "",
    tls: TLS | None = None,
    drain_s: float = 10.0,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, then drain; a second SIGTERM or SIGINT ends it at once.

    SIGUSR1 writes the stacks of all threads to standard error, even while a handler blocks the loop, unless the program
    has a handler of its own for that signal.

    Args:
        worker: what to serve.
        host: where to listen.
        port: 0 takes a free one.
        registry: where to register; None: gateways must be told of the worker in another way.
        advertise_host: the host that the registry is told, where it is not `host`.
        tls: serve gateways with a certificate only.
        drain_s: seconds at most to finish what is open.
        on_ready: called with host:port when the worker listens and has tried to register.

    Raises:
        WorkerError: the port is in use, or a file of `tls` can't be read.

    Example:
        asyncio.run(serve(worker, port=7101, on_ready=print))
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    server: Serving | None = None

    def on_signal() -> None:
        if stop.is_set() and server is not None:
            server.hurry()
        stop.set()

    handlers: dict[int, Callable[[], None]] = dict.fromkeys(SIGNALS, on_signal)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as `nohup` makes it
        handlers[signal.SIGHUP] = stop.set  # a terminal that is closed may send two
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    _write_stacks_on_signal()
    try:
        async with serving(
            worker, host, port, registry=registry, advertise_host=advertise_host, tls=tls, drain_s=drain_s
        ) as server:
            if on_ready is not None:
                on_ready(server.address)
            await stop.wait()
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


def _write_stacks_on_signal() -> None:
    """What a supervisor asks for before it kills a worker that does not answer."""
    if signal.getsignal(STACKS_SIGNAL) is signal.SIG_DFL:
        # Standard error may be no file, as in some notebooks and tests.
        with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):
            faulthandler.register(STACKS_SIGNAL, all_threads=True)


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def _why_not(host: str, port: int) -> str:
    """gRPC does not say why it can't listen; the system does."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    except OSError as error:
        words = {errno.EADDRINUSE: "in use", errno.EADDRNOTAVAIL: "not an address of ours"}
        return words.get(error.errno or 0) or error.strerror or str(error)
    return "in use a moment ago"
