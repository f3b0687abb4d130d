"""The client against a scripted peer that speaks the wire on a real socket."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from gatecrew_cli.client import Client, ClientClosed, Goaway, ReplyError
from gatecrew_gateway.codec import Decoder, Kind, Packet, Status, encode, encode_error, encode_goaway
from gatecrew_gateway.config import MAX_PACKET, PACKET_OVERHEAD

PATIENCE_S = 10.0  # only ends a test that has failed already


class Peer:
    """The gateway's end of one connection, moved by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self._decoder = Decoder(MAX_PACKET)
        self._received: list[Packet] = []

    async def receive(self) -> Packet:
        async with asyncio.timeout(PATIENCE_S):
            while not self._received:
                data = await self._reader.read(65536)
                assert data, "the client closed the connection"
                packets, broken = self._decoder.decode(data)
                assert broken is None
                self._received += (Packet(*packet) for packet in packets)
        return self._received.pop(0)

    async def closed(self) -> bytes:
        """Wait for the client's end; what came before it."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._reader.read()

    def send(self, kind: Kind, command: int, seq: int, body: bytes = b"") -> None:
        self.writer.write(encode(kind, command, seq, body))

    def reply(self, packet: Packet, body: bytes) -> None:
        self.send(Kind.REPLY, packet.command, packet.seq, body)

    def reset(self) -> None:
        """End with a RST, as a crashed machine's peer sees it."""
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Pair = tuple[Client, Peer]


@contextlib.asynccontextmanager
async def connected(max_pushes: int = 1000) -> AsyncIterator[Pair]:
    peers: asyncio.Queue[Peer] = asyncio.Queue()
    server = await asyncio.start_server(lambda r, w: peers.put_nowait(Peer(r, w)), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with await Client.connect("127.0.0.1", port, max_pushes=max_pushes) as client:
            peer = await peers.get()
            try:
                yield client, peer
            finally:
                peer.writer.transport.abort()
    finally:
        server.close()
        await server.wait_closed()


async def ended(client: Client) -> str:
    """Wait until the connection has ended; why."""
    async with asyncio.timeout(PATIENCE_S):
        async for _ in client.pushes():
            pass
    assert client.closed is not None
    return client.closed


# Requests.


async def test_request_and_reply() -> None:
    async with connected() as (client, peer):
        answer = asyncio.create_task(client.request(7, b"ask"))
        packet = await peer.receive()
        assert (packet.kind, packet.command, packet.body) == (Kind.REQUEST, 7, b"ask")
        assert packet.seq != 0
        peer.reply(packet, b"answer")
        assert await answer == b"answer"


async def test_replies_are_matched_by_seq_not_by_order() -> None:
    async with connected() as (client, peer):
        first = asyncio.create_task(client.request(1, b"a"))
        second = asyncio.create_task(client.request(1, b"b"))
        packets = [await peer.receive(), await peer.receive()]
        for packet in reversed(packets):
            peer.reply(packet, packet.body * 2)
        assert (await first, await second) == (b"aa", b"bb")


async def test_an_error_ends_its_request_alone() -> None:
    async with connected() as (client, peer):
        refused = asyncio.create_task(client.request(1))
        served = asyncio.create_task(client.request(2))
        one, two = await peer.receive(), await peer.receive()
        peer.writer.write(encode_error(1, one.seq, Status.UNAVAILABLE, "no worker"))
        peer.reply(two, b"ok")
        with pytest.raises(ReplyError, match="^UNAVAILABLE: no worker$") as caught:
            await refused
        assert (caught.value.status, caught.value.reason) == (Status.UNAVAILABLE, "no worker")
        assert await served == b"ok"


async def test_a_status_without_a_name() -> None:
    async with connected() as (client, peer):
        refused = asyncio.create_task(client.request(1))
        peer.writer.write(encode_error(1, (await peer.receive()).seq, 99, ""))
        with pytest.raises(ReplyError, match="^status 99$"):
            await refused


async def test_a_late_reply_is_dropped_and_the_next_request_is_served() -> None:
    async with connected() as (client, peer):
        with pytest.raises(TimeoutError):
            await client.request(1, timeout_s=0)
        late = await peer.receive()
        peer.reply(late, b"too late")
        peer.writer.write(encode_error(1, late.seq, Status.INTERNAL, "too late"))
        answer = asyncio.create_task(client.request(1))
        packet = await peer.receive()
        assert packet.seq != late.seq
        peer.reply(packet, b"in time")
        assert await answer == b"in time"
        assert client.closed is None


async def test_seq_wraps_to_one_and_skips_open_ones() -> None:
    async with connected() as (client, peer):
        first = asyncio.create_task(client.request(1))
        held = await peer.receive()
        assert held.seq == 1
        client._last_seq = 0xFFFFFFFE
        rest = [asyncio.create_task(client.request(1)) for _ in range(2)]
        packets = [await peer.receive() for _ in rest]
        assert [packet.seq for packet in packets] == [0xFFFFFFFF, 2]
        for packet in (held, *packets):
            peer.reply(packet, b"")
        await asyncio.gather(first, *rest)


@pytest.mark.parametrize("command", [-1, 65536])
async def test_commands_outside_the_field(command: int) -> None:
    async with connected() as (client, _):
        with pytest.raises(ValueError, match="from 0 to 65535"):
            await client.request(command)
        with pytest.raises(ValueError, match="from 0 to 65535"):
            await client.notify(command)
        assert client.closed is None


@pytest.mark.parametrize("over", [-1, 0, 1])
async def test_longest_body(over: int) -> None:
    body = b"x" * (MAX_PACKET - PACKET_OVERHEAD + over)
    async with connected() as (client, peer):
        sending = asyncio.create_task(client.notify(1, body))
        if over > 0:
            with pytest.raises(ValueError, match="no listener takes more"):
                await sending
        else:
            assert (await peer.receive()).body == body
            await sending


# The rest of the wire.


async def test_notify() -> None:
    async with connected() as (client, peer):
        await client.notify(3, b"moved")
        assert await peer.receive() == (Kind.NOTIFY, 3, 0, b"moved")


async def test_packets_of_a_later_version_are_ignored() -> None:
    async with connected() as (client, peer):
        asking = asyncio.create_task(client.request(1, b"a"))
        asked = await peer.receive()
        reply = bytearray(encode(Kind.REPLY, 1, asked.seq, b"A"))
        reply[5] = 0x80
        peer.writer.write(encode(128, 1, asked.seq, b"later") + reply)
        assert await asking == b"A"


async def test_pings_are_answered_with_seq_and_body() -> None:
    async with connected() as (client, peer):
        peer.send(Kind.PING, 0, 42, b"there?")
        assert await peer.receive() == (Kind.PONG, 0, 42, b"there?")
        assert client.closed is None


async def test_pushes_come_in_order_and_end_with_the_connection() -> None:
    async with connected() as (client, peer):
        for number in range(3):
            peer.send(Kind.PUSH, 10, 0, b"%d" % number)
        peer.writer.close()
        async with asyncio.timeout(PATIENCE_S):
            assert [(push.command, push.body) async for push in client.pushes()] == [(10, b"0"), (10, b"1"), (10, b"2")]
        assert client.closed == "the gateway closed the connection"


async def test_a_push_wakes_who_waits_for_it() -> None:
    async with connected() as (client, peer):
        pushes = client.pushes()
        waiting = asyncio.ensure_future(anext(pushes))
        peer.send(Kind.PING, 0, 1)
        await peer.receive()  # the client is idle now, and so is the one who waits
        assert not waiting.done()
        peer.send(Kind.PUSH, 10, 0, b"news")
        assert (await waiting).body == b"news"


@pytest.mark.parametrize(("sent", "dropped"), [(2, 0), (3, 0), (4, 1)])
async def test_of_untaken_pushes_the_newest_are_kept_and_replies_pass_them(sent: int, dropped: int) -> None:
    async with connected(max_pushes=3) as (client, peer):
        answer = asyncio.create_task(client.request(1))
        packet = await peer.receive()
        for number in range(sent):
            peer.send(Kind.PUSH, 10, 0, b"%d" % number)
        peer.reply(packet, b"")
        await answer  # so the pushes before it have come too
        assert client.dropped_pushes == dropped
        peer.writer.close()
        assert [push.body async for push in client.pushes()] == [b"%d" % number for number in range(dropped, sent)]


async def test_goaway_then_the_end() -> None:
    async with connected() as (client, peer):
        open_request = asyncio.create_task(client.request(1))
        await peer.receive()
        peer.writer.write(encode_goaway(1500, "restarting"))
        peer.writer.close()
        with pytest.raises(ClientClosed, match="^goaway: restarting$"):
            await open_request
        assert client.goaway == Goaway(1500, "restarting")
        assert client.closed == "goaway: restarting"


async def test_open_requests_are_still_answered_after_goaway() -> None:
    async with connected() as (client, peer):
        open_request = asyncio.create_task(client.request(1))
        packet = await peer.receive()
        peer.writer.write(encode_goaway(0, "draining"))
        peer.reply(packet, b"done")
        assert await open_request == b"done"
        assert client.goaway == Goaway(0, "draining")
        assert client.closed is None


# Ends.


async def test_an_error_about_the_connection_is_the_reason_of_its_end() -> None:
    async with connected() as (client, peer):
        open_request = asyncio.create_task(client.request(1))
        await peer.receive()
        peer.writer.write(encode_error(0, 0, Status.RESOURCE_EXHAUSTED, "too many sessions"))
        peer.writer.close()
        with pytest.raises(ClientClosed, match="^RESOURCE_EXHAUSTED: too many sessions$"):
            await open_request
        with pytest.raises(ClientClosed, match="too many sessions"):
            await client.request(1)
        with pytest.raises(ClientClosed, match="too many sessions"):
            await client.notify(1)


async def test_every_open_request_ends_when_the_connection_breaks() -> None:
    async with connected() as (client, peer):
        open_requests = [asyncio.create_task(client.request(1)) for _ in range(3)]
        for _ in open_requests:
            await peer.receive()
        peer.reset()
        outcomes = await asyncio.gather(*open_requests, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ClientClosed] * 3
        assert client._open == {}


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        encode(Kind.REQUEST, 1, 1, b""),
        encode(Kind.ERROR, 0, 0, b"\0"),
        encode(Kind.GOAWAY, 0, 0, b"\0"),
    ],
    ids=["length", "kind", "short-error", "short-goaway"],
)
async def test_a_peer_that_breaks_the_wire_is_left(data: bytes) -> None:
    async with connected() as (client, peer):
        open_request = asyncio.create_task(client.request(1))
        packet = await peer.receive()
        peer.writer.write(data)
        with pytest.raises(ClientClosed, match="no packet"):
            await open_request
        assert packet.seq not in client._open
        assert await peer.closed() == b""


async def test_what_came_before_broken_bytes_counts() -> None:
    async with connected() as (client, peer):
        answer = asyncio.create_task(client.request(1))
        packet = await peer.receive()
        peer.writer.write(encode(Kind.REPLY, 1, packet.seq, b"good") + b"\xff\xff\xff\xff")
        assert await answer == b"good"
        assert "no packet" in await ended(client)


async def test_close_ends_open_requests_and_may_be_repeated() -> None:
    async with connected() as (client, peer):
        open_request = asyncio.create_task(client.request(1))
        await peer.receive()
        await client.close()
        with pytest.raises(ClientClosed, match="closed by this side"):
            await open_request
        await client.close()
        assert client._task.done()
        assert await peer.closed() == b""


async def test_close_sends_what_was_written_before_it() -> None:
    async with connected() as (client, peer):
        await client.notify(1, b"last words")
        await client.close()
        assert (await peer.receive()).body == b"last words"


async def flood(client: Client) -> list[asyncio.Task[None]]:
    """Write more than the kernel and a peer that takes nothing will hold."""
    sending = [asyncio.create_task(client.notify(1, bytes(MAX_PACKET - PACKET_OVERHEAD))) for _ in range(16)]
    await asyncio.sleep(0)
    assert not sending[-1].done()
    return sending


async def test_a_cancelled_close_leaves_neither_task_nor_socket() -> None:
    async with connected() as (client, _):
        sending = await flood(client)
        closing = asyncio.create_task(client.close())
        await asyncio.wait([client._task])
        await asyncio.sleep(0)  # now it waits for the flush that can't be
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*sending)
            await client.close()
        assert client._task.done()


async def test_close_does_not_wait_for_a_peer_that_never_reads() -> None:
    async with connected() as (client, _):
        sending = await flood(client)
        async with asyncio.timeout(PATIENCE_S):
            await client.close()
            await asyncio.gather(*sending)
        assert client._task.done()


async def test_nobody_listens() -> None:
    with socket.socket() as unheard:  # bound and not listening, so that nobody else can take the port
        unheard.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            await Client.connect(*unheard.getsockname())
