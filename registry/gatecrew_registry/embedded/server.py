"""The HTTP side of the embedded registry: Consul's paths, parameters, headers and errors, on aiohttp.web."""

import socket
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from ..payload import maintenance_id
from . import answers
from .catalog import Catalog, Instance
from .definition import (
    CheckDefinition,
    Refused,
    parse_duration,
    parse_object,
    parse_registration,
    parse_status,
)
from .page import render_page

MAX_BODY_BYTES = 64 * 1024
DEFAULT_WAIT_S = 300.0
MAX_WAIT_S = 600.0
SHUTDOWN_S = 1.0
_PAGE_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class EmbeddedRegistry:
    """A registry that listens on one address. Use it from one event loop: `start`, then `aclose`."""

    def __init__(self, host: str = "127.0.0.1", port: int = 8500) -> None:
        self._host = host
        self._port = port
        self._address = ""
        self._catalog = Catalog()
        self._node = answers.Node(socket.gethostname(), "127.0.0.1")
        self._runner: web.AppRunner | None = None

    @property
    def address(self) -> str:
        """`host:port` as bound; after `start`."""
        return self._address

    async def start(self) -> None:
        """Bind and serve.

        Raises:
            OSError: the address cannot be bound.
        """
        app = web.Application(middlewares=[_refusals_as_text], client_max_size=MAX_BODY_BYTES)
        app.add_routes(self._routes())
        # A client that went away must not keep its blocking query.
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        host, port = runner.addresses[0][:2]
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if host not in ("0.0.0.0", "::"):
            self._node = answers.Node(self._node.name, host)

    async def aclose(self) -> None:
        self._catalog.release()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        await self._catalog.aclose()

    def _routes(self) -> list[web.RouteDef]:
        return [
            web.put("/v1/agent/service/register", self._register),
            web.put("/v1/agent/service/deregister/{id:.+}", self._deregister),
            web.put("/v1/agent/service/maintenance/{id:.+}", self._maintenance),
            web.get("/v1/agent/service/{id:.+}", self._agent_service),
            web.get("/v1/agent/services", self._agent_services),
            web.get("/v1/agent/checks", self._agent_checks),
            web.put("/v1/agent/check/{verb:pass|warn|fail|update}/{id:.+}", self._check_report),
            web.get("/v1/agent/self", self._agent_self),
            web.get("/v1/catalog/services", self._catalog_services),
            web.get("/v1/catalog/service/{name}", self._catalog_service),
            web.get("/v1/health/service/{name}", self._health_service),
            web.get("/v1/health/checks/{name}", self._health_checks),
            web.get("/v1/health/state/{state}", self._health_state),
            web.get("/v1/status/leader", self._leader),
            web.get("/v1/status/peers", self._peers),
            web.get("/ui/", self._page),
            web.get("/ui", _to_page),
            web.get("/", _to_page),
        ]

    # The agent: what is registered here.

    async def _register(self, request: web.Request) -> web.Response:
        definition, checks = parse_registration(await request.read())
        self._catalog.register(definition, checks, _flag(request, "replace-existing-checks"))
        return web.Response()

    async def _deregister(self, request: web.Request) -> web.Response:
        entry_id = request.match_info["id"]
        if not self._catalog.deregister(entry_id):
            hint = "Ensure that the service ID is passed, not the service name."
            raise Refused(404, f'Unknown service ID "{entry_id}". {hint}')
        return web.Response()

    async def _maintenance(self, request: web.Request) -> web.Response:
        instance = self._instance(request)
        enable = request.query.get("enable", "")
        if enable not in ("true", "false"):
            raise Refused(400, "Missing value for enable" if not enable else "Invalid value for enable")
        check_id = maintenance_id(instance.definition.id)
        if enable == "false":
            self._catalog.remove_check(instance, check_id)
        else:
            check = CheckDefinition(
                check_id=check_id, name="Service Maintenance Mode", status="critical", deregister_after_s=0.0
            )
            self._catalog.add_check(instance, check)
            instance.checks[check_id].output = request.query.get("reason", "")[:512] or "Maintenance mode is enabled"
        return web.Response()

    async def _agent_service(self, request: web.Request) -> web.Response:
        return web.json_response(answers.agent_service(self._instance(request)))

    async def _agent_services(self, request: web.Request) -> web.Response:
        _refuse_filter(request)
        known = self._catalog.instances.items()
        return web.json_response({entry_id: answers.agent_service(instance) for entry_id, instance in known})

    async def _agent_checks(self, request: web.Request) -> web.Response:
        _refuse_filter(request)
        rows = (row for each in self._catalog.instances.values() for row in answers.checks(self._node, each))
        return web.json_response({row["CheckID"]: row for row in rows})

    async def _check_report(self, request: web.Request) -> web.Response:
        check_id, verb = request.match_info["id"], request.match_info["verb"]
        if verb == "update":
            body = parse_object(await request.read())
            status, output = parse_status(body.get("Status")), str(body.get("Output") or "")
        else:
            status = parse_status({"pass": "passing", "warn": "warning", "fail": "critical"}[verb])
            output = request.query.get("note", "")
        check = self._catalog.find_check(check_id)
        if check is None:
            hint = "Ensure that the check ID is passed, not the check name."
            raise Refused(404, f'Unknown check ID "{check_id}". {hint}')
        if not check.definition.ttl_s:
            raise Refused(500, f'CheckID "{check_id}" does not have associated TTL')
        check.report(status, output[:4096])
        return web.Response()

    async def _agent_self(self, _: web.Request) -> web.Response:
        return web.json_response(answers.agent_self(self._node))

    async def _leader(self, _: web.Request) -> web.Response:
        return web.json_response(self._address)

    async def _peers(self, _: web.Request) -> web.Response:
        return web.json_response([self._address])

    # The catalog: queries that can block.

    async def _catalog_services(self, request: web.Request) -> web.Response:
        return await self._blocking(request, self._catalog.services_index, self._catalog.services)

    async def _catalog_service(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return await self._blocking(
            request,
            lambda: self._catalog.service_index(name),
            lambda: [answers.catalog_service(self._node, each) for each in self._tagged(request, name)],
        )

    async def _health_service(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        only_passing = _flag(request, "passing")
        return await self._blocking(
            request,
            lambda: self._catalog.service_index(name),
            lambda: [
                answers.health_service(self._node, each)
                for each in self._tagged(request, name)
                if not only_passing or each.status == "passing"
            ],
        )

    async def _health_checks(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return await self._blocking(
            request,
            lambda: self._catalog.service_index(name),
            lambda: [row for each in self._catalog.of_service(name) for row in answers.checks(self._node, each)],
        )

    async def _health_state(self, request: web.Request) -> web.Response:
        state = request.match_info["state"]
        if state != "any":
            parse_status(state)
        return await self._blocking(
            request,
            self._catalog.index,
            lambda: [
                row
                for each in self._catalog.instances.values()
                for row in answers.checks(self._node, each)
                if state in ("any", row["Status"])
            ],
        )

    async def _blocking(
        self, request: web.Request, index_now: Callable[[], int], answer: Callable[[], Any]
    ) -> web.Response:
        _refuse_filter(request)
        index = _index(request)
        wait_s = _wait_s(request)
        if index > 0:
            await self._catalog.wait(index_now, index, wait_s)
        headers = {
            "X-Consul-Index": str(index_now()),
            "X-Consul-KnownLeader": "true",
            "X-Consul-LastContact": "0",
        }
        return web.json_response(answer(), headers=headers)

    async def _page(self, _: web.Request) -> web.Response:
        text = render_page(self._node.name, self._catalog.instances.values())
        return web.Response(text=text, content_type="text/html", headers=_PAGE_HEADERS)

    def _instance(self, request: web.Request) -> Instance:
        entry_id = request.match_info["id"]
        if entry_id not in self._catalog.instances:
            raise Refused(404, f"unknown service ID: {entry_id}")
        return self._catalog.instances[entry_id]

    def _tagged(self, request: web.Request, name: str) -> list[Instance]:
        tags = set(request.query.getall("tag", []))
        return [each for each in self._catalog.of_service(name) if tags <= set(each.definition.tags)]


@web.middleware
async def _refusals_as_text(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refused as refused:
        return web.Response(status=refused.status, text=str(refused))


async def _to_page(_: web.Request) -> web.Response:
    raise web.HTTPFound("/ui/")


def _flag(request: web.Request, name: str) -> bool:
    """A flag is set by its name alone, too: `?passing`."""
    return request.query.get(name, "false").lower() not in ("false", "0", "f")


def _index(request: web.Request) -> int:
    text = request.query.get("index", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise Refused(400, "Invalid index")
    return int(text)


def _wait_s(request: web.Request) -> float:
    try:
        wait_s = parse_duration(request.query.get("wait", "0"))
    except ValueError:
        raise Refused(400, "Invalid wait time") from None
    return min(wait_s, MAX_WAIT_S) or DEFAULT_WAIT_S


def _refuse_filter(request: web.Request) -> None:
    if "filter" in request.query:
        raise Refused(400, "the embedded registry has no filter expressions")
