"""Who is taken for a worker, who leaves, and how often the others are tried."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from gatecrew.v1 import worker_pb2
from gatecrew_cli.client import ReplyError
from gatecrew_gateway import Gateway
from gatecrew_gateway.codec import Status
from gatecrew_gateway.net import retry, stream
from gatecrew_registry import Entry
from gatecrew_worker import Request, Worker
from gateway.test_gateway import PATIENCE_S, House, Waits, echo, house_of, ready_links, until

WORKER = "gatecrew.v1.LogicWorker"
Handler = Callable[[Any, Any], Any]


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with AsyncExitStack() as stack, house_of(stack) as house:
        yield house


async def as_asked(request: worker_pb2.Request, context: Any) -> worker_pb2.Reply:
    """The ten-line worker of the contract."""
    if request.command != 1:
        return worker_pb2.Reply(id=request.id, status=12)
    return worker_pb2.Reply(id=request.id, body=request.body)


async def aborts(request: worker_pb2.Request, context: Any) -> worker_pb2.Reply:
    """One that says by the status of the call what it does not serve."""
    if request.command != 1:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such command here")
    return worker_pb2.Reply(id=request.id, body=request.body)


async def not_written(request: worker_pb2.Request, context: Any) -> worker_pb2.Reply:
    """What generated Python code does where nobody wrote Handle."""
    context.set_code(grpc.StatusCode.UNIMPLEMENTED)
    context.set_details("Method not implemented!")
    raise NotImplementedError("Method not implemented!")


async def serve(
    house: House, methods: dict[str, Handler], port: int = 0, health: health_aio.HealthServicer | None = None
) -> tuple[grpc.aio.Server, int]:
    """A server with these methods of the worker's service, in bytes where they are streams."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    handlers: dict[str, Any] = {}
    for name, handler in methods.items():
        if name == "Link":
            handlers[name] = grpc.stream_stream_rpc_method_handler(handler)
        else:
            handlers[name] = grpc.unary_unary_rpc_method_handler(
                handler, worker_pb2.Request.FromString, worker_pb2.Reply.SerializeToString
            )
    if handlers:
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(WORKER, handlers),))
    if health is not None:
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    house._stack.push_async_callback(server.stop, None)
    return server, port


async def register(house: House, port: int, service: str = "echo", **fields: Any) -> Entry:
    given = {"id": f"{service}-{port}", "host": "127.0.0.1", "tags": ("gatecrew-worker",), "check": "none"}
    entry = Entry(service=service, port=port, **{**given, **fields})
    await house.registry.register(entry)
    return entry


def link_of(gateway: Gateway, id: str) -> Any:
    return next((link for link in gateway._status().links if link.worker_id == id), None)


def lines(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    return [message for message in caplog.messages if text in message]


# Who is a worker.


async def test_a_gateways_own_port_is_no_worker(house: House, caplog: pytest.LogCaptureFixture) -> None:
    await house.worker(echo())
    gateway = await house.gateway()
    host, _, port = gateway.service_address.rpartition(":")
    wrong = await register(house, int(port), host=host)
    await until(lambda: bool(lines(caplog, "is no worker")))
    client = await house.client(gateway)
    for number in range(200):
        assert await client.request(1, b"%d" % number) == b"%d" % number
    await asyncio.sleep(1.0)  # some more attempts
    assert ready_links(gateway) == 1
    assert gateway.counters.links_opened == 1
    [line] = lines(caplog, wrong.id)
    assert "refused: it is no worker, it serves neither Link nor Handle" in line
    assert "is no worker" in link_of(gateway, wrong.id).status_text


@pytest.mark.parametrize("handle", [as_asked, aborts])
async def test_a_worker_without_health_service_needs_only_handle(house: House, handle: Handler) -> None:
    _, port = await serve(house, {"Handle": handle})
    await register(house, port)
    gateway = await house.gateway()
    client = await house.client(gateway)
    assert await client.request(1, b"in") == b"in"
    with pytest.raises(ReplyError) as refused:
        await client.request(2)
    assert refused.value.status == Status.UNIMPLEMENTED
    assert await client.request(1, b"again") == b"again"
    assert gateway.counters.links_lost == 0


async def test_a_worker_that_its_health_service_names_is_not_probed(house: House) -> None:
    heard: list[int] = []

    async def handle(request: worker_pb2.Request, context: Any) -> worker_pb2.Reply:
        heard.append(request.command)
        return worker_pb2.Reply(body=request.body)

    health = health_aio.HealthServicer()
    await health.set(WORKER, health_pb2.HealthCheckResponse.SERVING)
    _, port = await serve(house, {"Handle": handle}, health=health)
    await register(house, port)
    gateway = await house.gateway()
    client = await house.client(gateway)
    await client.request(1)
    assert heard == [1]


@pytest.mark.parametrize("methods", [{}, {"Other": as_asked}, {"Handle": not_written}], ids=["none", "other", "base"])
async def test_a_server_without_handle_is_no_worker(
    house: House, caplog: pytest.LogCaptureFixture, methods: dict[str, Handler]
) -> None:
    _, port = await serve(house, methods)
    await register(house, port)
    await house.gateway(workers=0)
    await until(lambda: bool(lines(caplog, "is no worker")))


async def test_another_server_at_the_address_of_a_worker(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """The channel connects to it by itself, when no call is under way. What it is sent was begun by nobody."""
    server, port = await serve(house, {"Handle": as_asked})
    entry = await register(house, port)
    gateway = await house.gateway()
    client = await house.client(gateway)
    assert await client.request(1, b"in") == b"in"
    link = next(iter(gateway._crew.members.values())).link
    assert link is not None
    link.beat = lambda: None  # type: ignore[method-assign]  # else it may notice that nobody is there
    await server.stop(None)
    stranger, _ = await serve(house, {}, port=port)
    requests = [asyncio.create_task(client.request(1, b"%d" % number)) for number in range(20)]
    await until(lambda: gateway.counters.links_lost == 1)
    _, good = await serve(house, {"Handle": as_asked})
    await register(house, good)
    assert await asyncio.gather(*requests, return_exceptions=True) == [b"%d" % number for number in range(20)]
    await until(lambda: bool(lines(caplog, "is no worker")))
    assert gateway.counters.redelivered == 0  # they never were at a worker
    assert entry.id in lines(caplog, "is no worker")[0]


async def test_what_a_library_answers_in_place_of_unimplemented_is_said(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    """The generated code of Ruby says UNKNOWN."""

    async def link(requests: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNKNOWN, "Illegal arity of reply generator")

    _, port = await serve(house, {"Handle": as_asked, "Link": link})
    await register(house, port)
    gateway = await house.gateway(workers=0)
    await until(lambda: bool(lines(caplog, "refused")))
    await asyncio.sleep(1.0)  # some more attempts
    [line] = lines(caplog, "refused")
    assert "it answered Link with UNKNOWN 'Illegal arity of reply generator'" in line
    assert "must answer UNIMPLEMENTED" in line
    assert "Illegal arity" in gateway._status().links[0].status_text


@pytest.mark.parametrize("after_hello", [True, False])
async def test_a_message_that_does_not_parse(
    house: House, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], after_hello: bool
) -> None:
    """One line, however often: the link is ended and tried again, ever less often."""
    opened = 0

    async def link(requests: Any, context: Any) -> None:
        nonlocal opened
        opened += 1
        if after_hello:
            hello = worker_pb2.WorkerHello(service="echo", incarnation="x", commands=[1])
            await context.write(worker_pb2.WorkerMessage(hello=hello).SerializeToString())
        await context.write(b"\xff\xff\xff")
        await asyncio.Event().wait()

    await house.worker(echo())
    _, port = await serve(house, {"Link": link})
    entry = await register(house, port, id="rubbish")
    gateway = await house.gateway()
    client = await house.client(gateway)
    began = time.monotonic()
    await until(lambda: opened >= 4)
    assert time.monotonic() - began > 0.3, "it was tried without a pause"
    assert await client.request(1, b"in") == b"in"
    assert len(lines(caplog, entry.id)) == 1, caplog.messages
    assert "Traceback" not in caplog.text + capfd.readouterr().err


async def test_a_reply_that_does_not_parse(
    house: House, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async def handle(request: bytes, context: Any) -> bytes:
        return b"\xff\xff\xff"

    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    handlers = {"Handle": grpc.unary_unary_rpc_method_handler(handle)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(WORKER, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    house._stack.push_async_callback(server.stop, None)
    await register(house, port)
    gateway = await house.gateway()
    client = await house.client(gateway)
    for _ in range(10):
        with pytest.raises(ReplyError, match="does not parse"):
            await client.request(1, timeout_s=PATIENCE_S)
    assert 1 <= len(lines(caplog, "does not parse")) <= 3
    assert "Traceback" not in caplog.text + capfd.readouterr().err


# Who leaves.


async def maintain(house: House, id: str, enable: bool) -> None:
    async with (
        aiohttp.ClientSession(house.registry.settings.url) as http,
        http.put(f"/v1/agent/service/maintenance/{id}", params={"enable": str(enable).lower()}) as answer,
    ):
        assert answer.status == 200


class Named:
    """A worker of the service "echo" that answers with its name; command 2 waits."""

    def __init__(self, name: str) -> None:
        self.worker = Worker("echo")
        self.slow = Waits(self.worker, 2)
        self.id = ""

        @self.worker.on(1)
        async def who(request: Request) -> bytes:
            return name.encode()

    async def serve(self, house: House) -> None:
        """Registered by hand."""
        server = await house._stack.enter_async_context(self.worker.serving())
        self.id = (await register(house, int(server.address.rpartition(":")[2]))).id


async def answers(house: House, gateway: Gateway) -> set[bytes]:
    client = await house.client(gateway)
    return {await client.request(1) for _ in range(20)}


async def test_maintenance_drains_a_worker_and_its_end_brings_it_back(house: House) -> None:
    first, second = Named("first"), Named("second")
    await first.serve(house)
    await second.serve(house)
    gateway = await house.gateway(workers=2)
    assert await answers(house, gateway) == {b"first", b"second"}
    client = await house.client(gateway)
    waiting = []
    while not first.slow.begun.is_set():
        waiting.append(asyncio.create_task(client.request(2, timeout_s=PATIENCE_S)))
        await asyncio.sleep(0.01)
        client = await house.client(gateway)
    await maintain(house, first.id, True)
    await until(lambda: link_of(gateway, first.id).state == "draining")
    assert link_of(gateway, first.id).status_text == "in maintenance"
    assert await answers(house, gateway) == {b"second"}
    first.slow.go_on.set()
    second.slow.go_on.set()
    assert set(await asyncio.gather(*waiting)) == {b"done"}
    await until(lambda: gateway.counters.links_lost == 1)  # its link has closed
    await until(lambda: link_of(gateway, first.id).state == "draining")
    assert await answers(house, gateway) == {b"second"}
    later = await house.gateway(workers=1)  # one that starts now takes no link to it
    assert await answers(house, later) == {b"second"}
    await maintain(house, first.id, False)
    for each in (gateway, later):
        await until(lambda each=each: ready_links(each) == 2)  # type: ignore[misc]
        assert await answers(house, each) == {b"first", b"second"}
        assert each.counters.redelivered == each.counters.errors == each.counters.workers_frozen == 0


async def test_a_worker_that_does_not_end_its_stream_is_let_go(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is open with it, so its silence is no failure."""
    monkeypatch.setattr(stream, "END_WITHIN_S", 0.3)

    async def link(requests: Any, context: Any) -> None:
        hello = worker_pb2.WorkerHello(service="echo", incarnation="x")
        await context.write(worker_pb2.WorkerMessage(hello=hello).SerializeToString())
        await asyncio.Event().wait()

    _, port = await serve(house, {"Link": link})
    entry = await register(house, port)
    gateway = await house.gateway()
    await maintain(house, entry.id, True)
    await until(lambda: gateway.counters.links_lost == 1)
    assert gateway.counters.workers_frozen == 0
    assert not lines(caplog, "silent")


async def test_maintenance_drains_a_worker_without_link(house: House) -> None:
    _, port = await serve(house, {"Handle": as_asked})
    entry = await register(house, port)
    gateway = await house.gateway()
    await maintain(house, entry.id, True)
    await until(lambda: gateway.counters.links_lost == 1)
    await until(lambda: link_of(gateway, entry.id).state == "draining")
    await maintain(house, entry.id, False)
    await until(lambda: ready_links(gateway) == 1)
    assert await (await house.client(gateway)).request(1, b"in") == b"in"


async def test_a_worker_that_is_deregistered_by_hand_is_drained_after_the_grace(house: House) -> None:
    first, second = Named("first"), Named("second")
    await first.serve(house)
    await second.serve(house)
    gateway = await house.gateway(workers=2, deregistered_grace_s=1.5)
    began = time.monotonic()
    await house.registry.deregister(first.id)
    await until(lambda: link_of(gateway, first.id).status_text == "deregistered")
    assert await answers(house, gateway) == {b"first", b"second"} or time.monotonic() - began > 1.5
    await until(lambda: link_of(gateway, first.id) is None)
    assert time.monotonic() - began > 1.5
    assert await answers(house, gateway) == {b"second"}
    await register(house, int(first.id.rpartition("-")[2]))
    await until(lambda: ready_links(gateway) == 2)
    assert await answers(house, gateway) == {b"first", b"second"}
    assert gateway.counters.errors == 0


async def test_the_last_worker_of_a_service_stays_though_it_is_deregistered(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Named("first"), Named("second")
    await first.serve(house)
    gateway = await house.gateway(deregistered_grace_s=0.2)
    await house.registry.deregister(first.id)
    await until(lambda: bool(lines(caplog, "the last of its service")))
    assert await answers(house, gateway) == {b"first"}
    await second.serve(house)
    await until(lambda: ready_links(gateway) == 1 and link_of(gateway, first.id) is None)
    assert await answers(house, gateway) == {b"second"}
    assert gateway.counters.errors == 0


async def test_one_that_is_registered_again_within_the_grace_never_leaves(house: House) -> None:
    first, second = Named("first"), Named("second")
    await first.serve(house)
    await second.serve(house)
    gateway = await house.gateway(workers=2, deregistered_grace_s=2.0)
    await house.registry.deregister(first.id)
    await until(lambda: link_of(gateway, first.id).status_text == "deregistered")
    await register(house, int(first.id.rpartition("-")[2]))
    await until(lambda: link_of(gateway, first.id).status_text == "")
    await asyncio.sleep(2.5)
    assert gateway.counters.links_lost == 0


# How often the others are tried.


def test_the_pauses_of_one_that_was_never_linked_grow_and_a_new_entry_ends_them() -> None:
    one = retry.Retry()
    pauses = [one.failed(float(now)) for now in range(20)]
    assert pauses == sorted(pauses)
    assert pauses[0] == retry.FIRST_OF_A_STRANGER_S
    assert pauses[-1] == retry.MOST_OF_A_STRANGER_S
    one.reset()
    assert one.failed(20.0) == retry.FIRST_S


def test_one_that_was_linked_lately_is_tried_every_second() -> None:
    one = retry.Retry()
    for now in range(20):
        one.failed(float(now))
    one.linked(100.0)
    assert {one.failed(100.0 + now) for now in range(1, 299)} == {retry.MOST_S}
    assert one.failed(500.0) <= retry.MOST_S * retry.GROWTH
    assert [one.failed(500.0 + now) for now in range(20)][-1] == retry.MOST_OF_A_STRANGER_S


def test_those_who_have_waited_for_long_leave_room_for_the_others() -> None:
    attempts = retry.Attempts()
    assert sum(attempts.begin(is_patient=True) for _ in range(1000)) == retry.MOST_PATIENT_ATTEMPTS
    assert sum(attempts.begin(is_patient=False) for _ in range(1000)) == (
        retry.MOST_ATTEMPTS - retry.MOST_PATIENT_ATTEMPTS
    )
    attempts.end()
    assert not attempts.begin(is_patient=True)
    assert attempts.begin(is_patient=False)


async def test_a_thousand_dead_registrations_cost_little(house: House, record_property: Any) -> None:
    await house.worker(echo())
    gateway = await house.gateway()
    client = await house.client(gateway)

    async def cpu_s(seconds: float) -> float:
        began, used = time.monotonic(), time.process_time()
        while time.monotonic() - began < seconds:
            assert await client.request(1, b"in", timeout_s=PATIENCE_S) == b"in"
            await asyncio.sleep(0.01)
        return (time.process_time() - used) / (time.monotonic() - began)

    before = await cpu_s(3.0)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        port = nobody.getsockname()[1]
        for number in range(1000):
            await register(house, port, service=f"dead{number % 5}", id=f"dead-{number}")
        await until(lambda: len(gateway._status().links) == 1001)
        await asyncio.sleep(8.0)
        after = await cpu_s(6.0)
        record_property("cores", f"{before:.3f} with none, {after:.3f} with 1000")
        logging.getLogger("test").warning("CPU: %.3f of a core with none, %.3f with 1000 dead ones", before, after)
        assert after - before < 0.35
