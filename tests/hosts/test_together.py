"""Everybody on a host of their own: they find each other, both gateways serve, and pushes reach the clients of both."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator

from processes import gatecrew
from survival.client import PUSH, REPLY, REQUEST, Client, connected
from survival.cluster import eventually
from survival.commands import BIND, JOIN

from gatecrew.v1 import gateway_pb2, worker_pb2
from hosts.checks import assert_untouched, executed_by
from hosts.cluster import SESSIONS, HostCluster, HostGateway
from hosts.commands import PUSH_LOBBY, PUSHED_LOBBY
from hosts.network import both, cut

CUT_S = 15.0  # long enough for TCP to make pauses of many seconds
REUNITED_S = 10.0  # after the healing, until a push through one gateway reaches the clients of the other


def test_all_are_found_and_serve(cluster: HostCluster, measured: Callable[[str], None]) -> None:
    for worker in cluster.workers:  # each at its own host, whichever way it was started
        assert worker.address.rpartition(":")[0] == worker.host.address
        eventually(lambda worker=worker: cluster.checks(worker) == {"passing"}, f"Consul reaches {worker.host}")  # type: ignore[misc]
    with cluster.loads() as (loads, histories):
        for load in loads:
            load.wait_answers(500)
        asked = cluster.on_clients(gatecrew("status", "--json"))
        assert asked.wait() == 0, asked.output
    status = json.loads("\n".join(asked.stdout))
    assert len(status["gateways"]) == 2, status
    for gateway, history in zip(cluster.gateways, histories, strict=True):
        for worker in cluster.workers:
            assert executed_by(history, worker.host.name, 0.0), f"{worker.host} had nothing from {gateway.host}"
        assert_untouched(history, measured, f"clients of {gateway.host}")


@contextlib.contextmanager
def lobby(cluster: HostCluster) -> Iterator[list[Client]]:
    """A client at each gateway, both in the group "lobby"."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(gateway.address)) for gateway in cluster.gateways]
        for number, client in enumerate(clients):
            assert client.ask(BIND, f"user{number}".encode()).kind == REPLY
            assert client.ask(JOIN, b"lobby").kind == REPLY
        yield clients


def push(gateway: HostGateway, what: worker_pb2.Push) -> int:
    """Through its Gateway service, as programs beside the workers do; returns how many sessions it reached."""
    return int(gateway.stub.Push(what, timeout=10).sessions)


def test_pushes_reach_the_clients_of_both_gateways(cluster: HostCluster) -> None:
    with lobby(cluster) as clients:
        everyone_known(cluster, len(clients))
        for number, gateway in enumerate(cluster.gateways):
            for what, hearers in (
                (worker_pb2.Push(group="lobby"), clients),
                (worker_pb2.Push(user="user0"), clients[:1]),
                (worker_pb2.Push(user="user1"), clients[1:]),
            ):
                what.command = 5
                what.body = f"{number} {what}".encode()
                assert push(gateway, what) == len(hearers), f"through {gateway.host}: {what}"
                for client in hearers:
                    hears(client, 5, what.body)
        for number, client in enumerate(clients):
            workers_push_reaches(client, clients, f"from {number}".encode())


def test_gateways_cut_off_from_each_other(cluster: HostCluster, measured: Callable[[str], None]) -> None:
    """A worker has a link to each, so its pushes need no way between them. A push through one reaches its own."""
    one, other = cluster.gateways
    with cluster.loads() as (loads, histories), lobby(cluster) as clients:
        everyone_known(cluster, len(clients) + 2 * SESSIONS)  # those of the loads
        with cut(*both(one.host, other.host)):
            cut_at = time.monotonic()
            for number, (gateway, client) in enumerate(zip(cluster.gateways, clients, strict=True)):
                workers_push_reaches(client, clients, f"cut, from {number}".encode())
                body = f"cut, through {number}".encode()
                assert push(gateway, worker_pb2.Push(group="lobby", command=5, body=body)) == 1
                hears(client, 5, body)
            while time.monotonic() < cut_at + CUT_S:
                for number, gateway in enumerate(cluster.gateways):
                    there = worker_pb2.Push(user=f"user{1 - number}", command=5)
                    assert push(gateway, there) == 0, "to a client of the other"
            for load in loads:
                load.wait_answers(500)
            healed_at = time.monotonic()
        for number, gateway in enumerate(cluster.gateways):
            body = f"healed, through {number}".encode()
            what = worker_pb2.Push(user=f"user{1 - number}", command=5, body=body)
            eventually(lambda gateway=gateway, what=what: push(gateway, what) == 1, f"{gateway.host} reaches the other")  # type: ignore[misc]
        measured(f"pushes cross again {time.monotonic() - healed_at:.1f} s after the healing")
        assert time.monotonic() - healed_at <= REUNITED_S
    for gateway, history in zip(cluster.gateways, histories, strict=True):
        assert_untouched(history, measured, f"clients of {gateway.host}")


def everyone_known(cluster: HostCluster, count: int) -> None:
    """Gateways find each other by the registry, a little after they have started."""
    for gateway in cluster.gateways:
        eventually(
            lambda gateway=gateway: (  # type: ignore[misc]
                gateway.stub.ListSessions(gateway_pb2.ListSessionsRequest(), timeout=10).total == count
            ),
            f"{gateway.host} knows {count} sessions",
        )


def hears(client: Client, command: int, body: bytes) -> None:
    """As the next packet."""
    packet = client.read()
    assert packet is not None
    assert (packet.kind, packet.command, packet.body) == (PUSH, command, body)


def workers_push_reaches(asks: Client, clients: list[Client], body: bytes) -> None:
    """One client asks a worker to push to the lobby: all hear it, once."""
    asks.send(REQUEST, PUSH_LOBBY, 1, body)
    for client in clients:
        wanted = {REPLY, PUSH} if client is asks else {PUSH}
        heard = [client.read() for _ in wanted]
        assert {packet.kind for packet in heard if packet} == wanted
        assert [(packet.command, packet.body) for packet in heard if packet and packet.kind == PUSH] == [
            (PUSHED_LOBBY, body)
        ]
