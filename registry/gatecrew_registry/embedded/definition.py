"""What a registration may say: Consul's JSON for a service and its checks, as far as the embedded registry goes.

Pure: bytes in, definitions or `Refused` out. Names of fields are read as Consul reads them, in any case and with or
without underscores. A field that Consul does not know is refused, and so is a check that would not be run; fields that
Consul has and we have no use for are passed over.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from ..entry import Status

MAX_TEXT = 512  # characters of a name, an id, an address, a tag: as long as Consul's longest meta value
MAX_TAGS = 64
MAX_META = 64
MAX_META_KEY = 128
MAX_CHECKS = 16
MIN_INTERVAL_S = 1.0  # as Consul's

_T = TypeVar("_T")
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)")
_STATUSES: dict[str, Status] = {"passing": "passing", "warning": "warning", "critical": "critical"}
_UNUSED_SERVICE_FIELDS = {"kind", "taggedaddresses", "socketpath", "weights", "token", "enabletagoverride", "proxy"}
_UNUSED_SERVICE_FIELDS |= {"connect", "namespace", "partition", "locality", "ports"}
_UNUSED_CHECK_FIELDS = {"notes", "successbeforepassing", "failuresbeforewarning", "outputmaxsize", "tlsservername"}
_OTHER_CHECKS = {"http", "tcp", "udp", "h2ping", "script", "args", "scriptargs", "dockercontainerid", "osservice"}
_OTHER_CHECKS |= {"aliasservice", "aliasnode"}


class Refused(Exception):
    """A request that cannot be met: the HTTP status and the text that say why."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckDefinition:
    """One check: of type TTL if `ttl_s` is set, of type gRPC if `target` is; one with neither stays as it is."""

    check_id: str
    name: str
    status: Status
    deregister_after_s: float  # 0: never
    ttl_s: float = 0.0
    target: str = ""  # host:port
    health_service: str = ""
    interval_s: float = 0.0
    timeout_s: float = 0.0
    failures_before_critical: int = 0  # so many failures in a row make it critical

    @property
    def type(self) -> str:
        return "ttl" if self.ttl_s else "grpc" if self.target else "maintenance"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceDefinition:
    name: str
    id: str
    address: str
    port: int
    tags: tuple[str, ...]
    meta: Mapping[str, str]


def parse_duration(text: str) -> float:
    """Seconds of a duration as Go writes it: `10s`, `5m`, `1h30m`, `1.5s`.

    Raises:
        ValueError: it is none.
    """
    parts = list(_PART.finditer(text))
    if text == "0":
        return 0.0
    if not parts or "".join(part[0] for part in parts) != text:
        raise ValueError(f'time: invalid duration "{text}"')
    return sum(float(part[1]) * _UNITS_S[part[2]] for part in parts)


def parse_registration(body: bytes) -> tuple[ServiceDefinition, tuple[CheckDefinition, ...]]:
    """Read the body of a service registration.

    Raises:
        Refused: with status 400, it is not one that we can serve.
    """
    fields = _Fields(parse_object(body), "service")
    name = fields.text("name")
    if not name:
        _refuse("Missing service name")
    service = ServiceDefinition(
        name=name,
        id=fields.text("id") or name,
        address=fields.text("address"),
        port=fields.integer("port"),
        tags=_tags(fields.pop("tags", list)),
        meta=_meta(fields.pop("meta", dict)),
    )
    raw = [fields.pop("check", dict), *(fields.pop("checks", list) or ())]
    raw = [each for each in raw if each is not None]
    if len(raw) > MAX_CHECKS:
        _refuse(f"Invalid check: more than {MAX_CHECKS}")
    fields.finish(_UNUSED_SERVICE_FIELDS)
    checks = []
    for number, each in enumerate(raw, 1):
        if not isinstance(each, dict):
            _refuse("Request decode failed: a check is not an object")
        default_id = f"service:{service.id}" + (f":{number}" if len(raw) > 1 else "")
        checks.append(_parse_check(_Fields(each, "check"), service.name, default_id))
    return service, tuple(checks)


def parse_object(body: bytes) -> dict[str, Any]:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        _refuse(f"Request decode failed: {error}")
    if not isinstance(data, dict):
        _refuse("Request decode failed: not a JSON object")
    return data


def parse_status(value: object) -> Status:
    if not isinstance(value, str) or value not in _STATUSES:
        _refuse("Status for checks must 'passing', 'warning', 'critical'")
    return _STATUSES[value]


def _parse_check(fields: "_Fields", service: str, default_id: str) -> CheckDefinition:
    common: dict[str, Any] = {
        "check_id": fields.text("checkid") or fields.text("id") or default_id,
        "name": fields.text("name") or f"Service '{service}' check",
        "status": parse_status(fields.text("status") or "critical"),
        "deregister_after_s": fields.duration("deregistercriticalserviceafter"),
    }
    ttl_s, interval_s, timeout_s = (fields.duration(key) for key in ("ttl", "interval", "timeout"))
    target, _, health_service = fields.text("grpc").partition("/")
    failures = fields.integer("failuresbeforecritical")
    if fields.pop("grpcusetls", bool) or fields.pop("tlsskipverify", bool):
        _refuse("Invalid check: the embedded registry's gRPC checks do not speak TLS, use a TTL check")
    if others := sorted(_OTHER_CHECKS & fields.names):
        _refuse(f"Invalid check: the embedded registry runs gRPC and TTL checks, not {others[0]}")
    fields.finish(_UNUSED_CHECK_FIELDS)
    if not target:
        if ttl_s <= 0:
            _refuse("Invalid check: TTL must be > 0 for TTL checks")
        return CheckDefinition(**common, ttl_s=ttl_s)
    if ttl_s > 0:
        _refuse("Invalid check: a check is of one type, TTL or gRPC")
    if interval_s <= 0:
        _refuse("Invalid check: Interval must be > 0 for gRPC checks")
    if not re.fullmatch(r".+:\d{1,5}", target):
        _refuse(f"Invalid check: GRPC is not of the form host:port/service: {target}")
    return CheckDefinition(
        **common,
        target=target,
        health_service=health_service,
        interval_s=max(MIN_INTERVAL_S, interval_s),
        timeout_s=timeout_s or 10.0,  # Consul's default
        failures_before_critical=max(0, failures),
    )


class _Fields:
    """A JSON object's fields, taken out one by one; what is left in the end nobody knew."""

    def __init__(self, data: Mapping[str, Any], what: str) -> None:
        self._what = what
        self._original = {key.lower().replace("_", ""): key for key in data}
        self._values = {key.lower().replace("_", ""): value for key, value in data.items()}

    @property
    def names(self) -> set[str]:
        return {name for name, value in self._values.items() if value}

    def pop(self, name: str, kind: Callable[[], _T]) -> _T | None:
        value = self._values.pop(name, None)
        if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):  # type: ignore[arg-type]
            _refuse(f"Request decode failed: cannot use {json.dumps(value)[:64]} as {self._what} field {name}")
        return value

    def text(self, name: str) -> str:
        value = self.pop(name, str) or ""
        if len(value) > MAX_TEXT:
            _refuse(f"Request decode failed: {self._what} field {name} is longer than {MAX_TEXT} characters")
        return value

    def integer(self, name: str) -> int:
        return self.pop(name, int) or 0

    def duration(self, name: str) -> float:
        try:
            return parse_duration(self.text(name) or "0")
        except ValueError as error:
            _refuse(f"Request decode failed: {error}")

    def finish(self, unused: set[str]) -> None:
        unknown = [self._original[name] for name in self._values if name not in unused | _OTHER_CHECKS]
        if unknown:
            _refuse(f'Request decode failed: json: unknown field "{unknown[0]}"')


def _tags(tags: list[Any] | None) -> tuple[str, ...]:
    tags = tags or []
    if len(tags) > MAX_TAGS or not all(isinstance(tag, str) and len(tag) <= MAX_TEXT for tag in tags):
        _refuse(f"Invalid Service Tags: at most {MAX_TAGS} texts of at most {MAX_TEXT} characters")
    return tuple(dict.fromkeys(tags))


def _meta(meta: dict[str, Any] | None) -> dict[str, str]:
    meta = meta or {}
    if len(meta) > MAX_META:
        _refuse(f"Invalid Service Meta: Node metadata cannot contain more than {MAX_META} key/value pairs")
    for key, value in meta.items():
        if not isinstance(value, str):
            _refuse(f"Request decode failed: cannot use {json.dumps(value)[:64]} as Meta value")
        if problem := _meta_problem(key, value):
            _refuse(f"Invalid Service Meta: Couldn't load metadata pair ('{key}', '{value}'): {problem}")
    return meta


def _meta_problem(key: str, value: str) -> str | None:
    if not key:
        return "Key cannot be blank"
    if not re.fullmatch(r"[A-Za-z0-9_-]+", key):
        return "Key contains invalid characters"
    if len(key) > MAX_META_KEY:
        return f"Key is too long (limit: {MAX_META_KEY} characters)"
    if len(value) > MAX_TEXT:
        return f"Value is too long (limit: {MAX_TEXT} characters)"
    return None


def _refuse(text: str) -> NoReturn:
    raise Refused(400, text)
