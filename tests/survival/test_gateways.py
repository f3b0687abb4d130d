"""Two gateways beside each other: a push reaches the clients of both, and one of them leaves in an orderly way."""

import signal
from collections.abc import Callable, Iterator

import pytest

from gatecrew.v1 import gateway_pb2, worker_pb2
from survival.checks import assert_kept, slowest
from survival.client import GOAWAY, PUSH, REPLY, REQUEST, Client, connected
from survival.cluster import Cluster, Gateway, eventually
from survival.commands import BIND, JOIN, SLOW
from survival.history import violations


@pytest.fixture(scope="module")
def module_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("gateways"), workers=2, gateways=2)
    yield cluster
    cluster.close()


def sessions_seen(gateway: Gateway) -> int:
    """Of all gateways that it knows."""
    return int(gateway.stub.ListSessions(gateway_pb2.ListSessionsRequest(), timeout=10).total)


def open_of(gateway: Gateway, client: Client) -> int:
    """How many requests of the client the gateway holds."""
    host, port = client.socket.getsockname()
    own = gateway.stub.Status(gateway_pb2.StatusRequest(), timeout=10).gateway_id
    answer = gateway.stub.ListSessions(gateway_pb2.ListSessionsRequest(), timeout=10)
    # A client of the other gateway may have the same port as this one.
    here = [each for each in answer.sessions if each.gateway_id == own]
    [session] = [each for each in here if each.context.peer == f"{host}:{port}"]
    return int(session.in_flight)


def session_of(cluster: Cluster, user: str) -> int:
    """Its id; any gateway knows it."""
    answer = cluster.gateway.stub.ListSessions(gateway_pb2.ListSessionsRequest(user=user), timeout=10)
    [session] = answer.sessions
    return int(session.context.session)


def test_a_push_reaches_the_clients_of_both(cluster: Cluster) -> None:
    first, second = cluster.gateways
    with connected(first.address) as ann, connected(second.address) as bob, connected(second.address) as ann_too:
        for client, user in ((ann, b"ann"), (bob, b"bob"), (ann_too, b"ann")):
            assert client.ask(BIND, user).kind == REPLY
        assert ann.ask(JOIN, b"lobby").kind == REPLY
        assert bob.ask(JOIN, b"lobby").kind == REPLY
        everyone = [ann, bob, ann_too]
        # Gateways find each other by the registry, a little after they have started.
        eventually(lambda: all(sessions_seen(each) == len(everyone) for each in cluster.gateways), "both know all")
        bobs = session_of(cluster, "bob")
        for number, gateway in enumerate(cluster.gateways):
            for push, hearers in (
                (worker_pb2.Push(session=bobs), [bob]),
                (worker_pb2.Push(user="ann"), [ann, ann_too]),
                (worker_pb2.Push(group="lobby"), [ann, bob]),
                (worker_pb2.Push(group="lobby", except_session=bobs), [ann]),
                (worker_pb2.Push(everyone=True), everyone),
            ):
                push.command = 5
                push.body = f"{number} {push}".encode()
                reached = gateway.stub.Push(push, timeout=10)
                assert reached.sessions == len(hearers), f"through {number}: {push}"
                for client in hearers:
                    packet = client.read()
                    assert packet is not None
                    assert (packet.kind, packet.command, packet.body) == (PUSH, 5, push.body)
        # A reply next: nobody had a push that was not for them.
        for client in everyone:
            answer = client.ask(SLOW, b"0")
            assert answer.kind == REPLY


def test_a_gateway_leaves(cluster: Cluster, measured: Callable[[str], None]) -> None:
    leaving, staying = cluster.gateways
    with (
        cluster.load(rate=500, warm_up=200, only=staying) as (load, elsewhere),
        cluster.load(rate=1000, warm_up=200, only=leaving) as (_, dismissed),
        connected(leaving.address) as idle,
        connected(leaving.address) as busy,
    ):
        assert idle.ask(SLOW, b"0").kind == REPLY
        busy.send(REQUEST, SLOW, 1, b"3.5")
        busy.send(REQUEST, SLOW, 2, b"0")  # behind it
        eventually(lambda: open_of(leaving, busy) == 2, "both are open")
        leaving.process.send(signal.SIGTERM)
        idle_heard = idle.rest()
        busy_heard = busy.rest()
        code = leaving.process.wait()
        load.wait_answers(500)
    assert code == 0
    assert [packet.kind for packet in idle_heard] == [GOAWAY]
    assert [(packet.kind, packet.seq) for packet in busy_heard] == [(GOAWAY, 0), (REPLY, 1), (REPLY, 2)]
    # Whoever stops sending when told to loses nothing.
    assert not (broken := violations(dismissed)), f"{broken[0]}"
    assert not dismissed.errors
    assert len(dismissed.ended) == 50
    assert all(end.reason.startswith("goaway: ") for end in dismissed.ended)
    assert_kept(elsewhere)
    slowest(elsewhere, measured, "clients of the other gateway")
    cluster.start_gateway(0)
