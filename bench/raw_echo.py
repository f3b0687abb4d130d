"""The limit: a uvloop server that sends back what it gets, with no gateway and no worker."""

import asyncio
from typing import cast

import uvloop

from .ready import serve


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast(asyncio.Transport, transport).write

    def data_received(self, data: bytes) -> None:
        self._write(data)


if __name__ == "__main__":
    uvloop.run(serve(Echo))
