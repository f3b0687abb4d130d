"""One client's socket: bytes in, packets to the dispatcher, bytes out. Knows no packet kinds and no workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from ..codec import Decoder, Status, WireError, encode_error
from ..dispatcher import Received
from ..session import Session

if TYPE_CHECKING:
    from .listener import Listener

CONGESTED_BYTES = 64 * 1024  # unsent, besides what the kernel holds
CLOSE_WITHIN_S = 2.0  # a client that does not read would keep a closing socket for ever


class Connection(asyncio.Protocol):
    """Also the session's port (see ClientPort)."""

    __slots__ = (
        "_backlog",
        "_behind",
        "_closing",
        "_congested_s",
        "_decoder",
        "_handing_over",
        "_listener",
        "_transport",
        "is_pouring",
        "session",
        "write",
    )

    session: Session
    write: Callable[[bytes], None]  # the transport's own, one call less a packet
    _transport: asyncio.Transport

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._decoder = Decoder(listener.config.max_packet)
        self._backlog: list[Received] = []  # read, and not handed over: the session has enough open, or is blocked
        self._closing = False
        self._handing_over = False
        self._behind = False  # not read because it does not read: until it has all that waits for it
        self._congested_s = 0.0  # how long it has not read since it had all, besides now; without our own part
        self.is_pouring = False  # see Outflow

    # From the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._transport = transport
        self.write = transport.write
        transport.set_write_buffer_limits(high=CONGESTED_BYTES, low=CONGESTED_BYTES // 4)
        self._listener.opened(self, transport.get_extra_info("peername"))

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        packets, error = self._decoder.decode(data)
        unfinished = self._listener.unfinished
        if packets:
            if unfinished:
                unfinished.pop(self, None)
            if self._backlog:
                self._backlog += packets
            else:
                self._backlog = packets
            self._hand_over()
            if self.session.paused:
                self._transport.pause_reading()
        elif unfinished and self._decoder.ended_ignored:
            unfinished.pop(self, None)
        if error is not None:
            self._broken(error)
        elif self._decoder.unfinished and not self.session.paused:
            unfinished.setdefault(self, self._listener.loop.time())

    def eof_received(self) -> bool:
        """The client sends nothing more; it still gets its open answers."""
        if self._closing or not self.has_open:
            return False
        self._listener.half_closed.add(self)
        return True

    def pause_writing(self) -> None:
        """The client reads more slowly than we write: hear nothing more of it until it has caught up."""
        if not self._closing:
            self.session.congested = self._behind = True
            self._transport.pause_reading()
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
        elif not self._closing:
            self._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._closing = True
        self._listener.lost(self)

    # From the session.

    def unsent(self) -> int:
        return self._transport.get_write_buffer_size()

    @property
    def waiting(self) -> int:
        """Bytes for the client that the kernel has not taken yet."""
        return self._transport.get_write_buffer_size() + self.session.bulk

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
        if not (self.session.paused or self.session.congested or self._closing):
            self._transport.resume_reading()

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
        self._handing_over = False

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
            self.session.write_all()
            self._closing = True
            self.write = _discard  # of what is still open, answers come: for nobody now
            self._transport.resume_reading()
            if self._transport.can_write_eof():
                self._transport.write_eof()
            self._listener.loop.call_later(CLOSE_WITHIN_S, self._transport.abort)

    def close_at_once(self) -> None:
        self.session.write_all()
        self._closing = True
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def cut_as_slow(self) -> None:
        if not self._transport.is_closing():
            self._closing = True
            self._listener.counters.slow_clients_cut += 1
            self.session.discard()
            self._transport.abort()

    def timed_out(self) -> None:
        self.fail(
            encode_error(
                0,
                0,
                Status.DEADLINE_EXCEEDED,
                f"a packet took longer than {self._listener.config.packet_timeout_s:g} s",
            )
        )

    def fail(self, error_packet: bytes) -> None:
        self._listener.counters.wire_errors += 1
        self.session.out.append(error_packet)
        self.session.flush()
        self.close()

    def _broken(self, error: WireError) -> None:
        self.fail(encode_error(0, error.seq, error.status, error.reason))


def _discard(data: bytes) -> None:
    """What is written to a client that has been told to leave."""
