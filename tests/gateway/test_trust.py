"""Mutual TLS between gateways and workers: whoever writes to the registry gets no packet by that alone
(catalogue rows 51 and 52)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from certificates import Authority
from command_line import run

from gatecrew.v1 import worker_pb2, worker_pb2_grpc
from gatecrew_cli.client import Client
from gatecrew_gateway import Gateway, GatewayConfig, ListenerConfig
from gatecrew_registry import Entry, Registry, RegistrySettings
from gatecrew_registry.embedded import EmbeddedRegistry
from gatecrew_worker import TLS, Request, Worker, WorkerError

PATIENCE_S = 20.0


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("trust"))
    for name in ("gatecrew-gateway", "chat", "other"):
        authority.issue(name)
    authority.issue("chat", expired=True, file="expired")
    return authority


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A CA that nobody trusts, with a certificate of the right name."""
    authority = Authority(tmp_path_factory.mktemp("stranger"))
    authority.issue("chat")
    return authority


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    embedded = EmbeddedRegistry("127.0.0.1", 0)
    await embedded.start()
    async with Registry(RegistrySettings(address=embedded.address)) as registry:
        yield registry
    await embedded.aclose()


def tls(authority: Authority, name: str) -> TLS:
    folder = authority.folder
    return TLS(cert=str(folder / f"{name}.pem"), key=str(folder / f"{name}.key"), ca=authority.ca)


def config(authority: Authority) -> GatewayConfig:
    folder = authority.folder
    return GatewayConfig(
        listeners=(ListenerConfig(port=0),),
        worker_ca=authority.ca,
        worker_cert=str(folder / "gatecrew-gateway.pem"),
        worker_key=str(folder / "gatecrew-gateway.key"),
    )


def honest() -> Worker:
    worker = Worker("chat")

    @worker.on(1)
    async def echo(request: Request) -> bytes:
        return request.body

    return worker


class Rogue(worker_pb2_grpc.LogicWorkerServicer):
    """Speaks the contract, and notes whatever it is given."""

    def __init__(self) -> None:
        self.given: list[Any] = []

    async def Link(self, messages: AsyncIterator[worker_pb2.GatewayMessage], context: Any) -> Any:  # type: ignore[override]
        yield worker_pb2.WorkerMessage(hello=worker_pb2.WorkerHello(service="chat", incarnation="rogue"))
        async for message in messages:
            self.given.append(message)

    async def Handle(self, request: worker_pb2.Request, context: Any) -> worker_pb2.Reply:
        self.given.append(request)
        return worker_pb2.Reply(id=request.id)


async def start_rogue(
    stack: AsyncExitStack, registry: Registry, credentials: grpc.ServerCredentials | None, number: int
) -> Rogue:
    rogue = Rogue()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    worker_pb2_grpc.add_LogicWorkerServicer_to_server(rogue, server)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    stack.push_async_callback(server.stop, None)
    await registry.register(
        Entry(
            service="chat", id=f"rogue-{number}", host="127.0.0.1", port=port, tags=("gatecrew-worker",), check="none"
        )
    )
    return rogue


def credentials(authority: Authority, name: str) -> grpc.ServerCredentials:
    cert, key = ((authority.folder / f"{name}.{end}").read_bytes() for end in ("pem", "key"))
    return grpc.ssl_server_credentials([(key, cert)])


async def until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_rogues_get_nothing_and_the_honest_worker_serves(
    authority: Authority, stranger: Authority, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    async with AsyncExitStack() as stack:
        rogues = [
            await start_rogue(stack, registry, made, number)
            for number, made in enumerate(
                (
                    None,  # no TLS at all
                    credentials(stranger, "chat"),  # the right name, a CA that nobody trusts
                    credentials(authority, "other"),  # the right CA, another service
                    credentials(authority, "expired"),
                    credentials(authority, "gatecrew-gateway"),  # a gateway's certificate replayed
                )
            )
        ]
        await stack.enter_async_context(honest().serving(registry=registry, tls=tls(authority, "chat")))
        gateway = Gateway(config(authority), registry)
        await gateway.start()
        stack.push_async_callback(gateway.aclose)
        await until(lambda: any(link.state == "ready" for link in gateway._status().links))
        with caplog.at_level(logging.WARNING):
            every_one = {f"rogue-{number}" for number in range(len(rogues))}
            await until(lambda: every_one <= {r.args[0] for r in caplog.records if "refused" in r.msg and r.args})
        host, _, port = gateway.addresses["main"].rpartition(":")
        client = await stack.enter_async_context(await Client.connect(host, int(port)))
        for number in range(100):
            assert await client.request(1, b"%d" % number) == b"%d" % number
        assert [rogue.given for rogue in rogues] == [[]] * len(rogues)


async def test_a_worker_lets_only_gateways_link(authority: Authority, stranger: Authority) -> None:
    async with honest().serving(tls=tls(authority, "chat")) as serving:

        async def call(credentials: grpc.ChannelCredentials | None) -> grpc.StatusCode:
            options = (("grpc.ssl_target_name_override", "chat"),)
            if credentials is None:
                channel = grpc.aio.insecure_channel(serving.address)
            else:
                channel = grpc.aio.secure_channel(serving.address, credentials, options)
            async with channel:
                stub: worker_pb2_grpc.LogicWorkerAsyncStub = worker_pb2_grpc.LogicWorkerStub(channel)
                try:
                    await stub.Handle(worker_pb2.Request(command=1), timeout=5)
                except grpc.aio.AioRpcError as error:
                    return error.code()
                return grpc.StatusCode.OK

        def client(signer: Authority, name: str | None) -> grpc.ChannelCredentials:
            ca = Path(authority.ca).read_bytes()
            if name is None:
                return grpc.ssl_channel_credentials(ca)
            cert, key = ((signer.folder / f"{name}.{end}").read_bytes() for end in ("pem", "key"))
            return grpc.ssl_channel_credentials(ca, key, cert)

        assert await call(client(authority, "gatecrew-gateway")) is grpc.StatusCode.OK
        assert await call(client(authority, "other")) is grpc.StatusCode.PERMISSION_DENIED
        assert await call(client(authority, None)) is grpc.StatusCode.UNAVAILABLE
        assert await call(client(stranger, "chat")) is grpc.StatusCode.UNAVAILABLE
        assert await call(None) is grpc.StatusCode.UNAVAILABLE


async def test_certificates_are_renewed_without_a_restart(tmp_path: Path, registry: Registry) -> None:
    """Everything signed by a new CA, while both run: the link that is there stays, and the next one is the new CA's."""
    authority = Authority(tmp_path)
    authority.issue("chat")
    authority.issue("gatecrew-gateway")
    async with AsyncExitStack() as stack:
        worker = honest()
        serving = await stack.enter_async_context(worker.serving(registry=registry, tls=tls(authority, "chat")))
        gateway = Gateway(config(authority), registry)
        await gateway.start()
        stack.push_async_callback(gateway.aclose)
        host, _, port = gateway.addresses["main"].rpartition(":")
        await until(lambda: any(link.state == "ready" for link in gateway._status().links))
        client = await stack.enter_async_context(await Client.connect(host, int(port)))
        assert await client.request(1, b"old") == b"old"
        renewed = Authority(tmp_path)
        renewed.issue("chat")
        renewed.issue("gatecrew-gateway")
        assert await client.request(1, b"same link") == b"same link"
        [old] = serving._servicer.streams
        await old.outbox.empty()
        old.end()
        await until(lambda: serving._servicer.streams - {old})
        await until(lambda: any(link.state == "ready" for link in gateway._status().links))
        assert await client.request(1, b"new") == b"new"


async def test_files_that_cannot_be_read_are_one_line(authority: Authority) -> None:
    with pytest.raises(WorkerError, match=r"^TLS: '/nowhere.pem': No such file or directory$"):
        async with honest().serving(tls=TLS(cert="/nowhere.pem", key=authority.ca, ca=authority.ca)):
            pass


def test_the_command_line_says_what_is_wrong(tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "chat.py").write_text("from gatecrew_worker import Worker\nworker = Worker('chat')\n")
    (tmp_path / "half.toml").write_text("[gateway]\nworker_ca = 'ca.pem'\n")
    (tmp_path / "gone.toml").write_text("[gateway]\nworker_ca = 'ca.pem'\nworker_cert = 'c.pem'\nworker_key = 'k'\n")
    for arguments, complaint in [
        (["worker", "chat:worker", "--tls-ca", authority.ca], "--tls-cert, --tls-key and --tls-ca go together"),
        (["gateway", "--config", "half.toml"], "worker_ca, worker_cert and worker_key go together"),
        (["gateway", "--listen", "127.0.0.1:0", "--config", "gone.toml"], "'ca.pem': No such file or directory"),
    ]:
        code, _, error = run(*arguments, cwd=tmp_path)
        assert code == 2
        assert complaint in error
        assert "\n" not in error
