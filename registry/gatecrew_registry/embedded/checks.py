"""Run one check of one instance: await heartbeats (TTL), or ask its gRPC health service at intervals."""

import asyncio
import time
from collections.abc import Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ..entry import Status
from .definition import CheckDefinition

_CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2000),  # how long connecting may take
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class Check:
    """A check, its status and output, running from its making until `stop`. It belongs to the catalog.

    `on_status` is called when the status has changed, `on_expired` when it was critical for as long as its definition
    allows an instance to be.
    """

    def __init__(
        self, definition: CheckDefinition, on_status: Callable[[], None], on_expired: Callable[[], object]
    ) -> None:
        self.definition = definition
        self.status = definition.status
        self.output = ""
        self._on_status = on_status
        self._on_expired = on_expired
        self._loop = asyncio.get_running_loop()
        self._expiry: asyncio.TimerHandle | None = None
        self._ttl: asyncio.TimerHandle | None = None
        self._asker: asyncio.Task[None] | None = None
        self._guard_expiry()
        if definition.ttl_s:
            self._restart_ttl()
        elif definition.target:
            self._asker = asyncio.create_task(self._ask())

    def stop(self) -> asyncio.Task[None] | None:
        """Do nothing more; return the task that is about to end because of that, if there is one."""
        for handle in (self._expiry, self._ttl, self._asker):
            if handle is not None:
                handle.cancel()
        return self._asker

    def adopt(self, old: "Check") -> None:
        """Go on from the status of the check that this one replaces."""
        self.status, self.output = old.status, old.output
        self._guard_expiry()

    def report(self, status: Status, output: str) -> None:
        """Take in a result; for a TTL check, its sign of life."""
        if self.definition.ttl_s:
            self._restart_ttl()
        self._settle(status, output)

    def _settle(self, status: Status, output: str) -> None:
        self.output = output
        if status != self.status:
            self.status = status
            self._guard_expiry()
            self._on_status()

    def _guard_expiry(self) -> None:
        if self.status != "critical":
            if self._expiry is not None:
                self._expiry.cancel()
                self._expiry = None
        elif self._expiry is None and self.definition.deregister_after_s:
            self._expiry = self._loop.call_later(self.definition.deregister_after_s, self._on_expired)

    def _restart_ttl(self) -> None:
        if self._ttl is not None:
            self._ttl.cancel()
        self._ttl = self._loop.call_later(self.definition.ttl_s, self._settle, "critical", "TTL expired")

    async def _ask(self) -> None:
        # The first result counts at once, a failure too.
        failures = self.definition.failures_before_critical
        async with grpc.aio.insecure_channel(self.definition.target, options=_CHANNEL_OPTIONS) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            while True:
                started_at = time.monotonic()
                problem = await self._problem(health)
                if problem is None:
                    failures = 0
                    self._settle("passing", f"gRPC check {self.definition.target}: success")
                else:
                    failures += 1
                    if failures >= self.definition.failures_before_critical:
                        self._settle("critical", f"gRPC check {self.definition.target}: {problem}")
                await asyncio.sleep(max(0.0, started_at + self.definition.interval_s - time.monotonic()))

    async def _problem(self, health: health_pb2_grpc.HealthStub) -> str | None:
        request = health_pb2.HealthCheckRequest(service=self.definition.health_service)
        try:
            answer = await health.Check(request, timeout=self.definition.timeout_s)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name} {error.details()}"
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            return None
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
