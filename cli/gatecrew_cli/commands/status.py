"""`gatecrew status`: who is there."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import click

from gatecrew_gateway.net.crew import WORKER_TAG
from gatecrew_gateway.net.peers import GATEWAY_TAG
from gatecrew_gateway.wording import counted
from gatecrew_registry import Entry

from ..errors import Failed
from ..gateways import Heard, ask_all
from ..loop import run
from ..options import ADDRESS
from ..ports import join
from ..registry_access import list_entries, registry_settings
from ..terminal import visible


@click.command("status")
@click.option("--gateway-service", type=ADDRESS, help="Ask this one gateway, by its service address; no registry.")
@click.option("--json", "as_json", is_flag=True)
def command(gateway_service: tuple[str, int] | None, as_json: bool) -> None:
    """Show gateways, their listeners and sessions, their links to workers, and workers that no gateway is linked to.

    The gateways are those of the registry: CONSUL_HTTP_ADDR, 127.0.0.1:8500 without it. Exit code 1 if one is silent.
    """
    picture = run(_look(join(*gateway_service) if gateway_service else None), "asyncio")
    print(json.dumps(_as_dict(picture), indent=2) if as_json else "\n".join(map(visible, _as_lines(picture))))
    if picture.heard.silent:
        raise Failed("\n".join(picture.heard.silent.values()))


@dataclass(frozen=True, slots=True)
class _Picture:
    heard: Heard
    not_linked: list[Entry]


async def _look(gateway_service: str | None) -> _Picture:
    workers: list[Entry] = []
    addresses = [gateway_service] if gateway_service else []
    if gateway_service is None:
        settings = registry_settings()
        gateways, workers = await list_entries(settings, GATEWAY_TAG, WORKER_TAG)
        addresses = [entry.address for entry in gateways]
        if not addresses:
            raise Failed(f"no gateway is registered at {settings.url}; is CONSUL_HTTP_ADDR the right one?")
    heard = await ask_all(addresses)
    linked = {link.worker_id for answer in heard.gateways.values() for link in answer.links if link.state == "ready"}
    return _Picture(heard, [entry for entry in workers if entry.id not in linked])


def _as_dict(picture: _Picture) -> dict[str, object]:
    return {
        "gateways": [
            {
                "gateway_id": answer.gateway_id,
                "service_address": address,
                "version": answer.version,
                "process_id": answer.process_id,
                "uptime_ms": answer.uptime_ms,
                "draining": answer.draining,
                "listeners": [
                    {"name": each.name, "address": each.address, "sessions": each.sessions} for each in answer.listeners
                ],
                "links": [
                    {
                        "service": each.service,
                        "worker_id": each.worker_id,
                        "address": each.address,
                        "incarnation": each.incarnation,
                        "state": each.state,
                        "in_flight": each.in_flight,
                        "sent": each.sent,
                        "answered": each.answered,
                        "commands": list(each.commands),
                        "unary": each.unary,
                        "limit": each.limit,
                        "status_text": each.status_text,
                    }
                    for each in answer.links
                ],
                "counters": dict(answer.counters),
            }
            for address, answer in picture.heard.gateways.items()
        ],
        "silent_gateways": [{"service_address": key, "reason": reason} for key, reason in picture.heard.silent.items()],
        "workers_not_linked": [
            {"service": each.service, "worker_id": each.id, "address": each.address, "registry_status": each.status}
            for each in picture.not_linked
        ],
    }


def _as_lines(picture: _Picture) -> Iterator[str]:
    for address, answer in picture.heard.gateways.items():
        state = "draining" if answer.draining else "up"
        yield (
            f"gateway {answer.gateway_id}  service {address}  {state} for {answer.uptime_ms / 1000:.0f} s"
            f"  pid {answer.process_id}"
        )
        if dead_letters := answer.counters.get("dead_letters", 0):
            yield f"  {counted(dead_letters, 'dead letter')}: gatecrew dead-letters list"
        for listener in answer.listeners:
            yield f"  listener {listener.name}  {listener.address}  {listener.sessions} sessions"
        for link in answer.links:
            yield (
                f"  worker {link.worker_id}  {link.address}  {link.state}  {link.in_flight} in flight"
                f"  {link.sent} sent  {link.answered} answered"
                + (f"  ({link.status_text})" if link.status_text else "")
            )
    for worker in picture.not_linked:
        yield f"not linked: worker {worker.id}  {worker.address}  {worker.status} in the registry"
