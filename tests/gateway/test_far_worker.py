"""A worker that every byte takes a while to reach, as over an ocean: it is linked to, and serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from certificates import Authority

from gatecrew_cli.client import Client
from gatecrew_gateway import Gateway, GatewayConfig, ListenerConfig
from gatecrew_registry import Entry, Registry, RegistrySettings
from gatecrew_registry.embedded import EmbeddedRegistry
from gatecrew_worker import TLS, Request, Worker

ONE_WAY_S = 0.15
PATIENCE_S = 20.0


@asynccontextmanager
async def far_away(port: int) -> AsyncIterator[int]:
    """The port of a proxy that holds back all it carries, each way, for ONE_WAY_S."""
    loop = asyncio.get_running_loop()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction, to its end; and closes what it wrote to."""
        carried: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def write() -> None:
            while True:
                due, data = await carried.get()
                await asyncio.sleep(due - loop.time())
                if not data:
                    return
                writer.write(data)

        writing = asyncio.create_task(write())
        try:
            while data := await reader.read(65536):
                carried.put_nowait((loop.time() + ONE_WAY_S, data))
            carried.put_nowait((loop.time() + ONE_WAY_S, b""))
            await writing
        finally:
            writing.cancel()
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer), return_exceptions=True)

    connections: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.create_task(serve(reader, writer)))

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        for connection in connections:
            connection.cancel()
        if connections:
            await asyncio.wait(connections)


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
async def test_a_far_worker_is_linked_to(tmp_path: Path, encrypted: bool) -> None:
    worker = Worker("chat")

    @worker.on(1)
    async def echo(request: Request) -> bytes:
        return request.body

    config = GatewayConfig(listeners=(ListenerConfig(port=0),))
    tls = None
    if encrypted:
        authority = Authority(tmp_path)
        for name in ("chat", "gatecrew-gateway"):
            authority.issue(name)
        own = {"worker_cert": f"{tmp_path}/gatecrew-gateway.pem", "worker_key": f"{tmp_path}/gatecrew-gateway.key"}
        config = replace(config, worker_ca=authority.ca, **own)
        tls = TLS(cert=f"{tmp_path}/chat.pem", key=f"{tmp_path}/chat.key", ca=authority.ca)
    async with AsyncExitStack() as stack:
        embedded = EmbeddedRegistry("127.0.0.1", 0)
        await embedded.start()
        stack.push_async_callback(embedded.aclose)
        registry = await stack.enter_async_context(Registry(RegistrySettings(address=embedded.address)))
        serving = await stack.enter_async_context(worker.serving(tls=tls))
        port = await stack.enter_async_context(far_away(int(serving.address.rpartition(":")[2])))
        await registry.register(
            Entry(service="chat", id="far", host="127.0.0.1", port=port, tags=("gatecrew-worker",), check="none")
        )
        gateway = Gateway(config, registry)
        await gateway.start()
        stack.push_async_callback(gateway.aclose)
        async with asyncio.timeout(PATIENCE_S):
            while not any(link.state == "ready" for link in gateway._status().links):
                await asyncio.sleep(0.02)
            host, _, at = gateway.addresses["main"].rpartition(":")
            client = await stack.enter_async_context(await Client.connect(host, int(at)))
            assert await client.request(1, b"hello") == b"hello"
