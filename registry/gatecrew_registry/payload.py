"""Entries as Consul's HTTP API writes them: what a registration sends, what a health query answers."""

from collections.abc import Iterable
from typing import Any, cast

from .entry import Check, Entry, RegistryError, Status

CHECK_INTERVAL = "5s"
CHECK_TIMEOUT = "1s"
TTL_S = 15.0
NOTE_TTL_S = 30.0
MAX_NOTE = 512  # characters
# Links see a dead worker in seconds. This only tidies up after one that never comes back, so it must be much longer
# than any outage: an entry that is reaped too early is an outage of its own.
DEREGISTER_AFTER = "10m"


def check_id(entry_id: str) -> str:
    return f"service:{entry_id}"


def maintenance_id(entry_id: str) -> str:
    """The check that an instance has for as long as it is in maintenance mode."""
    return f"_service_maintenance:{entry_id}"


def check_definition(entry: Entry) -> dict[str, Any] | None:
    """The check of a registration. Its status is the initial one: a re-registration does not change the current."""
    common = {
        "CheckID": check_id(entry.id),
        "Name": f"Service '{entry.service}' check",
        "Status": entry.status,
        "DeregisterCriticalServiceAfter": DEREGISTER_AFTER,
    }
    if entry.check == "none":
        return None
    if entry.check == "ttl":
        return {**common, "TTL": f"{TTL_S:g}s"}
    target = f"{entry.address}/{entry.check_service}" if entry.check_service else entry.address
    return {
        **common,
        "GRPC": target,
        "Interval": CHECK_INTERVAL,
        "Timeout": CHECK_TIMEOUT,
        "FailuresBeforeCritical": 2,
    }


def note_id(entry_id: str) -> str:
    return f"{check_id(entry_id)}:note"


def note_definition(entry: Entry) -> dict[str, Any]:
    """A check whose output is what the entry's owner says of itself; it is critical when nothing is said any more."""
    return {
        "CheckID": note_id(entry.id),
        "Name": f"What '{entry.service}' says of itself",
        "Status": entry.status,
        "TTL": f"{NOTE_TTL_S:g}s",
    }


def parse_services(data: Any) -> dict[str, tuple[str, ...]]:
    """Service names and their tags from `/v1/catalog/services`.

    Raises:
        RegistryError: the answer is not of that form.
    """
    if not isinstance(data, dict):
        raise RegistryError("the registry's list of services is not a JSON object")
    return {name: tuple(tag for tag in tags or () if isinstance(tag, str)) for name, tags in data.items()}


def parse_instances(data: Any) -> dict[str, Entry]:
    """Instances by id from `/v1/health/service/:name`; those without a port are left out, nobody can reach them.

    Raises:
        RegistryError: the answer is not of that form.
    """
    try:
        entries = [_parse_instance(row["Node"], row["Service"], row.get("Checks") or ()) for row in data]
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise RegistryError(f"the registry's list of instances is not understood: {error!r}") from None
    return {entry.id: entry for entry in sorted(entries, key=lambda entry: entry.id) if 0 < entry.port < 65536}


def _parse_instance(node: dict[str, Any], service: dict[str, Any], checks: Iterable[dict[str, Any]]) -> Entry:
    own = [row for row in checks if row.get("ServiceID") == service["ID"]]
    types = {row.get("Type") for row in own if row.get("CheckID") != note_id(service["ID"])}
    check: Check = "grpc" if "grpc" in types else "ttl" if "ttl" in types else "none"
    return Entry(
        service=str(service["Service"]),
        id=str(service["ID"]),
        host=str(service.get("Address") or node["Address"]),
        port=int(service.get("Port") or 0),
        tags=tuple(map(str, service.get("Tags") or ())),
        meta={str(key): str(value) for key, value in (service.get("Meta") or {}).items()},
        check=check,
        status=worst_status(row.get("Status") for row in checks),
        maintenance=any(row.get("CheckID") in ("_node_maintenance", maintenance_id(service["ID"])) for row in checks),
    )


def worst_status(statuses: Iterable[str | None]) -> Status:
    """The status of an instance is the worst of its and its node's checks."""
    seen = set(statuses)
    return cast(Status, next((each for each in ("critical", "warning") if each in seen), "passing"))
