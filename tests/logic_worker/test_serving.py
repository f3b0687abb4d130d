"""A worker's life: listening, registering, health, draining, signals."""

import asyncio
import gc
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from processes import Process

from gatecrew.v1 import worker_pb2, worker_pb2_grpc
from gatecrew_registry import Registry, RegistrySettings
from gatecrew_registry.embedded import EmbeddedRegistry
from gatecrew_worker import Request, Session, Status, Worker, WorkerError, serve
from gatecrew_worker.program import commands_text

from .gateway_end import GatewayEnd, eventually, linked

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Slow:
    """Command 1 waits until it is released."""

    def __init__(self) -> None:
        self.worker = Worker("slow")
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.cancelled = False
        self.worker.on(1)(self.handle)

    async def handle(self, request: Request) -> bytes:
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return request.body


async def health(address: str, service: str) -> health_pb2.HealthCheckResponse.ServingStatus.ValueType:
    async with grpc.aio.insecure_channel(address) as channel:
        response = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
        return response.status


# Drain.


async def test_drain_finishes_what_is_open_and_gives_back_what_comes() -> None:
    slow = Slow()
    async with slow.worker.serving() as serving, GatewayEnd(serving.address) as gateway:
        running, waiting = gateway.request(1, b"running"), gateway.request(1, b"waiting")
        await gateway.post(running, waiting)
        await slow.started.wait()
        drain = asyncio.create_task(serving.drain())
        await gateway.until(lambda: gateway.messages[-1].draining)
        assert await health(serving.address, "slow") == NOT_SERVING

        (refused,) = await gateway.ask(gateway.request(1, b"late", 2))
        assert (refused.not_started, refused.status) == (True, Status.UNAVAILABLE)
        await gateway.send(heartbeat=worker_pb2.Heartbeat(number=1))
        await gateway.until(lambda: gateway.messages[-1].HasField("heartbeat"))
        assert gateway.messages[-1].heartbeat.in_flight == 2
        async with GatewayEnd(serving.address, prefix=2) as newcomer:
            await newcomer.until(lambda: newcomer.messages[-1].draining)
            (refused,) = await newcomer.ask(newcomer.request(1))
            assert refused.not_started
        assert not drain.done()

        slow.release.set()
        await gateway.until(lambda: gateway.code)
        assert gateway.code is grpc.StatusCode.OK
        assert [gateway.replies[request.id].body for request in (running, waiting)] == [b"running", b"waiting"]
        await drain
    assert not slow.cancelled


async def test_drain_of_an_idle_worker_is_quick_and_ends_links_well() -> None:
    async with Slow().worker.serving() as serving:
        gateways = [GatewayEnd(serving.address, prefix=n) for n in range(3)]
        for gateway in gateways:
            await gateway.__aenter__()
        loop = asyncio.get_running_loop()
        before = loop.time()
        await serving.drain()
        assert loop.time() - before < 8
        for gateway in gateways:
            await gateway.until(lambda gateway=gateway: gateway.code)  # type: ignore[misc]
            assert gateway.code is grpc.StatusCode.OK
            await gateway.__aexit__(None, None, None)


async def test_drain_writes_large_replies_out() -> None:
    worker = Worker("large")

    @worker.on(1)
    async def large(request: Request) -> bytes:
        await asyncio.sleep(0)
        return bytes(900_000)

    async with worker.serving() as serving, GatewayEnd(serving.address) as gateway:
        requests = [gateway.request(1, session=n) for n in range(20)]
        await gateway.post(*requests)
        gateway.reading.clear()
        await eventually(lambda: worker._links.live and worker._links.live[0].outbox.bytes_waiting > 5_000_000)
        drain = asyncio.create_task(serving.drain())
        await asyncio.sleep(0)
        gateway.reading.set()
        await drain
        assert all(len(reply.body) == 900_000 for reply in await gateway.answers(*requests))


async def test_drain_has_an_end(caplog: pytest.LogCaptureFixture) -> None:
    slow = Slow()
    async with slow.worker.serving(drain_s=0.01) as serving, GatewayEnd(serving.address) as gateway:
        await gateway.post(gateway.request(1))
        await slow.started.wait()
        await serving.drain()
        await gateway.until(lambda: gateway.code)
    assert slow.cancelled
    assert "left with 1 requests in flight" in caplog.text


async def test_drain_ends_with_a_gateway_that_does_not_read() -> None:
    worker = Worker("stuck")
    async with worker.serving(drain_s=0.01) as serving, GatewayEnd(serving.address) as gateway:
        await eventually(lambda: worker._links.live)
        gateway.reading.clear()
        while not worker._links.live[0].outbox.is_full:
            worker.push_everyone(bytes(1_000_000))
        await serving.drain()


async def test_drain_can_be_hurried() -> None:
    slow = Slow()
    async with slow.worker.serving(drain_s=1000) as serving, GatewayEnd(serving.address) as gateway:
        await gateway.post(gateway.request(1))
        await slow.started.wait()
        drain = asyncio.create_task(serving.drain())
        await gateway.until(lambda: gateway.messages[-1].draining)
        serving.hurry()
        serving.hurry()
        await drain
    assert slow.cancelled


async def test_drain_does_not_wait_for_a_thread_for_ever() -> None:
    worker = Worker("hang")
    started, release = threading.Event(), threading.Event()

    @worker.on(1)
    def hang(request: Request) -> None:
        started.set()
        release.wait(60)

    async with worker.serving(drain_s=0.01) as serving, GatewayEnd(serving.address) as gateway:
        await gateway.post(gateway.request(1))
        await asyncio.to_thread(started.wait, 10)
        await serving.drain()
    release.set()


async def test_drain_waits_for_handle_calls() -> None:
    slow = Slow()
    async with slow.worker.serving() as serving, grpc.aio.insecure_channel(serving.address) as channel:
        stub = worker_pb2_grpc.LogicWorkerStub(channel)
        call = stub.Handle(worker_pb2.Request(id=1, session=1, command=1, body=b"x"))
        task = asyncio.ensure_future(call)
        await slow.started.wait()
        drain = asyncio.create_task(serving.drain())
        await eventually(lambda: serving._shared.draining)
        refused = await stub.Handle(worker_pb2.Request(id=2, session=1, command=1))
        assert refused.not_started
        slow.release.set()
        assert (await task).body == b"x"
        await drain


async def test_caller_of_handle_who_goes_leaves_the_handler_running() -> None:
    slow = Slow()
    async with slow.worker.serving() as serving, grpc.aio.insecure_channel(serving.address) as channel:
        call = worker_pb2_grpc.LogicWorkerStub(channel).Handle(worker_pb2.Request(id=1, session=1, command=1))
        task = asyncio.ensure_future(call)
        await slow.started.wait()
        task.cancel()
        await asyncio.wait([task])
        slow.release.set()
    assert not slow.cancelled


async def test_served_again_after_its_end_but_not_twice_at_once() -> None:
    worker = Slow().worker
    async with worker.serving():
        with pytest.raises(WorkerError, match="being served already"):
            async with worker.serving():
                pass
    async with linked(worker) as (gateway, _):
        assert (await gateway.ask(gateway.request(9)))[0].status == Status.UNIMPLEMENTED


async def test_nothing_of_a_link_is_left() -> None:
    worker = Worker("garbage")

    @worker.on(1)
    async def keep(request: Request) -> bytes:
        await asyncio.sleep(0)
        return b""

    async with worker.serving() as serving:
        for n in range(5):
            async with GatewayEnd(serving.address, prefix=n) as gateway:
                context = worker_pb2.SessionContext(session=gateway.session(1))
                request = gateway.request(1)
                await gateway.send(sessions=[context], requests=[request])
                await gateway.answers(request)
        await eventually(lambda: not serving._servicer.streams)
        assert not serving._shared.dispatchers
        assert not worker._links.live
        gc.collect()
        assert not [each for each in gc.get_objects() if isinstance(each, Session) and each._links is worker._links]


# Health, port, registry.


async def test_health() -> None:
    async with Slow().worker.serving() as serving:
        for service in ("", "slow", "gatecrew.v1.LogicWorker"):
            assert await health(serving.address, service) == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await health(serving.address, "other")
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


async def test_port_that_is_in_use() -> None:
    async with Slow().worker.serving() as serving:
        with pytest.raises(WorkerError) as error:
            await serve(Slow().worker, port=serving.port)
        assert str(error.value) == f"cannot listen on {serving.address}: in use; choose another"
    with pytest.raises(WorkerError) as error:
        await serve(Slow().worker, "192.0.2.1", 7101)
    assert str(error.value) == "cannot listen on 192.0.2.1:7101: not an address of ours; choose another"


@pytest.mark.parametrize("host", ["::1", "[::1]"])
async def test_ipv6(host: str) -> None:
    async with Slow().worker.serving(host) as serving:
        assert serving.address == f"[::1]:{serving.port}"
        assert await health(serving.address, "") == SERVING


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    embedded = EmbeddedRegistry(port=0)
    await embedded.start()
    async with Registry(RegistrySettings(address=embedded.address)) as opened:
        yield opened
    await embedded.aclose()


async def test_registered_while_it_serves(registry: Registry) -> None:
    worker = Worker("chat", version="3")

    @worker.on(1, 2, 3, 9)
    async def say(request: Request) -> bytes:
        return b""

    @worker.on_open
    async def opened(session: Session) -> None: ...

    async with worker.serving(registry=registry) as serving:
        entry = serving._entry("127.0.0.1")
        assert (entry.service, entry.id) == ("chat", f"chat-127.0.0.1-{serving.port}")
        assert (entry.tags, entry.check) == (("gatecrew-worker",), "grpc")
        assert entry.meta == {
            "contract": "v1",
            "incarnation": serving.incarnation,
            "commands": "1-3,9",
            "version": "3",
            "weight": "1",
            "session_events": "true",
        }
        assert await registry.is_registered(entry.id)
        await serving.drain()
        assert not await registry.is_registered(entry.id)


async def test_deregistered_before_its_links_end(registry: Registry) -> None:
    slow = Slow()
    async with slow.worker.serving(registry=registry) as serving, GatewayEnd(serving.address) as gateway:
        entry_id = f"slow-127.0.0.1-{serving.port}"
        await gateway.post(gateway.request(1))
        await slow.started.wait()
        drain = asyncio.create_task(serving.drain())
        while await registry.is_registered(entry_id):
            pass
        assert gateway.code is None
        slow.release.set()
        await drain


async def test_every_address_needs_one_to_advertise(registry: Registry) -> None:
    for host in ("0.0.0.0", "::"):
        with pytest.raises(WorkerError, match="advertise_host"):
            async with Slow().worker.serving(host, registry=registry):
                pass
    async with Slow().worker.serving("0.0.0.0", registry=registry, advertise_host="127.0.0.2") as serving:
        assert serving.address == f"127.0.0.2:{serving.port}"
        assert await registry.is_registered(f"slow-127.0.0.2-{serving.port}")


async def test_registry_that_is_down_is_no_reason_not_to_serve() -> None:
    async with (
        Registry(RegistrySettings(address="127.0.0.1:1")) as nowhere,
        Slow().worker.serving(registry=nowhere) as serving,
    ):
        assert await health(serving.address, "") == SERVING


@pytest.mark.parametrize(
    ("commands", "text"),
    [
        ([], "*"),
        ([5], "5"),
        ([1, 2, 3, 35], "1-3,35"),
        (list(range(65_536)), "0-65535"),
        (list(range(0, 1000, 2)), "*"),
    ],
)
def test_commands_as_text(commands: list[int], text: str) -> None:
    assert commands_text(commands, 512) == text


# Processes and signals.

PROGRAM = """
import asyncio, sys, threading
import uvloop
from gatecrew_worker import Worker, serve

worker = Worker("signals")

@worker.on(1)
async def slow(request):
    print("started", flush=True)
    await asyncio.Event().wait()

@worker.on(2)
async def quick(request):
    return b"quick"

run = {"asyncio": asyncio.run, "uvloop": uvloop.run}[sys.argv[1]]
run(serve(worker, drain_s=60, on_ready=lambda address: print("ready", address, flush=True)))
print("ended", flush=True)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.uvloop_only
async def test_signal_drains(start: Callable[..., Process], program: Path, number: signal.Signals, loop: str) -> None:
    process = start([sys.executable, str(program), loop])
    address = (await asyncio.to_thread(process.wait_line, "ready (.*)"))[1]
    async with GatewayEnd(address) as gateway:
        (reply,) = await gateway.ask(gateway.request(2))
        assert reply.body == b"quick"
        process.send(number)
        await gateway.until(lambda: gateway.code)
        assert gateway.messages[-1].draining
        assert gateway.code is grpc.StatusCode.OK
    assert await asyncio.to_thread(process.wait) == 0
    assert process.stdout[-1] == "ended"
    assert process.stderr == []


@pytest.mark.uvloop_only
async def test_second_signal_ends_it_at_once(start: Callable[..., Process], program: Path) -> None:
    process = start([sys.executable, str(program), "uvloop"])
    address = (await asyncio.to_thread(process.wait_line, "ready (.*)"))[1]
    async with GatewayEnd(address) as gateway:
        await gateway.post(gateway.request(1))
        await asyncio.to_thread(process.wait_line, "started")
        process.send(signal.SIGTERM)
        await gateway.until(lambda: gateway.messages[-1].draining)
        process.send(signal.SIGTERM)
        await gateway.until(lambda: gateway.code)
    assert await asyncio.to_thread(process.wait) == 0


@pytest.mark.uvloop_only
async def test_run_serves_with_a_registry_of_its_own(
    start: Callable[..., Process], tmp_path: Path, registry: Registry
) -> None:
    path = tmp_path / "program.py"
    path.write_text(
        "from gatecrew_registry import RegistrySettings\n"
        "from gatecrew_worker import Worker\n"
        f"Worker('run').run(registry=RegistrySettings(address={registry.settings.address!r}))\n"
    )
    process = start([sys.executable, str(path)])
    async with aclosing(registry.watch("gatecrew-worker")) as snapshots:
        async for snapshot in snapshots:
            if snapshot.get("run"):
                break
    assert await asyncio.to_thread(process.stop) == 0
