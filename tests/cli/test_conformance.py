"""The conformance kit finds what is wrong with a worker: the reference worker behind a proxy that breaks one rule."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from command_line import run
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gatecrew.v1 import worker_pb2, worker_pb2_grpc
from gatecrew_cli.conformance import kit as kit_module
from gatecrew_cli.conformance.cancel_checks import CANCEL_CHECKS
from gatecrew_cli.conformance.finding import Finding
from gatecrew_cli.conformance.kit import Kit
from gatecrew_cli.conformance.leave_checks import HANDLE_LEAVE_CHECKS
from gatecrew_cli.conformance.link_checks import BEAT_WITHIN_S, LINK_CHECKS
from gatecrew_cli.conformance.program import MOST_PRINTED, Printed, Program
from gatecrew_cli.errors import Failed
from gatecrew_worker import Worker

REFERENCE = Path(__file__).parents[2] / "examples" / "workers" / "python"
CHECKS = LINK_CHECKS.all + CANCEL_CHECKS.all
CANCELLED = 1
SLOW = {"keepalive"}  # waits for half a minute by its nature; the whole kit runs in tests/workers

ToWorker = Callable[[worker_pb2.GatewayMessage], Iterable[worker_pb2.GatewayMessage]]
ToGateway = Callable[[worker_pb2.WorkerMessage], Iterable[worker_pb2.WorkerMessage]]


def same(message: Any) -> Iterable[Any]:
    return (message,)


class Liar(worker_pb2_grpc.LogicWorkerServicer):
    """Hands every message on, changed."""

    def __init__(self, address: str, to_worker: ToWorker, to_gateway: ToGateway) -> None:
        self._address = address
        self._to_worker = to_worker
        self._to_gateway = to_gateway

    async def Link(  # type: ignore[override]
        self, messages: AsyncIterator[worker_pb2.GatewayMessage], context: Any
    ) -> AsyncIterator[worker_pb2.WorkerMessage]:
        async with grpc.aio.insecure_channel(self._address) as channel:
            stub: worker_pb2_grpc.LogicWorkerAsyncStub = worker_pb2_grpc.LogicWorkerStub(channel)
            call = stub.Link()

            async def upwards() -> None:
                async for message in messages:
                    for changed in self._to_worker(message):
                        await call.write(changed)
                await call.done_writing()

            up = asyncio.create_task(upwards())
            try:
                async for message in call:
                    for changed in self._to_gateway(message):
                        yield changed
            finally:
                up.cancel()
                with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await up


def reference() -> Worker:
    spec = importlib.util.spec_from_file_location("app", REFERENCE / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    worker: Worker = module.worker
    return worker


@asynccontextmanager
async def kit_for(to_worker: ToWorker = same, to_gateway: ToGateway = same, serving: bool = True) -> AsyncIterator[Kit]:
    async with reference().serving() as worker:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        worker_pb2_grpc.add_LogicWorkerServicer_to_server(Liar(worker.address, to_worker, to_gateway), server)
        checker = health.aio.HealthServicer()
        state = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", "gatecrew.v1.LogicWorker"):
            await checker.set(name, state)
        health_pb2_grpc.add_HealthServicer_to_server(checker, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        kit = Kit(f"127.0.0.1:{port}", None, None)
        try:
            await kit.find_out()
            yield kit
        finally:
            await kit.aclose()
            await server.stop(None)


async def findings(kit: Kit, *names: str) -> dict[str, Finding]:
    found = []
    for check in CHECKS:
        if check.name in names:
            outcome, detail = await kit._run(check)
            found.append(Finding(check, outcome, detail, 0.0))
    return {each.check.name: each for each in found}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kit_module, "PATIENCE_S", 3.0)


# The rules that a proxy can break. Each takes a message and gives what goes on instead.


def hello(**fields: Any) -> ToGateway:
    def change(message: worker_pb2.WorkerMessage) -> Iterable[worker_pb2.WorkerMessage]:
        if message.HasField("hello"):
            for name, value in fields.items():
                setattr(message.hello, name, value)
        return (message,)

    return change


def second_hello(message: worker_pb2.WorkerMessage) -> Iterable[worker_pb2.WorkerMessage]:
    if message.replies:
        message.hello.service = "again"
    return (message,)


def twice(message: worker_pb2.WorkerMessage) -> Iterable[worker_pb2.WorkerMessage]:
    return (message, worker_pb2.WorkerMessage(replies=message.replies[-1:]))


def stray(message: worker_pb2.WorkerMessage) -> Iterable[worker_pb2.WorkerMessage]:
    if message.replies:
        yield worker_pb2.WorkerMessage(replies=[worker_pb2.Reply(id=999_999)])
    yield message


def silence(message: worker_pb2.WorkerMessage) -> Iterable[worker_pb2.WorkerMessage]:
    del message.replies[-1:]
    return (message,)


def wrong_id(message: worker_pb2.WorkerMessage) -> Iterable[worker_pb2.WorkerMessage]:
    for reply in message.replies:
        reply.id += 100_000
    return (message,)


def replies(**fields: Any) -> ToGateway:
    def change(message: worker_pb2.WorkerMessage) -> Iterable[worker_pb2.WorkerMessage]:
        for reply in message.replies:
            for name, value in fields.items():
                setattr(reply, name, value)
        return (message,)

    return change


def reversed_requests(message: worker_pb2.GatewayMessage) -> Iterable[worker_pb2.GatewayMessage]:
    requests = list(message.requests)[::-1]
    del message.requests[:]
    message.requests.extend(requests)
    return (message,)


def no_heartbeat(message: worker_pb2.WorkerMessage) -> Iterable[worker_pb2.WorkerMessage]:
    message.ClearField("heartbeat")
    return (message,)


def slow_heartbeat(message: worker_pb2.WorkerMessage) -> Iterable[worker_pb2.WorkerMessage]:
    if message.HasField("heartbeat"):
        time.sleep(BEAT_WITHIN_S + 0.2)
    return (message,)


def no_in_flight(message: worker_pb2.WorkerMessage) -> Iterable[worker_pb2.WorkerMessage]:
    message.heartbeat.in_flight = 0
    return (message,)


def actions_last(message: worker_pb2.WorkerMessage) -> Iterable[worker_pb2.WorkerMessage]:
    for action in message.actions:
        action.after_replies = len(message.replies)
    return (message,)


def impossible_place(message: worker_pb2.WorkerMessage) -> Iterable[worker_pb2.WorkerMessage]:
    for action in message.actions:
        action.after_replies = len(message.replies) + 7
    return (message,)


def to_everybody(message: worker_pb2.WorkerMessage) -> Iterable[worker_pb2.WorkerMessage]:
    for action in message.actions:
        action.push.except_session = 0
    return (message,)


def only_pushes(message: worker_pb2.WorkerMessage) -> Iterable[worker_pb2.WorkerMessage]:
    kept = [action for action in message.actions if action.HasField("push")]
    del message.actions[:]
    message.actions.extend(kept)
    return (message,)


def strict_parser(message: worker_pb2.GatewayMessage) -> Iterable[worker_pb2.GatewayMessage]:
    known = worker_pb2.GatewayMessage.FromString(message.SerializeToString())
    known.DiscardUnknownFields()
    if known.ByteSize() != message.ByteSize():
        raise ValueError("unknown field")
    return (message,)


def no_context_changes() -> ToWorker:
    seen: set[int] = set()

    def change(message: worker_pb2.GatewayMessage) -> Iterable[worker_pb2.GatewayMessage]:
        kept = [context for context in message.sessions if context.session not in seen]
        seen.update(context.session for context in kept)
        del message.sessions[:]
        message.sessions.extend(kept)
        return (message,)

    return change


def nothing_forgotten(message: worker_pb2.GatewayMessage) -> Iterable[worker_pb2.GatewayMessage]:
    del message.forgotten_sessions[:]
    return (message,)


def no_deadline(message: worker_pb2.GatewayMessage) -> Iterable[worker_pb2.GatewayMessage]:
    for request in message.requests:
        request.remaining_ms = 60_000
    return (message,)


def no_cancellation(message: worker_pb2.GatewayMessage) -> Iterable[worker_pb2.GatewayMessage]:
    del message.cancelled_requests[:]
    return (message,)


def no_reply_to_cancelled(message: worker_pb2.WorkerMessage) -> Iterable[worker_pb2.WorkerMessage]:
    kept = [reply for reply in message.replies if reply.status != CANCELLED]
    del message.replies[:]
    message.replies.extend(kept)
    return (message,)


def cancelled_twice(message: worker_pb2.WorkerMessage) -> Iterable[worker_pb2.WorkerMessage]:
    again = [reply for reply in message.replies if reply.status == CANCELLED]
    return (message, worker_pb2.WorkerMessage(replies=again)) if again else (message,)


def all_that_is_cancelled_is_answered() -> tuple[ToWorker, ToGateway]:
    ids: list[int] = []

    def to_worker(message: worker_pb2.GatewayMessage) -> Iterable[worker_pb2.GatewayMessage]:
        ids.extend(message.cancelled_requests)
        return (message,)

    def to_gateway(message: worker_pb2.WorkerMessage) -> Iterable[worker_pb2.WorkerMessage]:
        message.replies.extend(worker_pb2.Reply(id=id_) for id_ in ids)
        ids.clear()
        return (message,)

    return to_worker, to_gateway


def the_first_cancellation_is_lost() -> ToWorker:
    """The check's first is of the request that waits: it then has its turn when the running one is cancelled."""
    lost: list[int] = []

    def change(message: worker_pb2.GatewayMessage) -> Iterable[worker_pb2.GatewayMessage]:
        if message.cancelled_requests and not lost:
            lost.extend(message.cancelled_requests)
            del message.cancelled_requests[:]
        return (message,)

    return change


def no_sent_ms(message: worker_pb2.GatewayMessage) -> Iterable[worker_pb2.GatewayMessage]:
    message.sent_ms = 0
    return (message,)


def always_late(message: worker_pb2.GatewayMessage) -> Iterable[worker_pb2.GatewayMessage]:
    """As for a worker that takes the gateway's clock for its own."""
    if message.requests and message.sent_ms:
        message.sent_ms -= 1_000_000
    return (message,)


FAULTS: list[tuple[str, ToWorker, ToGateway]] = [
    ("hello", same, hello(incarnation="")),
    ("hello", same, hello(service="")),
    ("batches", same, second_hello),
    ("once", same, twice),
    ("batches", same, silence),
    ("batches", same, wrong_id),
    ("batches", same, replies(body=b"another")),
    ("notify", same, replies(body=b"not empty")),
    ("unknown-kind", same, replies(status=3)),
    ("session-events", same, replies(body=b"x")),
    ("unknown-command", same, replies(status=0)),
    ("unknown-command", same, replies(not_started=True)),
    ("refusal", same, replies(message="")),
    ("handler-error", same, replies(message="RuntimeError: as asked")),
    ("order", reversed_requests, same),
    ("heartbeat", same, no_heartbeat),
    ("heartbeat", same, slow_heartbeat),
    ("heartbeat-while-busy", same, no_in_flight),
    ("oversize-reply", same, replies(body=b"x" * (1 << 20))),
    ("deadline-passed", no_deadline, same),
    ("too-much", same, hello(max_in_flight=100)),
    ("too-much", same, replies(not_started=False)),
    ("context", no_context_changes(), same),
    ("context", same, replies(body=b"\xff")),
    ("forgotten-sessions", nothing_forgotten, same),
    ("push", same, actions_last),
    ("push", same, stray),
    ("push", same, impossible_place),
    ("groups", same, to_everybody),
    ("session-commands", same, only_pushes),
    ("unknown-fields", strict_parser, same),
    ("cancelled", no_cancellation, same),
    ("cancelled", same, no_reply_to_cancelled),
    ("cancelled", same, cancelled_twice),
    ("cancelled-in-the-lane", the_first_cancellation_is_lost(), same),
    ("cancelled-in-the-lane", same, no_reply_to_cancelled),
    ("cancelled-too-late", *all_that_is_cancelled_is_answered()),
    ("time-unread", no_sent_ms, same),
    ("time-unread", always_late, same),
]


@pytest.mark.uvloop_only
@pytest.mark.parametrize(
    ("name", "to_worker", "to_gateway"), FAULTS, ids=[f"{n}-{name}" for n, (name, *_) in enumerate(FAULTS)]
)
async def test_a_broken_rule_is_found(name: str, to_worker: ToWorker, to_gateway: ToGateway) -> None:
    async with kit_for(to_worker, to_gateway) as kit:
        found = (await findings(kit, name))[name]
    assert found.outcome == "FAIL"
    assert found.detail
    assert "\n" not in found.detail


async def test_a_check_that_measures_time_may_fail_twice() -> None:
    late = [True, True, False]

    def slow_at_first(message: worker_pb2.WorkerMessage) -> Iterable[worker_pb2.WorkerMessage]:
        if message.HasField("heartbeat") and message.heartbeat.number == 1 and late.pop(0):
            time.sleep(BEAT_WITHIN_S + 0.2)
        return (message,)

    async with kit_for(to_gateway=slow_at_first) as kit:
        found = await findings(kit, "heartbeat")
    assert found["heartbeat"].outcome == "ok"
    assert not late


async def test_the_reference_worker_passes() -> None:
    """Through the same proxy, which then changes nothing: so it is the rule that the tests above see broken."""
    async with kit_for() as kit:
        found = await findings(kit, *({check.name for check in CHECKS} - SLOW))
    assert {name: each.detail for name, each in found.items() if each.outcome != "ok"} == {}


async def test_a_worker_may_read_the_hello_after_it_has_sent_its_own() -> None:
    held: dict[Any, worker_pb2.GatewayMessage] = {}

    def late_hello(message: worker_pb2.GatewayMessage) -> Iterable[worker_pb2.GatewayMessage]:
        link = asyncio.current_task()
        if message.HasField("hello"):
            held[link] = message
            return ()
        return (held.pop(link), message) if link in held else (message,)

    async with kit_for(late_hello) as kit:
        found = await findings(kit, "groups", "crossfire")
    assert {name: each.detail for name, each in found.items() if each.outcome != "ok"} == {}


async def test_a_worker_that_talks_and_says_no_hello_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Chatter(worker_pb2_grpc.LogicWorkerServicer):
        async def Link(self, messages: Any, context: Any) -> AsyncIterator[worker_pb2.WorkerMessage]:  # type: ignore[override]
            while True:
                yield worker_pb2.WorkerMessage(heartbeat=worker_pb2.Heartbeat(number=1))
                await asyncio.sleep(0.1)

    monkeypatch.setattr(kit_module, "PATIENCE_S", 0.5)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    worker_pb2_grpc.add_LogicWorkerServicer_to_server(Chatter(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    kit = Kit(f"127.0.0.1:{port}", None, None)
    try:
        with pytest.raises(Failed, match=r"no hello within 0\.5 s$"):
            await kit.find_out()
    finally:
        await kit.aclose()
        await server.stop(None)


async def test_what_a_library_answers_in_place_of_unimplemented_is_said_with_its_cure() -> None:
    class Ruby(worker_pb2_grpc.LogicWorkerServicer):
        async def Link(self, messages: Any, context: Any) -> None:  # type: ignore[override]
            await context.abort(grpc.StatusCode.UNKNOWN, "Illegal arity of reply generator")

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    worker_pb2_grpc.add_LogicWorkerServicer_to_server(Ruby(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    kit = Kit(f"127.0.0.1:{port}", None, None)
    try:
        with pytest.raises(Failed, match="UNKNOWN Illegal arity of reply generator; .* UNIMPLEMENTED: if its library"):
            await kit.find_out()
    finally:
        await kit.aclose()
        await server.stop(None)


@pytest.mark.parametrize("text", ["", "no such command"])
async def test_a_worker_that_gateways_cannot_tell_from_another_server(text: str) -> None:
    class Curt(worker_pb2_grpc.LogicWorkerServicer):
        async def Link(self, messages: Any, context: Any) -> None:  # type: ignore[override]
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "only Handle")

        async def Handle(self, request: worker_pb2.Request, context: Any) -> worker_pb2.Reply:  # type: ignore[override]
            if request.command != 1:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, text or "Method not found!")
            return worker_pb2.Reply(id=request.id, body=request.body)

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    worker_pb2_grpc.add_LogicWorkerServicer_to_server(Curt(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    kit = Kit(f"127.0.0.1:{port}", None, 1)
    try:
        await kit.find_out()
        outcomes = {each.check.name: each.outcome for each in await kit.run(lambda _: None)}
    finally:
        await kit.aclose()
        await server.stop(None)
    assert outcomes["told-from-others"] == ("ok" if text else "FAIL")
    assert outcomes["unknown-command"] == outcomes["reply"] == "ok"


async def test_health_that_does_not_serve() -> None:
    async with kit_for(serving=False) as kit:
        found = await findings(kit, "health")
    assert found["health"].outcome == "FAIL"


async def test_a_program_that_ignores_service_is_found(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import asyncio, os\n"
        "from gatecrew_worker import Worker\n"
        "async def main():\n"
        "    async with Worker('my-own').serving(port=int(os.environ['PORT'])):\n"
        "        await asyncio.sleep(1000)\n"
        "asyncio.run(main())\n"
    )
    program = await Program.start([sys.executable, str(tmp_path / "program.py")])
    kit = Kit(program.address, program, None)
    try:
        await kit.find_out()
        found = await findings(kit, "hello")
    finally:
        await kit.aclose()
        await program.end(keep=False)
    assert found["hello"].outcome == "FAIL"
    assert found["hello"].detail.startswith("the hello has service 'my-own', the environment SERVICE=conformance")


async def test_a_program_that_is_gone_fails_its_checks_and_no_more(tmp_path: Path) -> None:
    program = await Program.start(["sleep", "1000"])
    os.kill(program.pid, signal.SIGKILL)
    assert program.life is not None
    await program.life.end
    kit = Kit(program.address, program, None)
    try:
        found = [await kit._run(check) for check in HANDLE_LEAVE_CHECKS.all]
    finally:
        await kit.aclose()
        await program.end(keep=False)
    assert found == [("FAIL", f"process {program.pid}: No such process")]


async def test_a_worker_with_other_commands_skips_what_it_cannot_show() -> None:
    worker = Worker("other")

    @worker.on(7)
    async def seven(request: Any) -> bytes:
        return b"seven"

    async with worker.serving() as serving:
        kit = Kit(serving.address, None, None)
        try:
            await kit.find_out()
            found = await findings(kit, "batches", "push", "unknown-command", "reconnect", "half-close")
        finally:
            await kit.aclose()
    assert {name: each.outcome for name, each in found.items()} == {
        "batches": "ok",
        "push": "skip",
        "unknown-command": "ok",
        "reconnect": "ok",
        "half-close": "ok",
    }
    assert found["push"].detail == "the worker does not serve 109 of the reference worker"


def test_json_and_exit_code(tmp_path: Path) -> None:
    """A program that serves Handle, and has no command 101 and no health service."""
    (tmp_path / "program.py").write_text(
        "import os, grpc; print('begins')\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from gatecrew.v1 import worker_pb2, worker_pb2_grpc\n"
        "class Program(worker_pb2_grpc.LogicWorkerServicer):\n"
        "    def Handle(self, request, context):\n"
        "        return worker_pb2.Reply(id=request.id, status=0 if request.command == 5 else 3)\n"
        "server = grpc.server(ThreadPoolExecutor(4))\n"
        "worker_pb2_grpc.add_LogicWorkerServicer_to_server(Program(), server)\n"
        "server.add_insecure_port(f\"127.0.0.1:{os.environ['PORT']}\")\n"
        "server.start(); server.wait_for_termination()\n"
    )
    program = [sys.executable, "-u", str(tmp_path / "program.py")]
    code, printed, error = run("conformance", "--json", "--command", "5", "--", *program, env={"TMPDIR": str(tmp_path)})
    report = json.loads(printed)
    outcomes = {check["name"]: check["outcome"] for check in report["checks"]}
    assert code == 1
    assert (report["flavour"], report["passed"]) == ("handle", False)
    assert outcomes["health"] == "skip"
    assert outcomes["reply"] == "ok"
    assert outcomes["unknown-command"] == "fail"
    assert outcomes["drain-calls"] == "fail"  # SIGTERM simply ends it
    assert "gatecrew: the worker does not keep the contract" in error
    [log] = tmp_path.glob("*.log")
    assert f"what the program printed is in {log}" in error
    assert log.read_text() == "begins\n"


def test_a_program_that_prints_for_ever_does_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    printed = Printed()
    for _ in range(40):
        printed.hear("y" * (1 << 20), sys.stdout)
    [log] = tmp_path.iterdir()
    assert log.stat().st_size < MOST_PRINTED
    assert log.read_text().endswith("y\n(and more)\n")
    printed.close(keep=False)
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_one_line() -> None:
    for arguments, complaint in [
        (["127.0.0.1:1"], "127.0.0.1:1: UNAVAILABLE"),
        (["no-such-program"], "no-such-program: no such program"),
        (["--", "false"], "the program ended with exit code 1 before it served"),
        (["--pid", "1", "--", "false"], "--pid goes with HOST:PORT"),
    ]:
        code, _, error = run("conformance", *arguments)
        assert code in (1, 2)
        assert error.startswith(f"gatecrew: {complaint}")
        assert "\n" not in error
