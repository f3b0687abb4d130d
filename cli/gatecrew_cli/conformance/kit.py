"""Finds out what the worker is, then runs the checks that fit, one by one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gatecrew.v1 import worker_pb2

from ..errors import Failed, UserError
from .cancel_checks import CANCEL_CHECKS
from .finding import Broken, Check, Finding, Outcome, Skipped
from .handle_checks import HANDLE_CHECKS
from .leave_checks import HANDLE_LEAVE_CHECKS, LINK_LEAVE_CHECKS
from .link_checks import LINK_CHECKS
from .played import CHANNEL_OPTIONS, PlayedGateway
from .program import Program

START_S = 60.0  # for a program to serve: a JVM on a busy machine
CHECK_S = 60.0  # one check as a whole
PATIENCE_S = 5.0  # for an answer
TRIES = 3  # of a timed check
Flavour = Literal["link", "handle"]


class Kit:
    """One worker under test, as the checks see it.

    Attributes:
        hello: the worker's; empty with one that serves only Handle.
        command: one that the worker serves, for checks that take any answer.
        program: its process, where the kit may signal it.
        idle: a link on which the kit says nothing, open for as long as it runs.
    """

    def __init__(self, address: str, program: Program | None, command: int | None) -> None:
        self.address = address
        self.program = program
        self.flavour: Flavour = "link"
        self.idle: PlayedGateway
        self.hello = worker_pb2.WorkerHello()
        self.opened_at = 0.0
        self._asked_for = command
        self._last_prefix = 0
        self.channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._handle: grpc.aio.UnaryUnaryMultiCallable[worker_pb2.Request, worker_pb2.Reply] = self.channel.unary_unary(
            "/gatecrew.v1.LogicWorker/Handle",
            request_serializer=worker_pb2.Request.SerializeToString,
            response_deserializer=worker_pb2.Reply.FromString,
        )
        self._stack = AsyncExitStack()
        self._stack.push_async_callback(self.channel.close)

    @property
    def command(self) -> int:
        if self._asked_for is not None:
            return self._asked_for
        return self.hello.commands[0] if self.hello.commands and not self.serves(101) else 101

    def serves(self, command: int) -> bool:
        serves_all = not self.hello.commands and not self.hello.no_commands
        return serves_all or command in self.hello.commands

    def need(self, *commands: int) -> None:
        """Raises:
        Skipped: the worker does not serve one of the reference worker's commands.
        """
        missing = [str(command) for command in commands if not self.serves(command)]
        if missing:
            raise Skipped(f"the worker does not serve {', '.join(missing)} of the reference worker")

    def need_program(self) -> Program:
        """Raises:
        Skipped: the kit may not signal the worker.
        """
        if self.program is None:
            raise Skipped("the kit has no process to signal: give it the program to start, or --pid")
        return self.program

    # The ways to talk to the worker.

    @asynccontextmanager
    async def link(self, greet: bool = True) -> AsyncIterator[PlayedGateway]:
        """A link of a gateway of its own; what was broken on it breaks the check.

        Raises:
            Broken: a rule that holds for all that a worker sends.
        """
        async with PlayedGateway(self.address, self._next_prefix(), PATIENCE_S) as gateway:
            if greet:
                await gateway.greet()
                gateway.speak_on()
            yield gateway
            if gateway.violations:
                raise Broken(gateway.violations[0])

    def _next_prefix(self) -> int:
        self._last_prefix += 1
        return self._last_prefix

    async def health(self, service: str = "") -> str:
        """SERVING and so on, of the standard health service.

        Raises:
            grpc.aio.AioRpcError: no answer.
        """
        stub = health_pb2_grpc.HealthStub(self.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_S)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    async def handle(self, request: worker_pb2.Request, **options: Any) -> worker_pb2.Reply:
        """One call of Handle.

        Raises:
            Broken: it fails with a gRPC status that means a lost worker.
        """
        try:
            reply: worker_pb2.Reply | None = await self._handle(request, timeout=PATIENCE_S, **options)
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise Broken(f"Handle: {error.code().name} {error.details()}") from None
            return worker_pb2.Reply(id=request.id, status=error.code().value[0], message=error.details() or "")
        if reply is None:  # grpc.aio says no more
            raise Broken("Handle: what came is no Reply")
        return reply

    # Running.

    async def find_out(self) -> None:
        """Wait until the worker is there, and see which flavour it is.

        Raises:
            Failed: nobody there, or it is no worker.
        """
        await self._wait_for_server()
        idle = PlayedGateway(self.address, self._next_prefix(), PATIENCE_S)
        self.idle = await self._stack.enter_async_context(idle)
        try:
            # Listen first: a stream that nobody serves ends by itself, and grpc.aio hides how if we write meanwhile.
            with contextlib.suppress(Broken):
                await self.idle.greeted()
            await self.idle.greet()
        except Broken as error:
            with contextlib.suppress(Broken):
                await self.idle.until(lambda: False, "no end")
            if self.idle.ended is not grpc.StatusCode.UNIMPLEMENTED:
                cure = ""
                if self.idle.ended not in (None, grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE):
                    cure = "; a worker that serves only Handle must answer Link with UNIMPLEMENTED: if its library does"
                    cure += " not do so by itself, as Ruby's, say it in its code"
                raise Failed(f"{self.address}: {error}{cure}") from None
            self.flavour = "handle"
        self.opened_at = time.monotonic()
        self.hello = self.idle.hello

    async def _wait_for_server(self) -> None:
        printed = self.program.printed if self.program is not None else None
        give_up_at = time.monotonic() + (START_S if printed else PATIENCE_S)
        while True:
            try:
                await self.health()
                return
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    return  # a server, without the health service: a check says so
                if time.monotonic() > give_up_at:
                    more = f"; {printed}" if printed else ""
                    raise Failed(f"{self.address}: {error.code().name}: {error.details()}{more}") from None
            if self.program is not None:
                self.program.check_alive()
            await asyncio.sleep(0.1)

    @property
    def checks(self) -> Sequence[Check]:
        if self.flavour == "link":
            return LINK_CHECKS.all + CANCEL_CHECKS.all + LINK_LEAVE_CHECKS.all
        return HANDLE_CHECKS.all + HANDLE_LEAVE_CHECKS.all

    async def run(self, on_finding: Callable[[Finding], None]) -> list[Finding]:
        """All checks, in order; each finding is told as soon as it is there."""
        findings = []
        for check in self.checks:
            began_at = time.monotonic()
            outcome, detail = await self._run(check)
            findings.append(Finding(check, outcome, detail, time.monotonic() - began_at))
            on_finding(findings[-1])
        return findings

    async def _run(self, check: Check) -> tuple[Outcome, str]:
        outcome, detail = await self._try(check)
        for _ in range(TRIES - 1 if check.timed else 0):
            if outcome == "FAIL":
                outcome, detail = await self._try(check)
        return outcome, detail

    async def _try(self, check: Check) -> tuple[Outcome, str]:
        try:
            if self.flavour == "link":
                self.need(*check.needs)
            async with asyncio.timeout(CHECK_S):
                await check.run(self)
        except Skipped as reason:
            return "skip", str(reason)
        except Broken as error:
            return "FAIL", str(error)
        except grpc.aio.AioRpcError as error:
            return "FAIL", f"{error.code().name} {error.details()}"
        except TimeoutError:
            return "FAIL", f"not finished within {CHECK_S:g} s"
        except UserError as error:  # the process is gone
            return "FAIL", str(error)
        except Exception as error:  # an answer that no check has thought of; the other checks go on
            return "FAIL", f"{type(error).__name__}: {error}"
        return "ok", ""

    async def aclose(self) -> None:
        await self._stack.aclose()
