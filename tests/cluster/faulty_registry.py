"""A registry that goes wrong in the ways of the fault catalogue (rows 44 to 50): a proxy in front of a real one."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Coroutine
from typing import Any, TypeVar

import aiohttp
from aiohttp import web

T = TypeVar("T")

WATCHED = ("/v1/catalog/services", "/v1/health/service/")


class FaultyRegistry:
    """Runs in a thread of its own. `mode` is "good", or one of FAULTS."""

    def __init__(self, upstream: str) -> None:
        self.mode = "good"
        self.queries: Counter[str] = Counter()  # blocking queries by path
        self.address = ""
        self._upstream = f"http://{upstream}"
        self._turn = 0
        self._port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._call(self._start())

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _start(self) -> None:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=90))
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await self._listen()

    async def _listen(self) -> None:
        self._site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await self._site.start()
        self._port = self._runner.addresses[0][1]
        self.address = f"127.0.0.1:{self._port}"

    def break_(self, mode: str) -> None:
        self._call(self._break(mode))

    async def _break(self, mode: str) -> None:
        self.queries.clear()
        self.mode = mode
        if mode == "refuses":
            await self._site.stop()
        for connection in tuple(self._runner.server.connections):  # type: ignore[union-attr]
            connection.force_close()  # queries that block just now meet the fault, too
            if connection.transport is not None:
                connection.transport.abort()
        if mode == "forgets":
            async with self._session.get(f"{self._upstream}/v1/agent/services") as answer:
                for id in await answer.json():
                    await self._session.put(f"{self._upstream}/v1/agent/service/deregister/{id}")

    def mend(self) -> None:
        self._call(self._mend())

    async def _mend(self) -> None:
        if self.mode == "refuses":
            await self._listen()
        self.mode = "good"

    def close(self) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        await self._runner.cleanup()
        await self._session.close()
        hanging = asyncio.all_tasks() - {asyncio.current_task()}  # queries that were never answered
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        watched = request.method == "GET" and request.path.startswith(WATCHED)
        if watched:
            self.queries[request.path] += 1
        if self.mode == "forbids":
            return web.Response(status=403, text="rpc error making call: ACL not found")
        if self.mode == "fails":
            return web.Response(status=500, text="No cluster leader")
        if self.mode == "half-open":
            await asyncio.sleep(3600)
        query = dict(request.query)
        if watched and self.mode not in ("good", "forgets"):
            query.pop("index", None)  # such a registry does not block
        async with self._session.request(
            request.method, self._upstream + request.path, params=query, data=await request.read()
        ) as answer:
            body = await answer.read()
            index = answer.headers.get("X-Consul-Index", "1")
        # While it blocked, it may have broken.
        if watched and self.mode == "empty":
            body, index = (b"{}" if request.path.endswith("services") else b"[]"), str(int(index) + 1000)
        elif watched and self.mode == "index goes back":
            index = "5"
        elif watched and self.mode == "index is 0":
            index = "0"
        elif watched and self.mode == "two servers disagree":
            self._turn += 1
            if self._turn % 2:  # the other one is behind, and has not heard of anybody
                body, index = (b"{}" if request.path.endswith("services") else b"[]"), str(int(index) - 1)
        headers = {"X-Consul-Index": index, "Content-Type": "application/json"}
        return web.Response(status=answer.status, body=body, headers=headers)


FAULTS = (
    "refuses",
    "forbids",
    "fails",
    "half-open",
    "empty",
    "index goes back",
    "index is 0",
    "does not block",
    "two servers disagree",
    "forgets",
)
