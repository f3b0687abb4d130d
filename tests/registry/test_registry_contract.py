"""What every registry must do, whichever it is: embedded, an old Consul, a current one."""

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import consul
import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from seen import PATIENCE_S, ids_of, soon, watching

from gatecrew_registry import Entry, Registration, Registry, RegistryError, RegistrySettings, registration

Make = Callable[..., Entry]


# Register, deregister, watch.


async def test_a_registered_entry_is_seen_as_it_was_given(registry: Registry, make: Make, tag: str) -> None:
    entry = make(
        7001,
        tags=(tag, "other"),
        meta={"contract": "v1", "commands": "1,2", "note": "a=b; ü"},
        check="ttl",
        status="warning",
    )
    async with watching(registry, tag) as seen:
        assert await seen.ids() == {}
        await registry.register(entry)
        snapshot = await seen.ids(entry.id)
        assert snapshot == {entry.service: (entry,)}


async def test_instances_come_and_go_one_by_one(registry: Registry, make: Make, tag: str) -> None:
    one, two, three = make(1), make(2), make(3)
    async with watching(registry, tag) as seen:
        for entry in (one, two, three):
            await registry.register(entry)
        await seen.ids(one.id, two.id, three.id)
        await registry.deregister(two.id)
        await seen.ids(one.id, three.id)
        await registry.deregister(one.id)
        await seen.ids(three.id)
        await registry.deregister(three.id)
        assert await seen.ids() == {}


async def test_registering_again_replaces(registry: Registry, make: Make, tag: str) -> None:
    async with watching(registry, tag) as seen:
        await registry.register(make(1, meta={"incarnation": "a"}))
        await seen.ids(make(1).id)
        moved = make(1, meta={"incarnation": "b"}, host="127.0.0.2")
        await registry.register(moved)
        await seen.until(lambda snapshot: snapshot == {moved.service: (moved,)})
        assert all(len(snapshot.get(moved.service, ())) < 2 for snapshot in seen.all)


async def test_registering_the_same_again_is_no_change(registry: Registry, make: Make, tag: str) -> None:
    async with watching(registry, tag) as seen:
        await registry.register(make(1))
        await seen.ids(make(1).id)
        for _ in range(3):
            await registry.register(make(1))
        await registry.register(make(2))
        await seen.ids(make(1).id, make(2).id)
        assert len(seen.all) <= 3  # nobody, one, two; the first may have been missed


async def test_only_instances_with_the_tag_are_seen(registry: Registry, make: Make, tag: str) -> None:
    ours, without, elsewhere = make(1), make(2, tags=("x",)), make(3, tags=(), service="elsewhere")
    async with watching(registry, tag) as seen:
        for entry in (without, elsewhere, ours):
            await registry.register(entry)
        assert await seen.ids(ours.id) == {ours.service: (ours,)}


async def test_several_services(registry: Registry, make: Make, tag: str) -> None:
    chat, echo = make(1, service=f"chat-of-{tag}"), make(2, service=f"echo-of-{tag}")
    await registry.register(chat)
    await registry.register(echo)
    async with watching(registry, tag) as seen:
        # The first list is whole.
        await seen.ids(chat.id, echo.id)
        assert seen.all == [{chat.service: (chat,), echo.service: (echo,)}]


async def test_deregistering_the_unknown_is_no_error(registry: Registry, make: Make) -> None:
    assert not await registry.is_registered("nobody")
    await registry.deregister("nobody")
    await registry.register(make(1))
    assert await registry.is_registered(make(1).id)


async def test_who_it_is(registry: Registry) -> None:
    host, _, port = (await registry.leader()).rpartition(":")
    assert host
    assert port.isdigit()
    assert await registry.self_name()


async def test_a_watch_that_is_cancelled_leaves_nothing(registry: Registry, make: Make, tag: str) -> None:
    before = asyncio.all_tasks()
    async with watching(registry, tag) as seen:
        await registry.register(make(1))
        await seen.ids(make(1).id)
        assert len(asyncio.all_tasks() - before) >= 3
    # The server of the embedded registry has tasks here too, and ends them when the queries' connections end.
    await soon(lambda: not [task for task in asyncio.all_tasks() - before if "follow" in repr(task)], "a task is left")


async def test_closing_the_registry_ends_its_watches(address: str, tag: str) -> None:
    async with Registry(RegistrySettings(address=address)) as registry:
        snapshots = registry.watch(tag)
        assert await anext(snapshots) == {}
    with pytest.raises(StopAsyncIteration):
        await anext(snapshots)


# Health.


async def test_ttl_check(registry: Registry, http: aiohttp.ClientSession, make: Make, tag: str) -> None:
    entry = make(1, check="ttl")
    check_id = f"service:{entry.id}"
    async with watching(registry, tag) as seen:
        await registry.register(entry)

        async def report(verb: str, expected: str) -> None:
            async with http.put(f"/v1/agent/check/{verb}/{check_id}", params={"note": "n"}) as answer:
                assert answer.status == 200
            await seen.until(lambda snapshot: [each.status for each in snapshot.get(entry.service, ())] == [expected])

        await report("warn", "warning")
        await report("fail", "critical")
        # A registration that is repeated does not make a sick instance well.
        await registry.register(entry)
        await registry.register(make(2))
        await seen.ids(entry.id, make(2).id)
        assert seen.last is not None
        assert [each.status for each in seen.last[entry.service]] == ["critical", "passing"]
        await registry.deregister(make(2).id)
        await registry.renew(entry.id)
        await seen.until(lambda snapshot: [each.status for each in snapshot[entry.service]] == ["passing"])
        async with http.put(f"/v1/agent/check/update/{check_id}", json={"Status": "warning", "Output": "o"}) as answer:
            assert answer.status == 200
        await seen.until(lambda snapshot: [each.status for each in snapshot[entry.service]] == ["warning"])


async def test_ttl_that_is_not_renewed(registry: Registry, http: aiohttp.ClientSession, make: Make, tag: str) -> None:
    body = {"Name": make(1).service, "Port": 1, "Tags": [tag], "Check": {"TTL": "200ms", "Status": "passing"}}
    async with watching(registry, tag) as seen:
        await _register(http, body)
        await seen.until(lambda snapshot: [each.status for each in snapshot.get(make(1).service, ())] == ["critical"])


async def test_renewing_what_has_no_ttl_check(registry: Registry, make: Make) -> None:
    with pytest.raises(RegistryError):
        await registry.renew("nobody")
    await registry.register(make(1))
    with pytest.raises(RegistryError):
        await registry.renew(make(1).id)


@pytest.mark.uvloop_only  # grpc.aio serves one event loop per process well
async def test_grpc_check(registry: Registry, http: aiohttp.ClientSession, make: Make, tag: str) -> None:
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    servicer = health.aio.HealthServicer()
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await servicer.set("chat", serving)
    service = make(port).service
    target = {"GRPC": f"127.0.0.1:{port}/chat", "Interval": "1s", "Timeout": "10s"}
    body = {"Name": service, "Address": "127.0.0.1", "Port": port, "Tags": [tag], "Check": target}

    async with watching(registry, tag) as seen:
        # Without a status it starts as critical.
        await _register(http, body)
        snapshot = await seen.until(lambda snapshot: _statuses(snapshot, service) == ["passing"])
        assert snapshot[service][0].check == "grpc"
        await servicer.set("chat", not_serving)
        await seen.until(lambda snapshot: _statuses(snapshot, service) == ["critical"])
        await servicer.set("chat", serving)
        await seen.until(lambda snapshot: _statuses(snapshot, service) == ["passing"])
        await server.stop(0)
        await seen.until(lambda snapshot: _statuses(snapshot, service) == ["critical"])


class _Moody(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Is well and ill by turns as told, and ill in the end."""

    def __init__(self, *is_well: bool) -> None:
        self.answered = 0
        self._is_well = is_well

    async def Check(self, request: Any, context: Any) -> Any:
        is_well = self.answered < len(self._is_well) and self._is_well[self.answered]
        self.answered += 1
        status = health_pb2.HealthCheckResponse.SERVING if is_well else health_pb2.HealthCheckResponse.NOT_SERVING
        return health_pb2.HealthCheckResponse(status=status)


@pytest.mark.uvloop_only
async def test_a_grpc_check_that_overlooks_a_failure(
    registry: Registry, http: aiohttp.ClientSession, make: Make, tag: str
) -> None:
    moody = _Moody(True, False, True, False)
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(moody, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    service = make(port).service
    check = {"GRPC": f"127.0.0.1:{port}", "Interval": "1s", "Status": "passing", "FailuresBeforeCritical": 2}
    async with watching(registry, tag) as seen:
        await _register(http, {"Name": service, "Port": port, "Tags": [tag], "Check": check})
        await seen.until(lambda snapshot: _statuses(snapshot, service) == ["critical"])
        assert moody.answered >= 5
    await server.stop(0)


@pytest.mark.uvloop_only
async def test_an_entrys_own_grpc_check(registry: Registry, make: Make, tag: str) -> None:
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    entry = make(port, check="grpc", status="critical")
    async with watching(registry, tag) as seen:
        await registry.register(entry)
        await seen.until(lambda snapshot: _statuses(snapshot, entry.service) == ["passing"])
    await server.stop(0)


async def test_maintenance_is_critical(registry: Registry, http: aiohttp.ClientSession, make: Make, tag: str) -> None:
    entry = make(1)
    async with watching(registry, tag) as seen:
        await registry.register(entry)
        for enable, expected in (("true", "critical"), ("false", "passing")):
            path = f"/v1/agent/service/maintenance/{entry.id}"
            async with http.put(path, params={"enable": enable, "reason": "oil"}) as answer:
                assert answer.status == 200
            snapshot = await seen.until(lambda snapshot, e=expected: _statuses(snapshot, entry.service) == [e])
            assert [each.maintenance for each in snapshot[entry.service]] == [enable == "true"]


async def test_maintenance_stays_when_the_entry_is_registered_again(
    registry: Registry, http: aiohttp.ClientSession, make: Make, tag: str
) -> None:
    """As its owner does each minute."""
    entry = make(1, check="ttl")
    async with watching(registry, tag) as seen:
        await registry.register(entry, with_note=True)
        await seen.ids(entry.id)
        async with http.put(f"/v1/agent/service/maintenance/{entry.id}", params={"enable": "true"}) as answer:
            assert answer.status == 200
        await seen.until(lambda snapshot: [each.maintenance for each in snapshot[entry.service]] == [True])
        await registry.register(entry, with_note=True, again=True)
        await registry.renew(entry.id)
        await registry.register(make(2))  # an answer that is newer than all this
        snapshot = await seen.ids(entry.id, make(2).id)
        assert [each.maintenance for each in snapshot[entry.service]] == [True, False]


async def test_maintenance_of_a_node_is_one_of_its_instances(
    registry: Registry, http: aiohttp.ClientSession, make: Make, tag: str
) -> None:
    entry = make(1)
    async with watching(registry, tag) as seen:
        await registry.register(entry)
        await seen.ids(entry.id)
        async with http.put("/v1/agent/maintenance", params={"enable": "true"}) as answer:
            if answer.status == 404:
                pytest.skip("the embedded registry has no maintenance of nodes")
        try:
            await seen.until(lambda snapshot: [each.maintenance for each in snapshot.get(entry.service, ())] == [True])
        finally:
            await (await http.put("/v1/agent/maintenance", params={"enable": "false"})).read()
        await seen.until(lambda snapshot: [each.maintenance for each in snapshot.get(entry.service, ())] == [False])


async def test_a_critical_instance_is_not_in_maintenance(
    registry: Registry, http: aiohttp.ClientSession, make: Make, tag: str
) -> None:
    entry = make(1, check="ttl", status="critical")
    async with watching(registry, tag) as seen:
        await registry.register(entry)
        snapshot = await seen.ids(entry.id)
        assert [(each.status, each.maintenance) for each in snapshot[entry.service]] == [("critical", False)]


async def test_one_that_is_deregistered_is_named(registry: Registry, make: Make, tag: str) -> None:
    entries = [make(1), make(2)]
    async with watching(registry, tag) as seen:
        for entry in entries:
            await registry.register(entry)
        await seen.ids(*(entry.id for entry in entries))
        await registry.deregister(entries[0].id)
        assert (await seen.ids(entries[1].id)).deregistered == {entries[0].id}
        await registry.register(entries[0])
        assert (await seen.ids(*(entry.id for entry in entries))).deregistered == set()


# The API itself, as other clients use it.


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("{", "Request decode failed: "),
        ("[]", "Request decode failed: "),
        ("{}", "Missing service name"),
        ('{"Name": 5}', "Request decode failed: "),
        ('{"Name": "a", "Nonsense": 1}', 'Request decode failed: json: unknown field "Nonsense"'),
        ('{"Name": "a", "Port": "80"}', "Request decode failed: "),
        ('{"Name": "a", "Meta": {"": "x"}}', "Invalid Service Meta: Couldn't load metadata pair ('', 'x'): Key cannot"),
        ('{"Name": "a", "Check": {"Name": "n"}}', "Invalid check: TTL must be > 0 for TTL checks"),
        ('{"Name": "a", "Check": {"TTL": "soon"}}', 'Request decode failed: time: invalid duration "soon"'),
        ('{"Name": "a", "Check": {"GRPC": "h:1"}}', "Invalid check: Interval must be > 0 for "),
        ('{"Name": "a", "Check": {"TTL": "5s", "Status": "ill"}}', "Status for checks must 'passing', 'warning', 'cr"),
    ],
)
async def test_bad_registrations(http: aiohttp.ClientSession, body: str, text: str) -> None:
    async with http.put("/v1/agent/service/register", data=body) as answer:
        assert (answer.status, (await answer.text())[: len(text)]) == (400, text)


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/v1/health/service/x?index=a", 400, "Invalid index"),
        ("/v1/health/service/x?index=-1", 400, "Invalid index"),
        ("/v1/catalog/services?index=1&wait=soon", 400, "Invalid wait time"),
        ("/v1/agent/service/nobody", 404, "unknown service ID: nobody"),
        ("/v1/nonsense", 404, ""),
    ],
)
async def test_bad_questions(http: aiohttp.ClientSession, path: str, status: int, text: str) -> None:
    async with http.get(path) as answer:
        assert (answer.status, (await answer.text())[: len(text)]) == (status, text)


async def test_a_blocking_query_waits_for_a_change(http: aiohttp.ClientSession, make: Make) -> None:
    name = make(1).service
    body = {"Name": name, "ID": "a", "Port": 1, "Check": {"TTL": "1h", "Status": "passing"}}
    await _register(http, body)
    path = f"/v1/health/service/{name}"
    index, rows = await _ask(http, path)
    assert [row["Service"]["ID"] for row in rows] == ["a"]
    loop = asyncio.get_running_loop()

    started_at = loop.time()
    again, rows = await _ask(http, f"{path}?index={index}&wait=300ms")
    assert loop.time() - started_at >= 0.29
    assert again == index

    blocked = asyncio.create_task(_ask(http, f"{path}?index={index}&wait=60s"))
    await _register(http, {**body, "ID": "b"})
    newer, rows = await blocked
    assert newer > index
    assert [row["Service"]["ID"] for row in rows] == ["a", "b"]
    # One that asks with an old index is answered at once.
    assert (await _ask(http, f"{path}?index={index}&wait=60s"))[0] == newer

    for entry_id in ("a", "b"):
        blocked = asyncio.create_task(_ask(http, f"{path}?index={newer}&wait=60s"))
        async with http.put(f"/v1/agent/service/deregister/{entry_id}") as answer:
            assert answer.status == 200
        async with asyncio.timeout(PATIENCE_S):
            index, newer = newer, (await blocked)[0]
        assert newer > index
    assert await _ask(http, path) == (newer, [])


async def test_the_other_questions(http: aiohttp.ClientSession, make: Make, tag: str) -> None:
    name = make(1).service
    check = {"CheckID": "c", "TTL": "1h", "Status": "passing"}
    for entry_id, status in (("a", "passing"), ("b", "critical")):
        checks = [{**check, "CheckID": f"check-{entry_id}", "Status": status}]
        body = {"name": name, "id": entry_id, "port": 1, "tags": [tag], "meta": {"k": "v"}, "checks": checks}
        await _register(http, body)

    async def until(path: str, pick: Callable[[Any], Any], expected: Any) -> None:
        """A real agent tells its servers a moment later."""
        index = 0
        async with asyncio.timeout(PATIENCE_S):
            while True:
                separator = "&" if "?" in path else "?"
                index, rows = await _ask(http, f"{path}{separator}index={index}&wait=1s")
                if pick(rows) == expected:
                    return

    def ids(rows: list[dict[str, Any]]) -> list[str]:
        return sorted(row["Service"]["ID"] for row in rows)

    await until(f"/v1/health/service/{name}", ids, ["a", "b"])
    await until(f"/v1/health/service/{name}?passing", ids, ["a"])
    await until(f"/v1/health/service/{name}?passing=1&tag={tag}", ids, ["a"])
    await until(f"/v1/health/service/{name}?tag=other", ids, [])
    await until("/v1/catalog/services", lambda services: services.get(name), [tag])
    service = f"/v1/catalog/service/{name}"
    await until(
        service, lambda rows: sorted((row["ServiceID"], row["ServicePort"]) for row in rows), [("a", 1), ("b", 1)]
    )
    await until(service, lambda rows: {(row["ServiceName"], row["ServicePort"]) for row in rows}, {(name, 1)})
    checks_path = f"/v1/health/checks/{name}"
    expected = [("a", "check-a", "passing", "ttl"), ("b", "check-b", "critical", "ttl")]
    await until(
        checks_path,
        lambda rows: sorted((row["ServiceID"], row["CheckID"], row["Status"], row["Type"]) for row in rows),
        expected,
    )
    await until("/v1/health/state/critical", lambda rows: [row["CheckID"] for row in rows], ["check-b"])

    assert (await _get(http, "/v1/agent/services"))["a"]["Service"] == name
    assert (await _get(http, "/v1/agent/checks"))["check-b"]["Status"] == "critical"
    own = await _get(http, "/v1/agent/service/a")
    assert (own["ID"], own["Tags"], own["Meta"], own["Port"]) == ("a", [tag], {"k": "v"}, 1)
    assert await _get(http, "/v1/status/peers") == [await _get(http, "/v1/status/leader")]
    assert (await _get(http, "/v1/agent/self"))["Config"]["Datacenter"] == "dc1"


async def test_a_client_of_consul_that_is_not_ours(address: str, make: Make) -> None:
    host, _, port = address.rpartition(":")
    name = make(1).service

    def talk() -> None:
        client = consul.Consul(host, int(port))
        check = consul.Check.ttl("1h")
        assert client.agent.service.register(name, "a", "127.0.0.1", 5, ["t"], check, meta={"k": "v"})
        assert client.agent.check.ttl_pass("service:a")
        index, rows = client.health.service(name, passing=True)
        while not rows:
            index, rows = client.health.service(name, passing=True, index=index, wait="1s")
        assert rows[0]["Service"]["Port"] == 5
        assert name in client.catalog.services()[1]
        assert client.agent.services()["a"]["Meta"] == {"k": "v"}
        assert client.status.leader()
        assert client.agent.service.deregister("a")
        assert "a" not in client.agent.services()
        client.http.session.close()

    await asyncio.to_thread(talk)


# Registration.


async def test_a_registration_lasts_as_long_as_its_block(registry: Registry, make: Make, tag: str) -> None:
    async with watching(registry, tag) as seen:
        for check in ("none", "ttl"):
            entry = make(1, check=check)
            async with Registration(registry, entry, look_every_s=0.2) as owner:
                assert owner.is_registered
                assert await registry.is_registered(entry.id)
                await seen.ids(entry.id)
            assert not await registry.is_registered(entry.id)
            await seen.ids()


@pytest.mark.parametrize("check", ["none", "ttl"])
async def test_a_registration_that_is_lost_comes_back(
    registry: Registry, make: Make, check: str, caplog: pytest.LogCaptureFixture
) -> None:
    entry = make(1, check=check)
    async with Registration(registry, entry, look_every_s=0.2):
        await registry.deregister(entry.id)
        async with asyncio.timeout(PATIENCE_S):
            while not await registry.is_registered(entry.id):
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("check", ["none", "ttl", "grpc"])
async def test_a_registration_with_a_note(
    registry: Registry,
    http: aiohttp.ClientSession,
    make: Make,
    tag: str,
    check: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registration, "NOTE_EVERY_S", 0.1)
    entry = make(1, check=check)
    notes = (f"note {number}" for number in itertools.count(1))
    async with watching(registry, tag) as seen, Registration(registry, entry, lambda: next(notes), look_every_s=0.05):

        async def noted() -> dict[str, Any]:
            return dict((await _get(http, "/v1/agent/checks")).get(f"service:{entry.id}:note", {}))

        async def until_noted(at_least: int) -> int:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    word, _, number = (await noted()).get("Output", "").partition(" ")
                    if word == "note" and int(number) >= at_least:
                        return int(number)
                    await asyncio.sleep(0.02)

        await until_noted(await until_noted(2) + 1)
        assert (await noted())["Status"] == "passing"
        # Beside its other check, which stays what it is for those who watch.
        snapshot = await seen.ids(entry.id)
        assert snapshot[entry.service][0].check == check
        # A check that somebody took away comes back.
        await registry.register(entry)
        async with asyncio.timeout(PATIENCE_S):
            while not (await noted()).get("Output"):
                await asyncio.sleep(0.02)
    assert not await noted()


async def test_a_note_for_what_has_none(registry: Registry, make: Make) -> None:
    await registry.register(make(1, check="ttl"))
    with pytest.raises(RegistryError, match="note"):
        await registry.note(make(1).id, "here")


@pytest.mark.uvloop_only
async def test_a_registry_that_restarts_and_forgot(server: Any, make: Make, tag: str) -> None:
    """Rows 44 and 49: what was known stays, and everybody registers again."""
    entries = [make(port) for port in (1, 2, 3)]
    async with (
        Registry(RegistrySettings(address=server.address)) as registry,
        watching(registry, tag) as seen,
        Registration(registry, entries[0]),
        Registration(registry, entries[1]),
    ):
        await registry.register(entries[2])  # nobody will register this one again
        await seen.ids(*(entry.id for entry in entries))
        before = len(seen.all)
        await server.stop()
        await server.start()
        async with asyncio.timeout(PATIENCE_S):
            while not await _are_registered(registry, entries[:2]):
                await asyncio.sleep(0.05)
        newcomer = make(4)
        await registry.register(newcomer)
        await seen.ids(*(entry.id for entry in entries), newcomer.id)
        assert all(ids_of(snapshot) >= {entry.id for entry in entries} for snapshot in seen.all[before:])


async def _are_registered(registry: Registry, entries: list[Entry]) -> bool:
    try:
        return all([await registry.is_registered(entry.id) for entry in entries])
    except RegistryError:
        return False


async def _register(http: aiohttp.ClientSession, body: dict[str, Any]) -> None:
    async with http.put("/v1/agent/service/register", data=json.dumps(body)) as answer:
        assert answer.status == 200, await answer.text()


async def _ask(http: aiohttp.ClientSession, path: str) -> tuple[int, Any]:
    async with http.get(path) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "application/json"
        return int(answer.headers["X-Consul-Index"]), await answer.json()


async def _get(http: aiohttp.ClientSession, path: str) -> Any:
    async with http.get(path) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


def _statuses(snapshot: Any, service: str) -> list[str]:
    return [entry.status for entry in snapshot.get(service, ())]
