"""One client's socket: bytes in, packets to the dispatcher, bytes out. Knows no packet kinds and no workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from ..codec import Decoder, Kind, Status, WireError, encode, encode_error
from ..dispatcher import Received
from ..session import Session
from .turns import LONG_READ_BYTES, PACKET_BYTES, SLICE_PACKETS

if TYPE_CHECKING:
    from .listener import Listener

CONGESTED_BYTES = 64 * 1024  # unsent, besides what the kernel holds
CLOSE_WITHIN_S = 2.0  # a client that does not read would keep a closing socket for ever


class Connection(asyncio.Protocol):
    """Also the session's port (see ClientPort).

    What came and is not handed over yet waits here: packets in `_backlog`, at most a slice, and bytes in the decoder.
    Meanwhile the socket is not read. Who waits for room in the session, for the client to read, or for the end of a
    second with too many pings, goes on by `_go_on`; everybody else by a turn of the listener's `turns`.
    """

    __slots__ = (
        "_aborted",
        "_backlog",
        "_behind",
        "_closing",
        "_congested_s",
        "_cost",
        "_decoder",
        "_handing_over",
        "_listener",
        "_throttled",
        "_transport",
        "_waits",
        "heard_at",
        "is_pouring",
        "origin",
        "peer",
        "pinged_at",
        "session",
        "slot",
        "write",
    )

    session: Session
    write: Callable[[bytes], None]  # the transport's own, one call less a packet
    _transport: asyncio.Transport

    def __init__(self, listener: Listener, peer: str, origin: str) -> None:
        self.peer = peer  # host:port
        self.origin = origin  # what the client is counted by
        self.heard_at = 0.0  # when it last sent anything, to a tenth of a second; 0: never
        self.pinged_at = 0.0
        self.slot = -1  # of the heartbeats
        self._listener = listener
        self._decoder = Decoder(listener.config.max_packet, most=SLICE_PACKETS)
        self._backlog: list[Received] = []  # read, and not handed over: the session has enough open, or is blocked
        self._closing = False
        self._handing_over = False
        self._behind = False  # not read because it does not read: until it has all that waits for it
        self._congested_s = 0.0  # how long it has not read since it had all, besides now; without our own part
        self.is_pouring = False  # see Outflow
        self._aborted = False
        self._waits = False  # for a turn
        self._cost = 1  # of that turn, besides its packets
        self._throttled = False  # too many pings

    # From the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._transport = transport
        self.write = transport.write
        transport.set_write_buffer_limits(high=CONGESTED_BYTES, low=CONGESTED_BYTES // 4)
        self._listener.opened(self)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            self._transport.pause_reading()  # until the listener's next tick: it may send as fast as it likes
            return
        listener = self._listener
        self.heard_at = listener.now
        packets, error = self._decoder.decode(data)
        session = self.session
        if (
            packets
            and error is None
            and not self._backlog
            and len(packets) + session.in_flight <= session.listener.max_in_flight
        ):  # what `_take` does, in short, for nearly everything that ever comes
            if listener.unfinished:
                listener.unfinished.pop(self, None)
            left = listener.dispatcher.receive(session, packets)
            if left:
                self._backlog = list(left)
                self._transport.pause_reading()
            if self._decoder.unfinished:
                listener.memory.took(len(data))
                self._expect_the_rest()
        else:
            self._take(packets, error)
            if self._decoder.unfinished:
                listener.memory.took(len(data))
        if len(data) >= LONG_READ_BYTES:
            self._cost = len(data) // PACKET_BYTES
            self._wait_turn()

    def eof_received(self) -> bool:
        """The client sends nothing more; it still gets its open answers."""
        if self._closing:
            return False
        if self.has_open:
            self.session.ended = True
            self._listener.half_closed.add(self)
        else:
            self.close_at_once()
        return True

    def pause_writing(self) -> None:
        """The client reads more slowly than we write: hear nothing more of it until it has caught up."""
        if not self._closing:
            self.session.congested = self._behind = True
            self._stop_reading()
            self._listener.congested[self] = self._listener.loop.time() - self._congested_s

    def resume_writing(self) -> None:
        session = self.session
        session.congested = False
        since = self._listener.congested.pop(self, None)
        if session.out and not self._closing:
            if since is not None:
                self._congested_s = self._listener.loop.time() - since
            self._listener.outflow.add(self)
        else:
            self._caught_up()

    def _caught_up(self) -> None:
        """The client has nearly all that we have for it: hear it again."""
        self._behind = False
        self._congested_s = 0.0
        if self.session.paused:
            self.session.flush()
        else:
            self._go_on()

    def connection_lost(self, error: Exception | None) -> None:
        self._closing = True
        self._listener.lost(self)

    # What came.

    def _take(self, packets: list[Received], error: WireError | None) -> None:
        if packets:
            unfinished = self._listener.unfinished
            if unfinished:
                unfinished.pop(self, None)
            if self._backlog:
                self._backlog += packets
            else:
                self._backlog = packets
            self._hand_over()
            if self.session.paused:
                self._transport.pause_reading()
        elif self._decoder.ended_ignored:
            self._listener.unfinished.pop(self, None)
        if error is not None:
            self._broken(error)
        elif self._decoder.unfinished:
            self._expect_the_rest()

    def _hand_over(self) -> None:
        """Give the dispatcher what was read, as far as the session may have it open; the rest stays in the backlog."""
        session = self.session
        self._handing_over = True
        while self._backlog and not session.paused and not self._closing:
            packets, self._backlog = self._backlog, []
            room = max(0, session.listener.max_in_flight - session.in_flight)
            more: list[Received] = []
            if len(packets) > room:
                packets, more = packets[:room], packets[room:]
                session.paused = True
            left = self._listener.dispatcher.receive(session, packets)
            if left or more:
                self._backlog = [*left, *more]
                session.flush()  # where nothing of it is in flight, nobody else does
        self._handing_over = False

    def _expect_the_rest(self) -> None:
        """Of a slice or of a packet. With a packet's the client may be late, but not while we do not read."""
        if self._decoder.has_more:
            self._wait_turn()
        elif not self._is_held:
            self._listener.unfinished.setdefault(self, self._listener.loop.time())

    def _stop_reading(self) -> None:
        """Until `_go_on`. The rest of a packet can't come meanwhile, so it has all of its time again after that."""
        self._listener.unfinished.pop(self, None)
        self._transport.pause_reading()

    def _wait_turn(self) -> None:
        if not (self._waits or self._closing):
            self._waits = True
            self._transport.pause_reading()
            if self._decoder.has_more and not self.session.in_flight:
                self._listener.turns.rest(self)  # all of it was refused, or answered at once
            else:
                self._listener.turns.wait(self)

    def take_turn(self) -> int:
        """Take the next slice of what came; returns what it cost, in packets."""
        self._waits = False
        cost, self._cost = self._cost, 1
        if self._is_held:
            return 1
        packets, error = self._decoder.decode(b"")
        self._take(packets, error)
        self._go_on()
        return len(packets) + cost

    @property
    def _is_held(self) -> bool:
        """Somebody calls `_go_on`, or nobody has to."""
        session = self.session
        return self._closing or session.paused or session.congested or self._behind or self._throttled

    def _go_on(self) -> None:
        """Take what came before the pause, in a turn of its own; read on if there is nothing."""
        if self._is_held:
            return
        if self._decoder.has_more:
            self._wait_turn()
        elif not self._waits:
            self._transport.resume_reading()
            if self._decoder.unfinished:
                self._expect_the_rest()

    # From the session.

    def unsent(self) -> int:
        return self._transport.get_write_buffer_size()

    @property
    def waiting(self) -> int:
        """Bytes for the client that the kernel has not taken yet."""
        return self._transport.get_write_buffer_size() + self.session.bulk

    @property
    def held(self) -> int:
        """All bytes that wait here, in either direction."""
        if self._aborted:
            return 0
        backlog = sum(len(packet[3]) for packet in self._backlog)
        return self._decoder.held + backlog + self._transport.get_write_buffer_size() + self.session.held

    def cut_for_memory(self) -> None:
        self.session.is_forfeit = True
        self._backlog = []
        self._decoder = Decoder()
        self.session.discard()
        self.abort()

    def postpone(self) -> None:
        if self._closing:
            self.session.discard()
        elif not self.session.congested:
            self._listener.outflow.add(self)

    def pour(self, most: int) -> int:
        session = self.session
        written = session.write_some(most)
        if not session.out and not session.congested:
            if self._behind:
                self._caught_up()
            elif session.paused:
                session.flush()
        return written

    @property
    def can_pour(self) -> bool:
        return bool(self.session.out) and not self.session.congested

    def resume(self) -> None:
        """Take what was read before the pause; read on if that does not fill the session again."""
        if self._handing_over:  # called by what `receive` flushes: the loop in `_hand_over` goes on
            return
        self._hand_over()
        self._go_on()

    def pinged(self, kind: int, command: int, seq: int, body: bytes) -> None:
        """A ping or a pong came; a ping gets its pong."""
        self._listener.heartbeats.pinged(self)
        if kind == Kind.PING:
            self.session.out.append(encode(Kind.PONG, command, seq, body))

    @property
    def was_made(self) -> bool:
        """Whether the event loop has ever had it: then it says when it is lost."""
        return hasattr(self, "session")

    @property
    def is_aborted(self) -> bool:
        """It is as good as gone."""
        return self._aborted

    @property
    def has_open(self) -> bool:
        """It has sent what has no answer yet, or the answer is not written."""
        return bool(self.session.in_flight or self._backlog or self.session.out)

    @property
    def is_settled(self) -> bool:
        """Nothing is open, nothing that came waits, no packet is half here, nothing waits for the client to read."""
        return not (self.has_open or self._decoder.unfinished or self.unsent())

    def close(self) -> None:
        """End our side, and wait a little for the client to end its own: closing while it still sends would reset the
        connection, and the last packet, which says why, would be lost.
        """
        if not self._closing:
            self._begin_closing(CLOSE_WITHIN_S)
            self._transport.resume_reading()
            if self._transport.can_write_eof():
                self._transport.write_eof()

    def close_at_once(self) -> None:
        """Close when the client has read what is written, which may take as long as reading may take anyway."""
        if not self._closing:
            self._begin_closing(self._listener.config.unsent_timeout_s)
            self._transport.close()

    def _begin_closing(self, within_s: float) -> None:
        self.session.write_all()
        self._closing = True
        self.write = _discard  # of what is still open, answers come: for nobody now
        self._backlog = []
        self._decoder = Decoder()  # what it kept is nobody's now
        self._listener.closing[self] = self._listener.loop.time() + within_s

    def abort(self) -> None:
        self._closing = self._aborted = True
        self._transport.abort()

    # From the listener, who knows the time.

    @property
    def is_busy(self) -> bool:
        """It waits for us, in one way or another."""
        session = self.session
        return bool(self._waits or self._throttled or session.paused or session.congested or session.in_flight)

    def ping(self) -> None:
        self.write(encode(Kind.PING, 0, 0, b""))

    def discard_more(self) -> None:
        """While it closes: so that its end is seen. A read of it is thrown away."""
        self._transport.resume_reading()

    def throttle(self) -> None:
        self._throttled = True
        self._stop_reading()

    def unthrottle(self) -> None:
        self._throttled = False
        self._go_on()

    def cut_as_slow(self) -> None:
        if not self._aborted:
            self._listener.counters.slow_clients_cut += 1
            self.session.discard()
            self.abort()

    def close_in_time(self) -> None:
        """The time for closing is over."""
        if self.unsent():
            self.cut_as_slow()
        else:
            self.abort()

    def silent_for(self, seconds: float) -> None:
        self._dismiss(Status.DEADLINE_EXCEEDED, f"nothing came for {seconds:g} s, not even the answer to a ping")

    def floods(self, most: int) -> None:
        self._dismiss(Status.RESOURCE_EXHAUSTED, f"more than {most} pings a second")

    def timed_out(self) -> None:
        self._listener.counters.wire_errors += 1
        self._dismiss(
            Status.DEADLINE_EXCEEDED, f"a packet took longer than {self._listener.config.packet_timeout_s:g} s"
        )

    def _broken(self, error: WireError) -> None:
        self._listener.counters.wire_errors += 1
        self._dismiss(error.status, error.reason, error.seq)

    def _dismiss(self, status: Status, reason: str, seq: int = 0) -> None:
        self.session.out.append(encode_error(0, seq, status, reason))
        self.session.flush()
        self.close()


def _discard(data: bytes) -> None:
    """What is written to a client that has been told to leave."""
