"""A registry that misbehaves on request.

It knows instances and answers what a watch and a registration ask, blocking queries too. `fault` takes the place of
the answer to a query, or of every answer with `fault_all`.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable

from aiohttp import web

from gatecrew_registry import Entry

Fault = Callable[[web.Request], Awaitable[web.StreamResponse]]


def status(code: int, text: str = "") -> Fault:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=code, text=text)

    return answer


def text(body: str, index: int = 1) -> Fault:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(text=body, headers={"X-Consul-Index": str(index)})

    return answer


async def silence(_: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


class FakeConsul:
    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.index = 100
        self.shown_index: int | None = None  # in place of the true one
        self.blocks = True
        self.fault: Fault | None = None
        self.fault_all: Fault | None = None
        self.queries: list[str] = []
        self.faulty_answers = 0
        self.open_queries = 0
        self.most_open_queries = 0
        self.tokens: list[str | None] = []
        self._changed = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        """Serve; at the same address if it was stopped."""
        app = web.Application(middlewares=[self._middleware])
        app.add_routes(
            [
                web.get("/v1/catalog/services", self._services),
                web.get("/v1/health/service/{name}", self._instances),
                web.put("/v1/agent/service/register", self._register),
                web.put("/v1/agent/service/deregister/{id}", self._deregister),
                web.get("/v1/agent/service/{id}", self._service),
                web.put("/v1/agent/check/pass/{id}", self._pass),
            ]
        )
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=tls).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Refuse connections, and end those that are open."""
        if self._runner is not None:
            self.bump()
            await self._runner.cleanup()
            self._runner = None

    def set(self, *entries: Entry) -> None:
        """Know exactly these from now on."""
        self.entries = {entry.id: entry for entry in entries}
        self.bump()

    def bump(self) -> None:
        """Wake all blocking queries."""
        self.index += 1
        self._changed.set()
        self._changed = asyncio.Event()

    @web.middleware
    async def _middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        is_query = request.path.startswith(("/v1/catalog", "/v1/health"))
        self.tokens.append(request.headers.get("X-Consul-Token"))
        if not is_query:
            if self.fault_all is not None:
                self.faulty_answers += 1
                return await self.fault_all(request)
            return await handler(request)
        self.queries.append(request.path_qs)
        self.open_queries += 1
        self.most_open_queries = max(self.most_open_queries, self.open_queries)
        try:
            fault = self.fault_all or self.fault
            if fault is not None:
                self.faulty_answers += 1
                return await fault(request)
            answer = await handler(request)
            # A fault that began while the query was blocked is in its answer already.
            fault = self.fault_all or self.fault
            if fault is not None:
                self.faulty_answers += 1
                return await fault(request)
            return answer
        finally:
            self.open_queries -= 1

    async def _block(self, request: web.Request) -> dict[str, str]:
        asked = int(request.query.get("index", "0"))
        if self.blocks and asked >= self.index:
            try:
                async with asyncio.timeout(float(request.query["wait"].removesuffix("s"))):
                    await self._changed.wait()
            except TimeoutError:
                pass
        return {"X-Consul-Index": str(self.index if self.shown_index is None else self.shown_index)}

    async def _services(self, request: web.Request) -> web.Response:
        headers = await self._block(request)
        services: dict[str, list[str]] = {"consul": []}
        for entry in self.entries.values():
            services.setdefault(entry.service, []).extend(entry.tags)
        return web.json_response(services, headers=headers)

    async def _instances(self, request: web.Request) -> web.Response:
        headers = await self._block(request)
        rows = [
            {
                "Node": {"Node": "fake", "Address": "127.0.0.1"},
                "Service": {
                    "ID": entry.id,
                    "Service": entry.service,
                    "Address": entry.host,
                    "Port": entry.port,
                    "Tags": list(entry.tags),
                    "Meta": dict(entry.meta),
                },
                "Checks": [],
            }
            for entry in self.entries.values()
            if entry.service == request.match_info["name"]
        ]
        return web.json_response(rows, headers=headers)

    async def _register(self, request: web.Request) -> web.Response:
        body = await request.json()
        entry = Entry(service=body["name"], id=body["id"], host=body["address"], port=body["port"])
        self.set(*self.entries.values(), entry)
        return web.Response()

    async def _deregister(self, request: web.Request) -> web.Response:
        self.set(*(entry for entry in self.entries.values() if entry.id != request.match_info["id"]))
        return web.Response()

    async def _service(self, request: web.Request) -> web.Response:
        found = request.match_info["id"] in self.entries
        return web.json_response({}) if found else web.Response(status=404, text="unknown service ID")

    async def _pass(self, request: web.Request) -> web.Response:
        found = request.match_info["id"].removeprefix("service:") in self.entries
        return web.Response() if found else web.Response(status=500, text="no such TTL check")
