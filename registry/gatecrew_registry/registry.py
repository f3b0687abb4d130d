"""The client of one Consul agent, or of the embedded registry, which answers the same API.

This is the only file that knows py-consul. Its HTTP client is replaced here, because the original leaks foreign errors,
prefers CONSUL_HTTP_TOKEN to the token it was given, sends none with some calls, ends a blocking query before its
answer can come, and warns of its own deprecated arguments.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Self, TypeVar
from urllib.parse import quote

import aiohttp
from consul import aio, base
from consul.callback import CB

from .entry import Entry, NoAnswer, RegistryError
from .payload import MAX_NOTE, check_definition, check_id, note_definition, note_id, parse_instances, parse_services
from .settings import RegistrySettings
from .snapshot import Snapshot
from .watch import Answer, Timing, Watch

REQUEST_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 5.0
MAX_REASON = 200

_Data = TypeVar("_Data")


class _HttpClient(aio.HTTPClient):  # type: ignore[misc]  # py-consul is not typed
    def __init__(self, settings: RegistrySettings) -> None:
        base.HTTPClient.__init__(self, settings.host, settings.port)
        self.base_uri = settings.url
        self._settings = settings
        # No limit: each watched service keeps one connection for its blocking query.
        connector = aiohttp.TCPConnector(limit=0, ssl=settings.ssl_context() or True)
        self._session = aiohttp.ClientSession(connector=connector)

    async def _request(
        self,
        callback: Callable[[Any], Any],
        method: str,
        uri: str,
        headers: Mapping[str, str] | None,
        data: str | bytes | None = None,
        connections_timeout: float | None = None,
        raw: bool = False,
    ) -> Any:
        token = self._settings.read_token()
        timeout = aiohttp.ClientTimeout(total=connections_timeout or REQUEST_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S)
        try:
            async with self._session.request(
                method,
                uri,
                headers={"X-Consul-Token": token} if token else {},
                data=data,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                body = await response.text("utf-8")
            return callback(base.Response(response.status, response.headers, body))
        except TimeoutError:
            raise NoAnswer(f"registry {self._settings.url}: no answer within {timeout.total:g} s") from None
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, ConnectionRefusedError):
                raise NoAnswer(f"registry {self._settings.url} does not answer (connection refused)") from None
            raise self._error(str(error)) from None
        except Exception as error:  # whatever aiohttp, py-consul and a strange answer come up with
            raise self._error(str(error) or type(error).__name__) from None

    def _error(self, reason: str) -> RegistryError:
        return RegistryError(f"registry {self._settings.url}: {' '.join(reason.split())[:MAX_REASON]}")


class _Consul(aio.Consul):  # type: ignore[misc]  # py-consul is not typed
    def __init__(self, settings: RegistrySettings) -> None:
        self._settings = settings
        super().__init__(settings.host, settings.port, scheme="http", verify=True)

    def http_connect(self, *_: Any, **__: Any) -> _HttpClient:
        return _HttpClient(self._settings)


class Registry:
    """One connection pool to one registry; build it inside a running event loop.

    All methods raise RegistryError and nothing else, except `watch`, which does not fail.
    """

    def __init__(self, settings: RegistrySettings) -> None:
        self.settings = settings
        self._consul = _Consul(settings)
        self._watches: set[Watch] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End all watches and close the connections."""
        for watch in tuple(self._watches):
            await watch.aclose()
        await self._consul.http.close()

    async def register(self, entry: Entry, *, with_note: bool = False, again: bool = False) -> None:
        """Add the entry, or replace the one with the same id; its current health stays as it is.

        Whoever registers it `with_note` must `note` something every 30 s. `again`: it is ours already, and may have
        been given checks by others since, such as maintenance mode; they stay. Else only the entry's own remain.
        """
        first, others = check_definition(entry), [note_definition(entry)] if with_note else []
        if first is None and others:
            first = others.pop()
        await self._consul.agent.service.register(
            entry.service,
            service_id=entry.id,
            address=entry.host,
            port=entry.port,
            tags=list(entry.tags),
            meta=dict(entry.meta),
            check=first,
            extra_checks=others,
            replace_existing_checks=not again,
        )

    async def deregister(self, entry_id: str) -> None:
        """Remove the entry; one that is not there is no error."""
        if await self.is_registered(entry_id):
            await self._consul.agent.service.deregister(entry_id)

    async def is_registered(self, entry_id: str) -> bool:
        return await self._consul.agent.service_definition(entry_id) is not None

    async def renew(self, entry_id: str) -> None:
        """Pass the TTL check of an entry registered with `check="ttl"`."""
        if not await self._consul.agent.check.ttl_pass(check_id(entry_id)):
            raise RegistryError(f"registry {self.settings.url}: {entry_id!r} has no TTL check")

    async def note(self, entry_id: str, text: str) -> None:
        """Say something of an entry registered `with_note`: people read it as the output of a check."""
        if not await self._consul.agent.check.ttl_pass(note_id(entry_id), notes=text[:MAX_NOTE]):
            raise RegistryError(f"registry {self.settings.url}: {entry_id!r} has no check for notes")

    async def leader(self) -> str:
        """The address of the cluster's leader; "" while there is none."""
        return str(await self._consul.status.leader() or "")

    async def self_name(self) -> str:
        """The node name of the agent that we talk to."""
        answer = await self._consul.agent.self()
        try:
            return str(answer["Config"]["NodeName"])
        except (TypeError, KeyError):
            raise RegistryError(f"registry {self.settings.url}: does not say who it is; is it Consul?") from None

    async def watch(
        self,
        tag: str,
        timing: Timing = Timing(),  # noqa: B008  # immutable
    ) -> AsyncGenerator[Snapshot, None]:
        """Yield the instances that have `tag`, by service: all of them at first, then again after each real change.

        Instances of every health state are listed. It never raises for a registry that is down, empty or wrong: the
        last known good list stays, as `LastKnownGood` says. Ends when the registry is closed. A reader that is slow
        gets the newest list, not all of them.
        """
        watch = Watch(self, tag, timing)
        self._watches.add(watch)
        try:
            async for snapshot in watch.snapshots():
                yield snapshot
        finally:
            self._watches.discard(watch)
            await watch.aclose()

    async def query_services(self, index: int, timing: Timing) -> Answer[dict[str, tuple[str, ...]]]:
        """Ask for all service names and their tags; block until the list is newer than `index`."""
        return await self._query("/v1/catalog/services", {}, index, timing, parse_services)

    async def query_instances(self, service: str, tag: str, index: int, timing: Timing) -> Answer[dict[str, Entry]]:
        """Ask for the instances of a service that have the tag; block until the list is newer than `index`."""
        path = f"/v1/health/service/{quote(service, safe='')}"
        return await self._query(path, {"tag": tag}, index, timing, parse_instances)

    async def _query(
        self, path: str, params: dict[str, str], index: int, timing: Timing, parse: Callable[[Any], _Data]
    ) -> Answer[_Data]:
        # Not by py-consul's methods: `health.service` takes no time limit of its own, and the one of its client is
        # shorter than the time that a query may block.
        if index > 0:
            params = {**params, "index": str(index), "wait": f"{timing.wait_s:g}s"}
        timeout_s = timing.timeout_s if index > 0 else REQUEST_TIMEOUT_S

        def read(response: Any) -> Answer[_Data]:
            number, data = CB.json(index=True)(response)
            return Answer(int(number), parse(data))

        answer: Answer[_Data] = await self._consul.http.get(
            read, path, params=list(params.items()), connections_timeout=timeout_s
        )
        return answer
