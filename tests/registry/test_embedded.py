"""The embedded registry's own: its bounds, its page, its durations; what Consul does too is in the contract suite."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seen import PATIENCE_S, soon

from gatecrew_registry.embedded import EmbeddedRegistry, catalog
from gatecrew_registry.embedded.definition import Refused, parse_duration, parse_registration


@pytest.fixture
async def embedded() -> AsyncIterator[EmbeddedRegistry]:
    registry = EmbeddedRegistry("127.0.0.1", 0)
    await registry.start()
    yield registry
    await registry.aclose()


@pytest.fixture
async def api(embedded: EmbeddedRegistry) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(f"http://{embedded.address}", connector=connector) as session:
        yield session


async def register(api: aiohttp.ClientSession, **body: Any) -> tuple[int, str]:
    async with api.put("/v1/agent/service/register", json=body) as answer:
        return answer.status, await answer.text()


async def test_a_port_in_use() -> None:
    first = EmbeddedRegistry("127.0.0.1", 0)
    await first.start()
    second = EmbeddedRegistry("127.0.0.1", int(first.address.rpartition(":")[2]))
    with pytest.raises(OSError, match="address already in use"):
        await second.start()
    await second.aclose()
    await first.aclose()


async def test_closing_lets_blocked_queries_go(embedded: EmbeddedRegistry, api: aiohttp.ClientSession) -> None:
    blocked = asyncio.create_task(api.get("/v1/catalog/services", params={"index": 1, "wait": "10m"}))
    await soon(lambda: embedded._catalog._waiting == 1, "the query did not block")
    loop = asyncio.get_running_loop()
    closing_at = loop.time()
    await embedded.aclose()
    assert (await blocked).status == 200
    assert loop.time() - closing_at < 10


async def test_the_number_of_instances_is_bounded(api: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "MAX_INSTANCES", 2)
    assert [(await register(api, Name="a", ID=str(number)))[0] for number in range(3)] == [200, 200, 500]
    assert (await register(api, Name="a", ID="1", Port=5))[0] == 200
    async with api.put("/v1/agent/service/deregister/0"):
        pass
    assert (await register(api, Name="a", ID="3"))[0] == 200


async def test_the_number_of_blocked_queries_is_bounded(
    embedded: EmbeddedRegistry, api: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "MAX_WAITING", 2)
    params = {"index": 1, "wait": "10m"}
    blocked = [asyncio.create_task(api.get("/v1/health/service/a", params=params)) for _ in range(2)]
    await soon(lambda: embedded._catalog._waiting == 2, "the queries did not block")
    async with api.get("/v1/catalog/services", params=params) as answer:
        assert answer.status == 429
    # A client that goes away makes room.
    blocked[0].cancel()
    await soon(lambda: embedded._catalog._waiting == 1, "the query outlived its client")
    await register(api, Name="a")
    assert (await blocked[1]).status == 200


async def test_the_size_of_a_request_is_bounded(api: aiohttp.ClientSession) -> None:
    meta = {f"k{number}": "x" * 512 for number in range(64)}
    assert (await register(api, Name="a", Meta=meta))[0] == 200
    assert (await register(api, Name="a", Meta={**meta, "k64": ""}))[0] == 400
    assert (await register(api, Name="a", Meta={"k": "x" * 513}))[0] == 400
    assert (await register(api, Name="a", Meta={"k": "x" * 70_000}))[0] == 413


async def test_an_index_of_an_earlier_life_does_not_block(api: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(PATIENCE_S), api.get("/v1/catalog/services?index=1000000&wait=10m") as answer:
        assert int(answer.headers["X-Consul-Index"]) < 1000


async def test_a_critical_instance_is_deregistered_in_its_time(api: aiohttp.ClientSession) -> None:
    check = {"TTL": "50ms", "DeregisterCriticalServiceAfter": "100ms"}
    await register(api, Name="a", ID="sick", Check={**check, "Status": "passing"})
    await register(api, Name="a", ID="well", Check={**check, "TTL": "1h", "Status": "passing"})
    index = 0
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with api.get(f"/v1/health/service/a?index={index}&wait=10s") as answer:
                index = int(answer.headers["X-Consul-Index"])
                if [row["Service"]["ID"] for row in await answer.json()] == ["well"]:
                    break


@pytest.mark.uvloop_only  # it takes its time, so that a busy machine does not flip it
async def test_one_that_is_well_again_stays(api: aiohttp.ClientSession) -> None:
    check = {"TTL": "1h", "DeregisterCriticalServiceAfter": "5s", "Status": "critical"}
    await register(api, Name="a", ID="well", Check=check)
    async with api.put("/v1/agent/check/pass/service:well") as answer:
        assert answer.status == 200
    await register(api, Name="a", ID="sick", Check={**check, "DeregisterCriticalServiceAfter": "6s"})
    known = {"sick"}
    async with asyncio.timeout(PATIENCE_S):
        while "sick" in known:
            async with api.get("/v1/agent/services") as answer:
                known = set(await answer.json())
    assert known == {"well"}


async def test_it_says_what_it_does_not_do(api: aiohttp.ClientSession) -> None:
    for check in ({"HTTP": "http://a"}, {"tcp": "a:1"}, {"Args": ["sh"]}, {"GRPC": "a:1", "GRPCUseTLS": True}):
        code, text = await register(api, Name="a", Check={"Interval": "5s", **check})
        assert code == 400
        assert "embedded registry" in text
    async with api.get("/v1/agent/services?filter=x") as answer:
        assert answer.status == 400


async def test_the_page(api: aiohttp.ClientSession) -> None:
    async with api.get("/") as answer:
        assert answer.url.path == "/ui/"
        assert "Nobody is registered" in await answer.text()
    await register(api, Name="<script>", ID="<b>", Address="<i>", Tags=["<u>"], Meta={"k": "<s>"}, Port=5)
    async with api.get("/ui/") as answer:
        page = await answer.text()
        assert answer.content_type == "text/html"
    assert "&lt;script&gt;" in page
    assert "1 of 1 passing" in page
    for tag in ("<script>", "<b>", "<i>", "<u>", "<s>"):
        assert tag not in page


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5s", 1.5),
        ("300ms", 0.3),
        ("55.0s", 55),
        ("0", 0),
        ("1h1m1s1ms", 3661.001),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "10", "s", "10 s", "-5s", "10x", "1s1", "ten", "٣s!", "1e3s"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        parse_duration(text)


def test_names_of_fields_are_read_in_any_case() -> None:
    body = {
        "name": "chat",
        "id": "c1",
        "address": "h",
        "port": 5,
        "tags": ["t", "t"],
        "enable_tag_override": False,
        "checks": [{"grpc": "h:5/x", "interval": "10ms", "deregister_critical_service_after": "1m"}, {"ttl": "5s"}],
    }
    service, checks = parse_registration(json.dumps(body).encode())
    assert (service.name, service.id, service.address, service.port, service.tags) == ("chat", "c1", "h", 5, ("t",))
    assert [check.check_id for check in checks] == ["service:c1:1", "service:c1:2"]
    assert (checks[0].target, checks[0].health_service, checks[0].interval_s) == ("h:5", "x", 1.0)
    assert (checks[0].deregister_after_s, checks[1].ttl_s, checks[1].type) == (60.0, 5.0, "ttl")


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_checks = st.dictionaries(
    st.sampled_from("CheckID Name TTL GRPC Interval Timeout Status FailuresBeforeCritical Notes".split()),  # noqa: SIM905
    _json | st.sampled_from(["5s", "h:1", "passing"]),
    max_size=5,
)
_fields = st.sampled_from("Name ID Address Port Tags Meta Check Checks Weights Kind".split())  # noqa: SIM905
_bodies = st.dictionaries(_fields, _json | _checks | st.lists(_checks, max_size=2), max_size=6)


@given(_bodies)
def test_any_registration_is_understood_or_refused(body: dict[str, Any]) -> None:
    with contextlib.suppress(Refused):
        service, _ = parse_registration(json.dumps({"Name": "a", **body}).encode())
        assert service.name


@given(st.binary(max_size=64))
def test_any_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(Refused):
        parse_registration(body)
