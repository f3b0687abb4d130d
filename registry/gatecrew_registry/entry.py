"""One instance of a service as the registry lists it, and the one error that leaves this room."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Check = Literal["grpc", "ttl", "none"]
Status = Literal["passing", "warning", "critical"]

_NAME = re.compile(r"(?!\.+$)[A-Za-z0-9._-]{1,512}")


def is_name(service: str) -> bool:
    """Whether a service may be called so: of the letters that a path carries as they are, and not `.` or `..`."""
    return _NAME.fullmatch(service) is not None


class RegistryError(Exception):
    """The registry, or what was said about it, is not usable; the text is one clear line."""


class NoAnswer(RegistryError):
    """Nobody listens there, or nothing came back in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One instance of a service.

    `check_service` is the name that a gRPC check asks the instance's health service about ("": all of it). A registry
    does not tell it to those who watch, so it is empty there. `maintenance`: people have set it, or its node, to
    maintenance mode.
    """

    service: str
    id: str
    host: str
    port: int
    tags: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict, hash=False)
    check: Check = "grpc"
    check_service: str = ""
    status: Status = "passing"
    maintenance: bool = False

    @property
    def address(self) -> str:
        """`host:port`, an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
