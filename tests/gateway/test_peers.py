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
from gatecrew_gateway.net import peers
from gatecrew_registry import Entry
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
