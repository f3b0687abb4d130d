"""What every system under test says when it is up."""

import asyncio
from collections.abc import Callable


async def serve(protocol: Callable[[], asyncio.BaseProtocol]) -> None:
    """Listen on any free port, print `ready HOST:PORT`, serve until killed."""
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0, backlog=1024)
    say(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def say(port: int) -> None:
    print(f"ready 127.0.0.1:{port}", flush=True)
