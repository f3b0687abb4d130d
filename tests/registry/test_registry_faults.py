"""A registry that is down, empty or wrong: the last known good list stays, and what comes after is seen."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from fake_consul import FakeConsul, Fault, silence, status, text
from seen import QUICK, Seen, ids_of, soon, watching

from gatecrew_registry import Entry, Registration, Registry, RegistryError, RegistrySettings, Timing

Make = Callable[..., Entry]


@pytest.fixture
async def client(fake: FakeConsul) -> AsyncIterator[Registry]:
    async with Registry(RegistrySettings(address=fake.address, token="secret-token")) as registry:
        yield registry


@pytest.fixture
async def crew(fake: FakeConsul, client: Registry, make: Make, tag: str) -> AsyncIterator[tuple[Seen, list[Entry]]]:
    """A watch that knows three instances, which it must never lose in the test."""
    entries = [make(port) for port in (1, 2, 3)]
    fake.set(*entries)
    ids = {entry.id for entry in entries}
    async with watching(client, tag) as seen:
        await seen.ids(*ids)
        yield seen, entries
        assert all(ids_of(snapshot) >= ids for snapshot in seen.all)


async def recovers(fake: FakeConsul, seen: Seen, entries: list[Entry], newcomer: Entry) -> None:
    """The next change of a registry that is well again is seen."""
    fake.fault = fake.fault_all = None
    fake.set(*entries, newcomer)
    await seen.ids(*(entry.id for entry in entries), newcomer.id)


Crew = tuple[Seen, list[Entry]]


async def test_it_refuses_connections(
    fake: FakeConsul, crew: Crew, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    seen, entries = crew
    await fake.stop()
    await soon(lambda: caplog.messages, "the outage was not noticed")
    with pytest.raises(RegistryError):
        async with Registry(RegistrySettings(address=fake.address)) as other:
            await other.leader()
    await fake.start()
    await recovers(fake, seen, entries, make(4))


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(status(403, "ACL not found"), id="403"),
        pytest.param(status(500, "No cluster leader"), id="500"),
        pytest.param(status(429, "Too many requests"), id="429"),
        pytest.param(status(302, ""), id="redirect"),
        pytest.param(status(404, "page not found"), id="404"),
        pytest.param(status(200, "no index header"), id="no index"),
        pytest.param(text("<html>"), id="no json"),
        pytest.param(text("[1, 2]"), id="numbers"),
        pytest.param(text('{"a": 1}'), id="not tags"),
        pytest.param(text("null"), id="null"),
        pytest.param(text('[{"Node": {}, "Service": {"ID": "x", "Service": "chat", "Port": "p"}}]'), id="bad port"),
        pytest.param(text("[" * 100_000), id="nested"),
    ],
)
async def test_it_answers_with_errors_and_nonsense(fake: FakeConsul, crew: Crew, make: Make, fault: Fault) -> None:
    seen, entries = crew
    fake.fault = fault
    fake.bump()
    await soon(lambda: fake.faulty_answers >= 4, "it was not asked again")
    assert len(seen.all) <= 2
    await recovers(fake, seen, entries, make(4))


async def test_it_says_that_nobody_is_there(fake: FakeConsul, crew: Crew, make: Make) -> None:
    seen, entries = crew
    fake.set()
    # The service is gone from the catalog, so it is asked for once more only when it is back.
    await soon(lambda: fake.queries[-1].startswith("/v1/catalog/services") and fake.open_queries == 1, "still asking")
    fake.set(*entries)
    await recovers(fake, seen, entries, make(4))


async def test_it_says_so_for_longer_than_the_grace(fake: FakeConsul, client: Registry, make: Make, tag: str) -> None:
    fake.set(make(1), make(2), make(3))
    loop = asyncio.get_running_loop()
    async with watching(client, tag, Timing(wait_s=2, settle_s=0.01, grace_s=0.5)) as seen:
        await seen.ids(make(1).id, make(2).id, make(3).id)
        emptied_at = loop.time()
        fake.set()
        await seen.ids()
        assert loop.time() - emptied_at >= 0.5


async def test_it_restarted_and_one_of_one_is_missing(fake: FakeConsul, client: Registry, make: Make, tag: str) -> None:
    """A single loss is believed at once, but not if the index went backwards with it."""
    fake.set(make(1))
    async with watching(client, tag) as seen:
        await seen.ids(make(1).id)
        fake.shown_index = 5
        fake.set()
        await soon(lambda: "/v1/catalog/services" in fake.queries[2:], "it did not ask afresh")
        fake.shown_index = None
        fake.set(make(1), make(2))
        await seen.ids(make(1).id, make(2).id)
        assert all(make(1).id in ids_of(snapshot) for snapshot in seen.all)


async def test_it_was_down_and_one_of_one_is_missing(fake: FakeConsul, client: Registry, make: Make, tag: str) -> None:
    """A single loss is believed at once, but not in the first answer after an outage."""
    fake.set(make(1))
    async with watching(client, tag) as seen:
        await seen.ids(make(1).id)
        fake.fault = status(500)
        fake.bump()
        await soon(lambda: fake.faulty_answers >= 2, "it was not asked again")
        fake.fault = None
        fake.set()
        await soon(lambda: "catalog/services?index" in fake.queries[-1], "it did not block again")
        fake.set(make(2))
        await seen.ids(make(1).id, make(2).id)


async def test_a_query_may_block_for_its_whole_time(
    fake: FakeConsul, client: Registry, make: Make, tag: str, caplog: pytest.LogCaptureFixture
) -> None:
    fake.set(make(1))
    async with watching(client, tag, Timing(wait_s=0.5)) as seen:
        await soon(lambda: sum("catalog/services?index" in query for query in fake.queries) >= 4, "it did not ask")
        assert len(seen.all) == 1
    assert not caplog.messages


@pytest.mark.parametrize("shown", [5, 0])
async def test_its_index_goes_back(fake: FakeConsul, crew: Crew, make: Make, shown: int) -> None:
    seen, entries = crew
    fake.shown_index = shown
    fake.bump()
    await soon(lambda: "/v1/catalog/services" in fake.queries[2:], "it did not ask afresh")
    fake.shown_index = None
    await recovers(fake, seen, entries, make(4))


async def test_it_does_not_block(fake: FakeConsul, crew: Crew, make: Make) -> None:
    """Its index stands still and each answer comes at once; the guard itself is tested in test_pace."""
    seen, entries = crew
    fake.blocks = False
    fake.bump()
    await soon(lambda: len([query for query in fake.queries if "catalog" in query]) >= 4, "it was not asked again")
    fake.blocks = True
    assert len(fake.queries) < 30
    assert len(seen.all) <= 2


@pytest.mark.uvloop_only
async def test_it_accepts_and_never_answers(fake: FakeConsul, crew: Crew, make: Make) -> None:
    seen, entries = crew
    fake.fault = silence
    fake.bump()
    # Each query gives up after its time and asks again, without leaving the old one open.
    await soon(lambda: fake.faulty_answers >= 3, "it was not asked again")
    assert fake.most_open_queries <= 2
    await recovers(fake, seen, entries, make(4))


async def test_two_servers_that_disagree(fake: FakeConsul, crew: Crew, make: Make) -> None:
    """One of them does not know the newcomer yet: the newcomer does not flap."""
    seen, entries = crew
    newcomer = make(4)
    fake.set(*entries, newcomer)
    await seen.ids(*(entry.id for entry in entries), newcomer.id)
    before = len(seen.all)
    for _ in range(3):
        queries = len(fake.queries)
        fake.shown_index = 50
        fake.set(*entries)
        await soon(lambda q=queries: len(fake.queries) > q, "it did not ask")
        fake.shown_index = None
        fake.set(*entries, newcomer)
    await recovers(fake, seen, [*entries, newcomer], make(5))
    assert all(newcomer.id in ids_of(snapshot) for snapshot in seen.all[before:])


async def test_it_is_down_from_the_start(fake: FakeConsul, client: Registry, make: Make, tag: str) -> None:
    await fake.stop()
    fake.set(make(1))
    async with watching(client, tag) as seen, Registration(client, make(2)) as registration:
        assert not registration.is_registered
        assert not seen.all
        await fake.start()
        await registration.wait()
        assert make(2).id in fake.entries
        await seen.until(lambda snapshot: make(1).id in ids_of(snapshot))


async def test_one_service_fails_and_another_does_not(fake: FakeConsul, client: Registry, make: Make, tag: str) -> None:
    bad, good = make(1, service="bad"), make(2, service="good")
    fake.set(bad, good)

    async def fail_for_bad(request):  # type: ignore[no-untyped-def]
        if request.path.endswith("/bad"):
            return await status(500)(request)
        handler = fake._services if "catalog" in request.path else fake._instances
        if "catalog" not in request.path:
            request.match_info["name"] = "good"
        return await handler(request)

    fake.fault = fail_for_bad
    async with watching(client, tag) as seen:
        await seen.ids(good.id)
        fake.fault = None
        await seen.ids(bad.id, good.id)


# Registrations.


@pytest.mark.parametrize("check", ["none", "ttl"])
async def test_it_forgets_a_registration(fake: FakeConsul, client: Registry, make: Make, check: str) -> None:
    entry = make(1, check=check)
    async with Registration(client, entry, look_every_s=0.1):
        fake.set()
        await soon(lambda: entry.id in fake.entries, "it did not come back")


@pytest.mark.parametrize("code", [403, 500])
async def test_it_rejects_a_registration_for_a_while(fake: FakeConsul, client: Registry, make: Make, code: int) -> None:
    fake.fault_all = status(code, "no")
    async with Registration(client, make(1)) as registration:
        assert not registration.is_registered
        await soon(lambda: fake.faulty_answers >= 3, "it did not go on trying")
        fake.fault_all = None
        await registration.wait()
        assert make(1).id in fake.entries


@pytest.mark.parametrize("fault", [silence, status(500)])
async def test_leaving_takes_bounded_time(fake: FakeConsul, client: Registry, make: Make, fault: Fault) -> None:
    loop = asyncio.get_running_loop()
    async with Registration(client, make(1), leave_s=0.2):
        fake.fault_all = fault
        leaving_at = loop.time()
    assert loop.time() - leaving_at < 4  # 0.4 s and room for a busy machine; a request takes 5 s


async def test_cancelled_while_entering(fake: FakeConsul, client: Registry, make: Make) -> None:
    fake.fault_all = silence
    entering = asyncio.create_task(Registration(client, make(1), leave_s=0.2).__aenter__())
    await soon(lambda: fake.faulty_answers, "it did not try")
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering


# What is said.


async def test_an_outage_is_logged_once_a_minute(
    fake: FakeConsul, crew: Crew, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    seen, entries = crew
    fake.fault = status(500, "No cluster leader")
    fake.bump()
    await soon(lambda: fake.faulty_answers >= 6, "it was not asked again")
    await recovers(fake, seen, entries, make(4))
    await soon(lambda: len(caplog.messages) >= 2, "the end of the outage was not logged")
    assert {record.name for record in caplog.records} == {"gatecrew_registry.watch"}
    assert caplog.messages == [
        f"registry http://{fake.address}: 500 No cluster leader; the last known list stays (for 0 s)",
        caplog.messages[1],
    ]
    assert caplog.messages[1].startswith("the registry answers again, after ")


async def test_errors_are_one_line_and_never_tell_the_token(fake: FakeConsul, client: Registry, make: Make) -> None:
    fake.fault_all = status(500, "one\ntwo\r\n" + "x" * 5000)
    with pytest.raises(RegistryError) as caught:
        await client.register(make(1))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    await fake.stop()
    calls = (client.register(make(1)), client.deregister("a"), client.leader(), client.self_name(), client.renew("a"))
    for call in calls:
        with pytest.raises(RegistryError, match=f"^registry http://{fake.address} does not answer") as caught:
            await call
        assert "secret" not in str(caught.value)
    assert set(fake.tokens) == {"secret-token"}
    assert "secret" not in repr(client.settings)


async def test_a_token_file_is_read_anew(fake: FakeConsul, make: Make, tag: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    fake.set(make(1))

    async def only_second(request):  # type: ignore[no-untyped-def]
        if request.headers["X-Consul-Token"] != "second":
            return await status(403, "Permission denied")(request)
        return await fake._services(request) if "catalog" in request.path else await fake._instances(request)

    settings = RegistrySettings(address=fake.address, token_file=file)
    async with Registry(settings) as registry, watching(registry, tag, QUICK) as seen:
        await seen.ids(make(1).id)
        fake.fault = only_second
        fake.bump()
        await soon(lambda: fake.faulty_answers >= 2, "it was not asked again")
        file.unlink()
        file.write_text("second")
        fake.set(make(1), make(2))
        await seen.ids(make(1).id, make(2).id)
    assert {"first", "second"} <= set(fake.tokens)


@pytest.mark.parametrize("name", ["../../kv/secret", "..", ".", "", "a b", "a/b", "a?b", "ä", "x\x1b[2J", "n" * 600])
async def test_a_service_whose_name_no_path_should_carry(
    fake: FakeConsul, client: Registry, make: Make, tag: str, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """It is left out, with one line; and nothing is asked that the name would have made of the path."""
    fake.set(make(1), make(2, service=name, id="strange"))
    async with watching(client, tag) as seen:
        await seen.ids(make(1).id)
        fake.set(make(1), make(3), make(2, service=name, id="strange"))
        await seen.ids(make(1).id, make(3).id)
    paths = {query.partition("?")[0] for query in fake.queries}
    assert paths == {"/v1/catalog/services", f"/v1/health/service/{make(1).service}"}
    [line] = [message for message in caplog.messages if "left out" in message]
    assert repr(name[:64]) in line
    assert line.isprintable()
