"""docker-compose.yml as it is, on an engine: what is promised holds for containers that come, go, die and freeze."""

from __future__ import annotations

import asyncio
import json
from asyncio import to_thread as aside
from collections.abc import Callable

import pytest

from deploy.conftest import REPLICAS, eventually, wait_linked
from deploy.engine import Deployment, docker, inspect, skip_without_engine
from deploy.load import ECHO, JOIN, PATIENCE_S, load
from gatecrew_cli.client import Client, ClientClosed, ReplyError
from gatecrew_gateway.codec import Status

skip_without_engine()

# The first test waits for the images to be built.
pytestmark = [pytest.mark.uvloop_only, pytest.mark.timeout(900)]

NAME, SAY, EVENT = 1, 3, 10  # of the chat worker
ABOUT = 106  # of the tour worker

SPREAD_S = 10.0
GRACE_S = 30.0  # stop_grace_period of the compose file
MAX_IMAGE = 100_000_000  # bytes over the base image

Measured = Callable[[str], None]


async def connect(address: str) -> Client:
    host, _, port = address.rpartition(":")
    return await Client.connect(host, int(port))


async def wait_said(client: Client, text: str) -> None:
    """Until this is said in the client's room."""
    async with asyncio.timeout(PATIENCE_S):
        async for push in client.pushes():
            if push.command == EVENT and json.loads(push.body)["text"] == text:
                return
    raise AssertionError(f"the connection ended: {client.closed}")


def test_all_become_healthy(cluster: Deployment) -> None:
    cluster.compose("up", "--detach", "--wait", "--wait-timeout", "120", timeout_s=180)
    for service, count in {"consul": 1, "gateway-1": 1, "gateway-2": 1, **REPLICAS}.items():
        containers = cluster.containers(service)
        assert len(containers) == count
        for container in containers:
            assert cluster.state_of(container)["Health"]["Status"] == "healthy"


def test_what_is_up_already_stays(cluster: Deployment) -> None:
    before = {service: cluster.containers(service) for service in ("gateway-1", "gateway-2", *REPLICAS)}
    began = {each: cluster.state_of(each)["StartedAt"] for containers in before.values() for each in containers}
    cluster.up("--build")
    assert {service: cluster.containers(service) for service in before} == before
    assert {each: cluster.state_of(each)["StartedAt"] for each in began} == began


def test_the_image_is_small_and_its_processes_may_do_little(cluster: Deployment, measured: Measured) -> None:
    sizes = {name: inspect(name)["Size"] for name in ("python:3.12-slim", "gatecrew:local", "gatecrew-tour:local")}
    measured(", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in sizes.items()))
    base, ours, tour = sizes.values()
    assert ours - base < MAX_IMAGE
    assert tour - base < MAX_IMAGE
    for service in ("gateway-1", *REPLICAS):
        [container, *_] = cluster.containers(service)
        allowed = docker("exec", container, "cat", "/proc/1/status")
        assert "Uid:\t10001\t10001\t10001\t10001" in allowed
        assert "CapEff:\t0000000000000000" in allowed
        assert "NoNewPrivs:\t1" in allowed
        with pytest.raises(AssertionError, match="Read-only file system"):
            docker("exec", container, "touch", "/app/here")
        assert "pip" not in docker("exec", container, "ls", "/opt/gatecrew/bin").split()


async def test_a_client_talks_through_both_gateways(cluster: Deployment) -> None:
    for address in cluster.gateways.values():
        async with await connect(address) as client:
            assert await client.request(JOIN, b"room") == b"room"
            assert await client.request(ECHO, b"hello") == b"hello"
            assert (await client.request(ABOUT)).split()[0] == b"go"


async def test_a_push_reaches_the_clients_of_both(cluster: Deployment) -> None:
    first, second = cluster.gateways.values()
    async with await connect(first) as ann, await connect(second) as bob, await connect(second) as cid:
        for client, name in ((ann, b"ann"), (bob, b"bob"), (cid, b"cid")):
            assert await client.request(NAME, name) == name
            assert await client.request(JOIN, b"pushes") == b"pushes"

        async def all_hear(speaker: Client, text: str) -> None:
            async with asyncio.TaskGroup() as tasks:
                for client in (ann, bob, cid):
                    tasks.create_task(wait_said(client, text))
                await speaker.request(SAY, text.encode())

        await all_hear(ann, "from the first gateway")
        await all_hear(bob, "from the second gateway")


async def test_more_workers_get_their_share(cluster: Deployment, measured: Measured) -> None:
    gateways = list(cluster.gateways)
    clock = asyncio.get_running_loop().time
    async with load(list(cluster.gateways.values())) as running:
        began_at = clock()
        await aside(cluster.up, "--scale", "worker=5")
        all_five = await aside(lambda: {cluster.address_of(each) for each in cluster.containers("worker")})
        assert len(all_five) == 5

        def is_spread() -> bool:
            answered = [cluster.answered(gateway) for gateway in gateways]
            return all(each.get(address, 0) for each in answered for address in all_five)

        took_s = await aside(eventually, is_spread, "all five workers answer both gateways", SPREAD_S)
        measured(
            f"all five answered both gateways {took_s:.1f} s after they had started, {clock() - began_at:.1f} s in all"
        )
        await aside(cluster.up, "--scale", "worker=3")
        await running.wait_answers(100)
    running.assert_kept()


async def test_a_worker_that_is_killed(cluster: Deployment, measured: Measured) -> None:
    [victim, *_] = await aside(cluster.containers, "worker")
    async with load(list(cluster.gateways.values())) as running:
        await aside(docker, "kill", victim)
        await running.wait_answers(500)
        await aside(docker, "start", victim)
        await aside(wait_linked, cluster)
        await running.wait_answers(100)
    running.assert_kept()
    measured(f"slowest of {running.answers} answers {running.slowest_s * 1000:.0f} ms")


async def test_a_worker_that_crashes_comes_back_by_itself(cluster: Deployment, measured: Measured) -> None:
    [victim, *_] = await aside(cluster.containers, "worker")
    before = await aside(cluster.state_of, victim)
    async with load(list(cluster.gateways.values())) as running:
        await aside(docker, "exec", victim, "python", "-c", CRASH)
        await aside(
            eventually,
            lambda: (
                cluster.state_of(victim)["Running"] and cluster.state_of(victim)["StartedAt"] != before["StartedAt"]
            ),
            "the container runs again",
        )
        took_s = await aside(wait_linked, cluster)
        await running.wait_answers(100)
    running.assert_kept()
    measured(f"linked again {took_s:.1f} s after its start; slowest answer {running.slowest_s * 1000:.0f} ms")


# The child of the container's init ends as if the kernel had killed it.
CRASH = """
import os, signal
[child] = [int(pid) for pid in open("/proc/1/task/1/children").read().split()]
os.kill(child, signal.SIGKILL)
"""


async def test_a_program_that_crashes_is_started_again(cluster: Deployment) -> None:
    """Its supervisor does it, in the same container."""
    [tour] = await aside(cluster.containers, "tour")
    before = await aside(cluster.state_of, tour)
    async with await connect(cluster.gateways["gateway-1"]) as client:
        first = await incarnation(client)
        await aside(docker, "exec", tour, "python", "-c", CRASH_PROGRAM)
        async with asyncio.timeout(PATIENCE_S):
            while await incarnation(client) in (first, None):
                await asyncio.sleep(0.1)
    assert (await aside(cluster.state_of, tour))["StartedAt"] == before["StartedAt"]


async def incarnation(client: Client) -> bytes | None:
    """Of the only worker of tour; None while there is none."""
    try:
        return (await client.request(ABOUT)).split()[1]
    except ReplyError as error:
        if error.status != Status.UNAVAILABLE:
            raise
        return None


# The last in the line of init, `gatecrew run` and the program; beside the program runs what asks for its health.
CRASH_PROGRAM = """
import os, signal
pid = "1"
while children := open(f"/proc/{pid}/task/{pid}/children").read().split():
    if len(children) > 1:
        children = [each for each in children if "gatecrew_cli" not in open(f"/proc/{each}/cmdline").read()]
    [pid] = children
os.kill(int(pid), signal.SIGKILL)
"""


async def test_a_worker_that_is_frozen(cluster: Deployment, measured: Measured) -> None:
    [victim, *_] = await aside(cluster.containers, "worker")
    address = await aside(cluster.address_of, victim)
    await aside(eventually, lambda: set(cluster.health("chat").values()) == {"passing"}, "all are green")
    async with load(list(cluster.gateways.values())) as running:
        await aside(docker, "pause", victim)
        wanted = {each: "critical" if each == address else "passing" for each in await aside(cluster.health, "chat")}
        took_s = await aside(eventually, lambda: cluster.health("chat") == wanted, "only it is red in Consul")
        measured(f"red in Consul after {took_s:.1f} s")
        await aside(docker, "unpause", victim)
        took_s = await aside(eventually, lambda: cluster.health("chat")[address] == "passing", "it is green again")
        measured(f"green again after {took_s:.1f} s; slowest answer {running.slowest_s * 1000:.0f} ms")
        await aside(wait_linked, cluster)
        await running.wait_answers(100)
    running.assert_kept()


@pytest.mark.parametrize("service", ["worker", "tour"])
async def test_a_worker_that_is_stopped(cluster: Deployment, service: str, measured: Measured) -> None:
    [victim, *_] = await aside(cluster.containers, service)
    clock = asyncio.get_running_loop().time
    # Nobody stands in for the one worker of tour.
    async with load(list(cluster.gateways.values()), commands=[JOIN]) as running:
        began_at = clock()
        await aside(docker, "stop", victim)
        took_s = clock() - began_at
        await running.wait_answers(100)
    running.assert_kept()
    state = await aside(cluster.state_of, victim)
    assert state["ExitCode"] == 0
    assert took_s < GRACE_S
    measured(f"{service} stopped in {took_s:.1f} s")


async def test_a_gateway_that_is_killed(cluster: Deployment) -> None:
    [victim] = await aside(cluster.containers, "gateway-1")
    its, other = cluster.gateways["gateway-1"], cluster.gateways["gateway-2"]
    async with load([its], clients=5) as lost, load([other], clients=5) as running:
        await aside(docker, "kill", victim)
        await running.wait_answers(500)
    running.assert_kept()
    assert not lost.wrong
    assert not lost.errors
    assert len(lost.lost) == 5
    await aside(docker, "start", victim)
    await aside(wait_linked, cluster)
    async with load([its, other]) as again:
        pass
    again.assert_kept()


async def test_a_gateway_that_is_stopped(cluster: Deployment, measured: Measured) -> None:
    [victim] = await aside(cluster.containers, "gateway-1")
    clock = asyncio.get_running_loop().time
    async with (
        load([cluster.gateways["gateway-2"]], clients=5) as running,
        await connect(cluster.gateways["gateway-1"]) as client,
    ):
        assert await client.request(ECHO, b"here") == b"here"
        began_at = clock()
        stopping = asyncio.create_task(aside(docker, "stop", victim))
        async for _ in client.pushes():
            pass
        assert client.goaway is not None
        assert client.goaway.reason == "the gateway is being stopped"
        with pytest.raises(ClientClosed, match="goaway"):
            await client.request(ECHO)
        await stopping
        took_s = clock() - began_at
        await running.wait_answers(100)
    running.assert_kept()
    assert (await aside(cluster.state_of, victim))["ExitCode"] == 0
    assert took_s < GRACE_S
    measured(f"stopped in {took_s:.1f} s")


async def test_consul_that_is_stopped_and_started(cluster: Deployment, measured: Measured) -> None:
    [consul] = await aside(cluster.containers, "consul")
    [gone, *_] = await aside(cluster.containers, "worker")
    async with load(list(cluster.gateways.values())) as running:
        await aside(docker, "stop", consul)
        await running.wait_answers(500)
        # Links tell what Consul can't: who is lost is left out, and nobody else.
        await aside(docker, "kill", gone)
        await running.wait_answers(500)
        await aside(docker, "start", consul)

        def all_are_back() -> bool:
            try:
                return (len(cluster.health("gatecrew-gateway")), len(cluster.health("chat"))) == (2, 2)
            except OSError:
                return False

        took_s = await aside(eventually, all_are_back, "all are registered again")
        measured(f"all were registered again {took_s:.1f} s after Consul's start")
        await aside(docker, "start", gone)
        await aside(wait_linked, cluster)
        await running.wait_answers(100)
    running.assert_kept()
    measured(f"slowest of {running.answers} answers {running.slowest_s * 1000:.0f} ms")
