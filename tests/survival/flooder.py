"""A worker of a service of its own, that pushes to a group without a pause."""

from __future__ import annotations

from gatecrew_worker import Request, Worker
from survival.commands import FLOOD_GROUP, PUSHED

worker = Worker("flooder")


@worker.on(FLOOD_GROUP)
async def flood(request: Request) -> bytes:
    """The body says which group, how many packets, and how many bytes each has."""
    group, count, size = request.body.decode().split()
    for number in range(int(count)):
        await worker.push_group(group, number.to_bytes(4, "big").ljust(int(size), b"."), PUSHED)
    return b""
