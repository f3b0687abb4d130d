"""The JSON that Consul answers with, from what the embedded registry knows. Pure."""

from dataclasses import dataclass
from typing import Any

import gatecrew

from .catalog import Instance

DATACENTER = "dc1"
_WEIGHTS = {"Passing": 1, "Warning": 1}


@dataclass(frozen=True, slots=True)
class Node:
    """The one machine of the embedded registry."""

    name: str
    address: str


def agent_service(instance: Instance) -> dict[str, Any]:
    definition = instance.definition
    return {
        "ID": definition.id,
        "Service": definition.name,
        "Tags": list(definition.tags),
        "Meta": dict(definition.meta),
        "Port": definition.port,
        "Address": definition.address,
        "Weights": _WEIGHTS,
        "EnableTagOverride": False,
        "Datacenter": DATACENTER,
    }


def checks(node: Node, instance: Instance) -> list[dict[str, Any]]:
    return [
        {
            "Node": node.name,
            "CheckID": check.definition.check_id,
            "Name": check.definition.name,
            "Status": check.status,
            "Notes": "",
            "Output": check.output,
            "ServiceID": instance.definition.id,
            "ServiceName": instance.definition.name,
            "ServiceTags": list(instance.definition.tags),
            "Type": check.definition.type,
        }
        for check in instance.checks.values()
    ]


def health_service(node: Node, instance: Instance) -> dict[str, Any]:
    service = agent_service(instance)
    del service["Datacenter"]
    return {"Node": _node(node), "Service": service | _indexes(instance), "Checks": checks(node, instance)}


def catalog_service(node: Node, instance: Instance) -> dict[str, Any]:
    service = {f"Service{key}": value for key, value in agent_service(instance).items()}
    service["ServiceName"] = service.pop("ServiceService")
    del service["ServiceDatacenter"]
    return _node(node) | service | _indexes(instance)


def agent_self(node: Node) -> dict[str, Any]:
    config = {
        "Datacenter": DATACENTER,
        "NodeName": node.name,
        "Server": True,
        "Version": f"gatecrew-{gatecrew.__version__}",
    }
    return {"Config": config, "Member": {"Name": node.name, "Addr": node.address, "Status": 1}}


def _node(node: Node) -> dict[str, Any]:
    return {"Node": node.name, "Address": node.address, "Datacenter": DATACENTER, "Meta": {}}


def _indexes(instance: Instance) -> dict[str, int]:
    return {"CreateIndex": instance.created_at, "ModifyIndex": instance.changed_at}
