"""The registries that the contract suite runs against: embedded, Debian's old Consul, a current Consul."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Protocol

import aiohttp
import pytest
from fake_consul import FakeConsul
from tools.consul import ConsulAgent, require_consul

from gatecrew_registry import Entry, Registry, RegistrySettings
from gatecrew_registry.embedded import EmbeddedRegistry


class Server(Protocol):
    """A registry at an address; one that is stopped and started again has forgotten all."""

    @property
    def address(self) -> str: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...


class _Embedded:
    def __init__(self) -> None:
        self._registry = EmbeddedRegistry("127.0.0.1", 0)

    @property
    def address(self) -> str:
        return self._registry.address

    async def start(self) -> None:
        if self.address:
            self._registry = EmbeddedRegistry("127.0.0.1", int(self.address.rpartition(":")[2]))
        await self._registry.start()

    async def stop(self) -> None:
        await self._registry.aclose()


class _Real:
    def __init__(self, agent: ConsulAgent) -> None:
        self._agent = agent

    @property
    def address(self) -> str:
        return self._agent.address

    async def start(self) -> None:
        await asyncio.to_thread(self._agent.start)

    async def stop(self) -> None:
        await asyncio.to_thread(self._agent.stop)


BACK_ENDS = ("embedded", "debian", "current")


@pytest.fixture(scope="session")
def agents() -> Iterator[Callable[[str], ConsulAgent]]:
    """One running agent of each kind for all tests that do not restart it."""
    running: dict[str, ConsulAgent] = {}

    def get(which: str) -> ConsulAgent:
        if which not in running:
            agent = ConsulAgent(require_consul(which))
            running[which] = agent
            agent.start()
        return running[which]

    yield get
    for agent in running.values():
        agent.stop()


@pytest.fixture(params=BACK_ENDS)
async def address(request: pytest.FixtureRequest, agents: Callable[[str], ConsulAgent]) -> AsyncIterator[str]:
    """The address of a registry where nobody is registered."""
    if request.param != "embedded":
        agent = await asyncio.to_thread(agents, request.param)
        yield agent.address
        async with aiohttp.ClientSession(f"http://{agent.address}") as http:
            async with http.get("/v1/agent/services") as answer:
                left = await answer.json()
            for entry_id in left:
                await (await http.put(f"/v1/agent/service/deregister/{entry_id}")).read()
        return
    server = _Embedded()
    await server.start()
    yield server.address
    await server.stop()


@pytest.fixture(params=BACK_ENDS)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    """A registry of the test's own, running; the test may stop it and start it again."""
    server = _Embedded() if request.param == "embedded" else _Real(ConsulAgent(require_consul(request.param)))
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def registry(address: str) -> AsyncIterator[Registry]:
    async with Registry(RegistrySettings(address=address)) as registry:
        yield registry


@pytest.fixture
async def http(address: str) -> AsyncIterator[aiohttp.ClientSession]:
    """For what our own client does not do."""
    async with aiohttp.ClientSession(f"http://{address}") as session:
        yield session


@pytest.fixture
async def fake() -> AsyncIterator[FakeConsul]:
    fake = FakeConsul()
    await fake.start()
    yield fake
    await fake.stop()


_number = itertools.count(1)


@pytest.fixture
def tag() -> str:
    """A tag of the test's own: an agent that is shared may still be forgetting the last test's entries."""
    return f"tag-{next(_number)}"


@pytest.fixture
def make(tag: str) -> Callable[..., Entry]:
    """Make an entry with the test's tag: `make(port, service=...)`; its id is unlike those of other tests."""
    name = f"chat-{next(_number)}"

    def make(port: int, **fields: Any) -> Entry:
        service = fields.pop("service", name)
        given = {"id": f"{service}-127.0.0.1-{port}", "host": "127.0.0.1", "tags": (tag,), "check": "none"}
        return Entry(service=service, port=port, **{**given, **fields})

    return make
