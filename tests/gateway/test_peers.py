"""A gateway that another one waits for in vain."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gatecrew.v1 import gateway_pb2, gateway_pb2_grpc, worker_pb2
from gatecrew_gateway.net import peers, suspicions
from gatecrew_gateway.routing.suspicion import Finding, Lost, Suspicion
from gatecrew_registry import Entry, Registry
from gateway.test_gateway import PATIENCE_S, House, house_of, until


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with AsyncExitStack() as stack, house_of(stack) as house:
        yield house


class Frozen(gateway_pb2_grpc.GatewayServicer, health_pb2_grpc.HealthServicer):
    """A gateway that answers nothing while it is frozen; else it has 7 sessions."""

    def __init__(self) -> None:
        self.awake = asyncio.Event()
        self.asked = 0

    async def Push(self, request: worker_pb2.Push, context: Any) -> gateway_pb2.Reached:  # type: ignore[override]
        self.asked += 1
        await self.awake.wait()
        return gateway_pb2.Reached(sessions=7)

    async def ListSessions(self, request: Any, context: Any) -> gateway_pb2.ListSessionsResponse:
        await self.awake.wait()
        return gateway_pb2.ListSessionsResponse(total=7)

    async def Check(self, request: Any, context: Any) -> health_pb2.HealthCheckResponse:
        await self.awake.wait()
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


class Older(gateway_pb2_grpc.GatewayServicer):
    """A gateway that does not know what it is told, or is `frozen` over it."""

    def __init__(self) -> None:
        self.frozen: asyncio.Event | None = None
        self.told: list[gateway_pb2.SuspicionsRequest] = []

    async def Push(self, request: worker_pb2.Push, context: Any) -> gateway_pb2.Reached:  # type: ignore[override]
        return gateway_pb2.Reached(sessions=7)

    async def Suspicions(self, request: Any, context: Any) -> Any:
        self.told.append(request)
        assert dict(context.invocation_metadata())[peers.HOP] == "1"
        if self.frozen is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such method")
        else:
            await self.frozen.wait()
        return gateway_pb2.SuspicionsResponse()


@pytest.fixture
async def older() -> AsyncIterator[tuple[Older, int]]:
    """And its port."""
    older = Older()
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    gateway_pb2_grpc.add_GatewayServicer_to_server(older, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield older, port
    await server.stop(None)


async def register(registry: Registry, port: int, gateway_id: str) -> None:
    meta = {"gateway_id": gateway_id, "session_prefix": "5"}
    await registry.register(
        Entry(
            service="gatecrew-gateway",
            id="peer",
            host="127.0.0.1",
            port=port,
            tags=("gatecrew-gateway",),
            meta=meta,
            check="none",
        )
    )


def suspicion(number: int) -> Suspicion:
    return Suspicion(Finding.QUARANTINED, "echo", Lost("w", "life"), ((number, bytes(16)),))


async def test_a_gateway_that_is_older_is_told_once_and_its_successor_again(
    house: House, older: tuple[Older, int], caplog: pytest.LogCaptureFixture
) -> None:
    peer, port = older
    await register(house.registry, port, "old")
    gateway = await house.gateway(workers=0)
    await until(lambda: len(gateway._peers.known) == 1)
    done = []
    for number in range(3):
        gateway._dispatcher.quarantine.tell(suspicion(number))
        gateway._dispatcher.after_told(lambda number=number: done.append(number))  # type: ignore[misc]
        await until(lambda number=number: len(done) == number + 1)  # type: ignore[misc]
    assert len(peer.told) == 1
    [told] = peer.told[0].suspicions
    assert (told.kind, told.service, told.worker_id, told.incarnation) == (1, "echo", "w", "life")
    assert [(packet.command, packet.digest) for packet in told.packets] == [(0, bytes(16))]
    push = worker_pb2.Push(everyone=True, command=1)
    reached = await house.service(gateway).Push(push, timeout=PATIENCE_S)
    assert (reached.sessions, reached.unknown_gateways) == (7, 0)
    assert not any("gave no answer" in line for line in caplog.messages)

    await register(house.registry, port, "new")
    await until(lambda: next(iter(gateway._peers.known.values())).gateway_id == "new")
    gateway._dispatcher.quarantine.tell(suspicion(9))
    await until(lambda: len(peer.told) == 2)


async def test_what_gathers_is_told_in_one_call_and_a_silent_gateway_delays_neither_that_nor_a_client(
    house: House, older: tuple[Older, int]
) -> None:
    peer, port = older
    peer.frozen = asyncio.Event()
    await register(house.registry, port, "slow")
    gateway = await house.gateway(workers=0)
    await until(lambda: len(gateway._peers.known) == 1)
    done = []
    gateway._dispatcher.quarantine.tell(suspicion(0))
    gateway._dispatcher.after_told(lambda: done.append(0))
    assert not done
    await until(lambda: bool(peer.told))
    for number in range(1, 4):
        gateway._dispatcher.quarantine.tell(suspicion(number))
    await until(lambda: len(peer.told) == 2)
    await until(lambda: bool(done))
    assert len(peer.told) == 2
    assert [told.packets[0].command for told in peer.told[1].suspicions] == [1, 2, 3]


async def test_what_is_to_be_told_is_bounded_and_alone_a_gateway_tells_nobody(
    house: House, older: tuple[Older, int]
) -> None:
    peer, port = older
    peer.frozen = asyncio.Event()
    gateway = await house.gateway(workers=0)
    tell = gateway._dispatcher.quarantine.tell
    done = []
    tell(suspicion(0))
    gateway._dispatcher.after_told(lambda: done.append(0))
    assert done
    await register(house.registry, port, "slow")
    await until(lambda: len(gateway._peers.known) == 1)
    tell(suspicion(0))
    await until(lambda: bool(peer.told))
    for number in range(2 * suspicions.MOST_UNTOLD):
        tell(suspicion(number))
    peer.frozen.set()
    calls = suspicions.MOST_UNTOLD // suspicions.MOST_TOLD
    await until(lambda: len(peer.told) == 1 + calls)
    told = [each.packets[0].command for request in peer.told[1:] for each in request.suspicions]
    assert told == list(range(suspicions.MOST_UNTOLD, 2 * suspicions.MOST_UNTOLD))


async def test_a_gateway_that_is_told_nonsense_goes_on(house: House) -> None:
    gateway = await house.gateway(workers=0)
    service = house.service(gateway)
    nonsense = gateway_pb2.SuspicionsRequest()
    nonsense.suspicions.add(kind=99, service="echo", packets=[gateway_pb2.SuspectPacket(digest=bytes(16))])  # type: ignore[arg-type]
    nonsense.suspicions.add(kind=1, service="echo", packets=[gateway_pb2.SuspectPacket(command=1 << 31)])  # type: ignore[arg-type]
    nonsense.suspicions.add(kind=1)  # type: ignore[arg-type]
    await service.Suspicions(nonsense, timeout=PATIENCE_S)
    assert gateway.counters.quarantined_elsewhere == 0
    nonsense.suspicions.add(kind=1, service="echo", packets=[gateway_pb2.SuspectPacket(digest=bytes(16))])  # type: ignore[arg-type]
    await service.Suspicions(nonsense, timeout=PATIENCE_S)
    assert gateway.counters.quarantined_elsewhere == 1


async def test_a_push_says_that_a_gateway_did_not_answer_and_the_next_does_not_wait_for_it(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    frozen = Frozen()
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    gateway_pb2_grpc.add_GatewayServicer_to_server(frozen, server)
    health_pb2_grpc.add_HealthServicer_to_server(frozen, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    house._stack.push_async_callback(server.stop, None)
    meta = {"gateway_id": "frozen-1", "session_prefix": "5"}
    await house.registry.register(
        Entry(
            service="gatecrew-gateway",
            id="frozen",
            host="127.0.0.1",
            port=port,
            tags=("gatecrew-gateway",),
            meta=meta,
            check="none",
        )
    )
    gateway = await house.gateway(workers=0)
    await until(lambda: len(gateway._peers.known) == 1)
    client = await house.client(gateway)
    await until(lambda: len(gateway._sessions) == 1)
    service = house.service(gateway)
    push = worker_pb2.Push(everyone=True, command=1)

    reached = await service.Push(push, timeout=PATIENCE_S)
    assert (reached.sessions, reached.unknown_gateways) == (1, 1)
    began = time.monotonic()
    for _ in range(10):
        reached = await service.Push(push, timeout=PATIENCE_S)
        assert (reached.sessions, reached.unknown_gateways) == (1, 1)
    assert time.monotonic() - began < 10 * peers.WITHIN_S / 2
    assert frozen.asked == 1
    listed = await service.ListSessions(gateway_pb2.ListSessionsRequest(), timeout=PATIENCE_S)
    assert (listed.total, listed.unknown_gateways) == (1, 1)
    assert sum("gave no answer" in line for line in caplog.messages) == 1

    frozen.awake.set()
    async with asyncio.timeout(PATIENCE_S):
        while (reached := await service.Push(push)).unknown_gateways:
            await asyncio.sleep(0.05)
    assert reached.sessions == 8
    listed = await service.ListSessions(gateway_pb2.ListSessionsRequest(), timeout=PATIENCE_S)
    assert (listed.total, listed.unknown_gateways) == (8, 0)
    await client.close()


async def test_a_push_says_that_a_gateway_is_not_there(house: House, caplog: pytest.LogCaptureFixture) -> None:
    nobody = house._stack.enter_context(socket.socket())
    nobody.bind(("127.0.0.1", 0))  # and does not listen
    port = nobody.getsockname()[1]
    await house.registry.register(
        Entry(
            service="gatecrew-gateway",
            id="gone",
            host="127.0.0.1",
            port=port,
            tags=("gatecrew-gateway",),
            meta={"gateway_id": "gone-1", "session_prefix": "5"},
            check="none",
        )
    )
    gateway = await house.gateway(workers=0)
    await until(lambda: len(gateway._peers.known) == 1)
    service = house.service(gateway)
    for _ in range(3):
        reached = await service.Push(worker_pb2.Push(everyone=True, command=1), timeout=PATIENCE_S)
        assert (reached.sessions, reached.unknown_gateways) == (0, 1)
    reached = await service.Push(worker_pb2.Push(session=9 << 36, command=1), timeout=PATIENCE_S)
    assert (reached.sessions, reached.unknown_gateways) == (0, 0)  # nobody has such sessions
    assert sum("gave no answer" in line for line in caplog.messages) == 1
