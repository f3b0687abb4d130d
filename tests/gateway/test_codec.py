"""The codec against the published vectors, cut in every way, and against what no vector thought of."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatecrew_gateway.codec import (
    FROM_CLIENT,
    FROM_GATEWAY,
    Decoder,
    Kind,
    Packet,
    Status,
    WireError,
    decode_error,
    decode_goaway,
    encode,
    encode_error,
    encode_goaway,
)
from gatecrew_gateway.config import MAX_PACKET, PACKET_OVERHEAD

pytestmark = pytest.mark.quick

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "vectors" / "wire.json").read_text("utf-8"))[
    "vectors"
]
HEADER_SIZE = 4 + PACKET_OVERHEAD
Outcome = tuple[list[Packet], WireError | None, bool]


def decoder_of(vector: dict[str, Any]) -> Decoder:
    allowed = FROM_CLIENT if vector["sender"] == "client" else FROM_GATEWAY
    return Decoder(vector.get("max_packet", 65536), allowed)


def stream_of(vector: dict[str, Any]) -> bytes:
    parts = (part if isinstance(part, str) else part["repeat"][0] * part["repeat"][1] for part in vector["stream"])
    return b"".join(bytes.fromhex(part) for part in parts)


def packets_of(vector: dict[str, Any]) -> list[Packet]:
    packets = []
    for p in vector["packets"]:
        pattern, times = p["body_repeat"] if "body_repeat" in p else (p["body"], 1)
        packets.append(Packet(Kind[p["kind"].upper()], p["command"], p["seq"], bytes.fromhex(pattern) * times))
    return packets


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[i : i + size] for i in range(0, len(data), size))


def outcome(decoder: Decoder, chunks: Iterable[bytes]) -> Outcome:
    """All that the chunks give, up to the first error."""
    packets: list[Packet] = []
    for chunk in chunks:
        more, broken = decoder.decode(chunk)
        packets += (Packet(*packet) for packet in more)
        if broken is not None:
            return packets, broken, decoder.unfinished
    return packets, None, decoder.unfinished


def comparable(result: Outcome) -> tuple[object, ...]:
    packets, broken, unfinished = result
    return packets, broken and (broken.status, broken.reason, broken.seq), unfinished


# The vectors.


@pytest.mark.parametrize("cut", [None, 1, 3, 7, 13, 1400], ids=lambda cut: f"cut-{cut or 'whole'}")
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vector(vector: dict[str, Any], cut: int | None) -> None:
    data = stream_of(vector)
    packets, broken, unfinished = outcome(decoder_of(vector), pieces(data, cut) if cut else [data])

    assert packets == packets_of(vector)
    assert unfinished is vector["unfinished"]
    if vector["error"] is None:
        assert broken is None
    else:
        assert broken is not None
        assert (broken.status, broken.seq) == (vector["error"]["status"], vector["error"]["seq"])
        assert vector["error"]["reason_contains"] in broken.reason


@pytest.mark.parametrize("vector", [v for v in VECTORS if v["error"]], ids=lambda vector: vector["name"])
def test_an_error_is_known_from_the_earliest_byte_that_shows_it(vector: dict[str, Any]) -> None:
    data, enough = stream_of(vector), vector["error"]["known_after"]
    early = decoder_of(vector)
    assert outcome(early, [data[: enough - 1]])[1] is None
    assert outcome(early, [data[enough - 1 : enough]])[1] is not None


@pytest.mark.parametrize(
    "vector",
    [v for v in VECTORS if not v["error"] and not v["unfinished"] and not v.get("ignored")],
    ids=lambda vector: vector["name"],
)
def test_encoding_a_vector_gives_its_bytes(vector: dict[str, Any]) -> None:
    assert b"".join(encode(*packet) for packet in packets_of(vector)) == stream_of(vector)


PACKETS_OF_VECTORS = [
    (described, packet)
    for vector in VECTORS
    for described, packet in zip(vector["packets"], packets_of(vector), strict=True)
]


@pytest.mark.parametrize(("described", "packet"), [p for p in PACKETS_OF_VECTORS if "error" in p[0]])
def test_error_bodies(described: dict[str, Any], packet: Packet) -> None:
    status, reason = described["error"]["status"], described["error"]["reason"]
    assert decode_error(packet.body) == (status, reason)
    assert encode_error(packet.command, packet.seq, status, reason) == encode(*packet)


@pytest.mark.parametrize(("described", "packet"), [p for p in PACKETS_OF_VECTORS if "goaway" in p[0]])
def test_goaway_bodies(described: dict[str, Any], packet: Packet) -> None:
    after_ms, reason = described["goaway"]["reconnect_after_ms"], described["goaway"]["reason"]
    assert decode_goaway(packet.body) == (after_ms, reason)
    assert encode_goaway(after_ms, reason) == encode(*packet)


@given(st.binary(max_size=12))
def test_any_error_or_goaway_body_decodes_or_is_a_wire_error(body: bytes) -> None:
    for decode, least in ((decode_error, 2), (decode_goaway, 4)):
        if len(body) >= least:
            number, text = decode(body)
            assert number == int.from_bytes(body[:least], "big")
            assert isinstance(text, str)
        else:
            with pytest.raises(WireError):
                decode(body)


# Limits, each at n-1, n and n+1.


@pytest.mark.parametrize("limit", [PACKET_OVERHEAD, 9, 64, 65536, MAX_PACKET])
@pytest.mark.parametrize("over", [-1, 0, 1])
def test_max_packet(limit: int, over: int) -> None:
    body = limit + over - PACKET_OVERHEAD
    if body < 0:  # below the least limit there is no packet; the least length has its own test
        return
    data = encode(Kind.REQUEST, 1, 2, b"x" * body)
    packets, broken, unfinished = outcome(Decoder(limit), [data])
    assert not unfinished
    if over <= 0:
        assert (packets, broken) == ([(Kind.REQUEST, 1, 2, b"x" * body)], None)
    else:
        assert packets == []
        assert broken is not None
        assert broken.status is Status.RESOURCE_EXHAUSTED
        assert str(limit) in broken.reason


@pytest.mark.parametrize("length", [PACKET_OVERHEAD - 1, PACKET_OVERHEAD, PACKET_OVERHEAD + 1])
def test_least_length(length: int) -> None:
    data = length.to_bytes(4, "big") + encode(Kind.REQUEST, 1, 2, b"x")[4:]
    packets, broken, _ = outcome(Decoder(), [data])
    if length < PACKET_OVERHEAD:
        assert packets == []
        assert broken is not None
        assert broken.status is Status.INVALID_ARGUMENT
    else:
        assert [packet.body for packet in packets] == [b"x" * (length - PACKET_OVERHEAD)]
        assert broken is None


# Properties.

BODIES = st.binary(max_size=40)
PACKETS = st.builds(
    Packet, st.sampled_from([int(k) for k in FROM_CLIENT]), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF), BODIES
)


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Any cutting of the data, empty pieces included."""
    at = sorted(draw(st.lists(st.integers(0, len(data)), max_size=20)))
    return [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]


@given(st.lists(PACKETS, max_size=8), st.data())
def test_round_trip_however_it_is_cut(packets: list[Packet], data: st.DataObject) -> None:
    stream = b"".join(encode(*packet) for packet in packets)
    assert outcome(Decoder(), data.draw(cut(stream))) == (packets, None, False)


# Bytes that get past the length more often than random ones do.
NEARLY_PACKETS = st.lists(
    st.one_of(
        st.binary(max_size=30),
        PACKETS.map(lambda packet: encode(*packet)),
        st.builds(
            lambda length, kind, flags, rest: length.to_bytes(4, "big") + bytes((kind, flags)) + rest,
            st.integers(0, 70),
            st.one_of(st.integers(0, 9), st.sampled_from([127, 128, 255])),
            st.sampled_from([0, 0, 0, 1, 16, 240, 255]),
            st.binary(max_size=40),
        ),
    ),
    max_size=6,
).map(b"".join)


@given(NEARLY_PACKETS, st.sampled_from([FROM_CLIENT, FROM_GATEWAY]), st.data())
def test_any_bytes_give_packets_or_one_error_however_they_are_cut(
    stream: bytes, allowed: frozenset[Kind], data: st.DataObject
) -> None:
    max_packet = 64
    whole = outcome(Decoder(max_packet, allowed), [stream])
    packets, broken, unfinished = whole
    assert all(packet.kind in allowed and len(packet.body) <= max_packet - PACKET_OVERHEAD for packet in packets)
    assert not (broken and unfinished)
    if broken is None:
        taken = len(b"".join(whole_packets(stream)))
        assert packets == [packet for packet in map(known, whole_packets(stream)) if packet]
        assert unfinished is (taken < len(stream))
    assert comparable(outcome(Decoder(max_packet, allowed), data.draw(cut(stream)))) == comparable(whole)


def whole_packets(stream: bytes) -> Iterator[bytes]:
    """Cut by nothing but their lengths."""
    while len(stream) >= 4 and len(stream) >= (end := 4 + int.from_bytes(stream[:4], "big")):
        yield stream[:end]
        stream = stream[end:]


def known(packet: bytes) -> Packet | None:
    """None: of a kind that is to be ignored."""
    if packet[4] >= 128:
        return None
    return Packet(packet[4], *(int.from_bytes(packet[a:b], "big") for a, b in ((6, 8), (8, 12))), packet[12:])


def kept(decoder: Decoder) -> int:
    """Bytes that the decoder holds; the one place where a test looks inside, as the promise is about memory."""
    return len(decoder._tail or b"")


@given(NEARLY_PACKETS, st.data())
def test_what_is_kept_is_less_than_one_packet(stream: bytes, data: st.DataObject) -> None:
    max_packet = 64
    decoder = Decoder(max_packet)
    for chunk in data.draw(cut(stream)):
        _, broken = decoder.decode(chunk)
        assert kept(decoder) < 4 + max_packet
        if broken is not None:
            assert kept(decoder) == 0
            break


def test_a_packet_that_is_ignored_has_ended_like_any_other() -> None:
    """Who counts the time since a packet's first byte must see it end, although nothing of it is told."""
    ignored = bytes.fromhex("0000000b c8 00 0000 00000000 010203")
    decoder = Decoder()
    assert decoder.decode(ignored[:13]) == ([], None)
    assert (decoder.unfinished, decoder.ended_ignored) == (True, False)
    assert decoder.decode(ignored[13:] + ignored[:5]) == ([], None)
    assert (decoder.unfinished, decoder.ended_ignored) == (True, True)
    assert decoder.decode(ignored[5:6]) == ([], None)
    assert (decoder.unfinished, decoder.ended_ignored) == (True, False)


def test_a_long_packet_in_tiny_segments_is_joined_once() -> None:
    """Joining what is kept at every segment would take time with the square of the packet's length."""
    data = encode(Kind.REQUEST, 1, 2, b"x" * (MAX_PACKET - PACKET_OVERHEAD))
    decoder = Decoder(MAX_PACKET)
    decoder.decode(data[:HEADER_SIZE])
    tail = decoder._tail
    for chunk in pieces(data[HEADER_SIZE:-1], 1000):
        assert decoder.decode(chunk) == ([], None)
        assert decoder._tail is tail
    packets, broken = decoder.decode(data[-1:])
    assert broken is None
    assert [len(packet[3]) for packet in packets] == [MAX_PACKET - PACKET_OVERHEAD]
    assert not decoder.unfinished
