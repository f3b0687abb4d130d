"""Clients that break the rules, vanish or do not read, and the others who notice nothing of them."""

import contextlib
import random
import struct
from collections.abc import Callable, Iterator

import pytest

from survival.checks import CRASH_LATENCY_S, assert_kept, slowest
from survival.client import ERROR, REPLY, REQUEST, Client, connected, pack
from survival.cluster import Cluster, eventually
from survival.commands import FLOOD, QUERY, SLOW

MIB = 1 << 20
INVALID_ARGUMENT, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED = 3, 4, 8
MAX_PACKET = 64 * 1024

REFUSED = {
    "the greatest length": (struct.pack(">I", 0xFFFFFFFF), RESOURCE_EXHAUSTED, "max_packet"),
    "a length with the sign bit": (struct.pack(">I", 0x80000000), RESOURCE_EXHAUSTED, "max_packet"),
    "a length just over the limit": (struct.pack(">I", MAX_PACKET + 1), RESOURCE_EXHAUSTED, "max_packet"),
    "a length shorter than a header": (struct.pack(">I", 7), INVALID_ARGUMENT, "length 7"),
    "HTTP": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", RESOURCE_EXHAUSTED, "max_packet"),
    "random bytes": (b"\x00\x00\x12" + random.Random(3).randbytes(1000), INVALID_ARGUMENT, "flags"),
    "flags": (struct.pack(">IBBHI", 8, 0, 1, 1, 1), INVALID_ARGUMENT, "flags"),
    "a kind that only gateways send": (pack(REPLY, 1, 1), INVALID_ARGUMENT, "kind 1"),
    "an unknown kind": (pack(9, 1, 1), INVALID_ARGUMENT, "kind 9"),
}
ATTEMPTS = 100


@contextlib.contextmanager
def others(cluster: Cluster, measured: Callable[[str], None]) -> Iterator[None]:
    """While honest clients are served, who must notice nothing. At the end no session is left but theirs."""
    gateway = cluster.gateway
    before = gateway.status().counters["sessions_opened"]
    with cluster.load(rate=1000, warm_up=300) as (load, history):
        yield
        load.wait_answers(500)
        eventually(lambda: sum(each.sessions for each in gateway.status().listeners) == 50, "only the others are left")
    eventually(lambda: not any(link.in_flight for link in gateway.status().links), "nothing is in flight")
    assert gateway.status().counters["sessions_opened"] > before + 50
    assert_kept(history)
    assert slowest(history, measured, "the others") <= CRASH_LATENCY_S


@pytest.mark.row(7)
def test_rubbish(cluster: Cluster, measured: Callable[[str], None]) -> None:
    gateway = cluster.gateway
    broken = gateway.counter("wire_errors")
    with others(cluster, measured):
        gateway.forget_peak()
        memory = gateway.memory()
        for name, (data, status, text) in REFUSED.items():
            for _ in range(ATTEMPTS):
                with connected(gateway.address) as client:
                    client.socket.sendall(data)
                    only = client.rest()
                    assert [packet.kind for packet in only] == [ERROR], name
                    assert only[0].status == status, f"{name}: {only}"
                    assert text in only[0].reason, f"{name}: {only}"
        grown = gateway.memory("VmHWM") - memory
    assert gateway.counter("wire_errors") - broken == len(REFUSED) * ATTEMPTS
    measured(f"{len(REFUSED) * ATTEMPTS} attempts, memory grew by {grown / MIB:.1f} MiB")
    assert grown < 8 * MIB


@pytest.mark.parametrize("part", [3, 5, 20], ids=["half a length", "half a header", "half a body"])
@pytest.mark.row(8)
def test_half_a_packet_and_silence(cluster: Cluster, measured: Callable[[str], None], part: int) -> None:
    gateway = cluster.gateway
    with others(cluster, measured), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(gateway.listener("hasty"))) for _ in range(50)]
        for client in clients:
            assert client.ask(QUERY, b"s 1 x n").kind == REPLY  # good until now
            client.socket.sendall(pack(REQUEST, QUERY, 2, bytes(100))[:part])
        for client in clients:
            [error] = client.rest()
            assert (error.kind, error.seq, error.status) == (ERROR, 0, DEADLINE_EXCEEDED)
            assert "packet" in error.reason


def test_leaving_in_the_middle(cluster: Cluster, measured: Callable[[str], None]) -> None:
    """With requests open, with half a packet sent, by FIN and by RST, again and again."""
    gateway = cluster.gateway
    with others(cluster, measured):
        for number in range(200):
            client = Client(gateway.address)
            command, body = (SLOW, b"0.2") if number % 10 == 0 else (QUERY, b"s 1 x n")
            for seq in range(1, 11):
                client.send(REQUEST, command, seq, body)
            if number % 3 == 0:
                client.socket.sendall(pack(REQUEST, QUERY, 11, bytes(100))[:20])
            if number % 2:
                client.reset()
            else:
                client.close()
        eventually(lambda: gateway.counter("sessions_opened") - gateway.counter("sessions_closed") == 50, "all gone")


def test_packets_in_one_segment_and_in_bytes(cluster: Cluster, measured: Callable[[str], None]) -> None:
    count = 50
    data = b"".join(pack(REQUEST, QUERY, seq, f"s {seq} x n".encode()) for seq in range(1, count + 1))
    address = cluster.gateway.address
    with others(cluster, measured), connected(address) as whole, connected(address) as cut:
        whole.socket.sendall(data)
        for at in range(len(data)):
            cut.socket.sendall(data[at : at + 1])
        for client in (whole, cut):
            answers = [client.read() for _ in range(count)]
            assert [(each.kind, each.seq, each.body) for each in answers if each is not None] == [
                (REPLY, seq, f"s {seq} x n".encode()) for seq in range(1, count + 1)
            ]


@pytest.mark.row(5)
def test_not_reading(cluster: Cluster, measured: Callable[[str], None]) -> None:
    """Workers push 5 MiB to each of some clients that never read; the gateway keeps 4 MiB at most and cuts them."""
    count, pushes = 8, 640
    gateway = cluster.gateway
    cut = gateway.counter("slow_clients_cut")
    with others(cluster, measured), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(gateway.address, receive_buffer=4096)) for _ in range(count)]
        gateway.forget_peak()
        memory = gateway.memory()
        for client in clients:
            client.send(REQUEST, FLOOD, 1, str(pushes).encode())
        eventually(lambda: gateway.counter("slow_clients_cut") - cut == count, "all are cut")
        grown = gateway.memory("VmHWM") - memory
    measured(f"{count} clients cut, memory grew by {grown / MIB:.1f} MiB at most")
    assert grown < count * 4.3 * MIB + 16 * MIB
