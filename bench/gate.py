"""The client side of the hand-made gateways: packets in, packets out, as lean as a careful user would write it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from .wire import COMMAND, HEADER, REPLY


class Gate(asyncio.Protocol):
    """`forward(client number, seq, body)` is called for every packet; `reply` writes one."""

    clients: dict[int, Gate]
    forward: Callable[[int, int, bytes], None]
    flush: Callable[[], None]

    def __init__(self) -> None:
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.number = id(self) & 0xFFFFFFFF
        self.clients[self.number] = self

    def connection_lost(self, exc: Exception | None) -> None:
        del self.clients[self.number]

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        start, size, forward = 0, len(data), type(self).forward
        while size - start >= 12:
            length, _, _, _, seq = HEADER.unpack_from(data, start)
            end = start + 4 + length
            if end > size:
                break
            forward(self.number, seq, data[start + 12 : end])
            start = end
        self._rest = data[start:]
        type(self).flush()

    def reply(self, seq: int, body: bytes) -> None:
        self._transport.write(HEADER.pack(8 + len(body), REPLY, 0, COMMAND, seq) + body)
