"""The one settings object: flags before environment before file before defaults.

It fills the plain dataclasses of `gatecrew_gateway.config`, which hold the limits; here are only the parts that the
command line itself needs. What can't be meant is a UserError with one line for each finding: where, key, problem.
"""

import logging
import os
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from gatecrew_gateway.config import ConfigError, GatewayConfig, ListenerConfig, RouteConfig, check_host

from .environment import unknown
from .errors import UserError
from .findings import explain, path_of, validate
from .layers import Layer, Layers, read_toml
from .ports import parse_address

log = logging.getLogger(__name__)

Port = Annotated[int, Field(ge=0, le=65535)]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """Workers that `gatecrew up` starts."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    target: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")]  # module:object
    count: Annotated[int, Field(ge=1, le=256)] = 1
    host: str = "127.0.0.1"
    port: Port = 0  # of the first; the others follow it. 0: any free one

    def __post_init__(self) -> None:
        check_host("worker", "host", self.host)
        if self.port and self.port + self.count - 1 > 65535:
            raise ConfigError("worker", "port", f"{self.port}, the ports of {self.count} workers end after 65535")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryConfig:
    """Where the registry is. Without an address, `gatecrew up` starts an embedded one."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    address: str = ""  # of a Consul agent, host:port or URL; the environment's CONSUL_HTTP_ADDR goes before a file
    token: SecretStr = SecretStr("")  # CONSUL_HTTP_TOKEN
    ca_cert: str = ""  # path, CONSUL_CACERT
    listen: str = ""  # host:port of the embedded one; empty: 127.0.0.1:8500, or any free port if that is taken

    def __post_init__(self) -> None:
        if self.listen and parse_address(self.listen) is None:
            raise ConfigError("registry", "listen", f"{self.listen!r}, must be HOST:PORT, such as 127.0.0.1:8500")

    def environment(self) -> dict[str, str]:
        """The same for a process, in the variables that Consul users know."""
        known = {
            "CONSUL_HTTP_ADDR": self.address,
            "CONSUL_HTTP_TOKEN": self.token.get_secret_value(),
            "CONSUL_CACERT": self.ca_cert,
        }
        return {key: value for key, value in known.items() if value}


class Settings(BaseSettings):
    """All that a settings file can say; a section a field."""

    model_config = SettingsConfigDict(
        env_prefix="GATECREW_", env_nested_delimiter="__", extra="forbid", frozen=True, hide_input_in_errors=True
    )

    gateway: GatewayConfig = GatewayConfig()
    listener: tuple[ListenerConfig, ...] = (ListenerConfig(),)
    route: tuple[RouteConfig, ...] = ()
    worker: tuple[WorkerConfig, ...] = ()
    registry: RegistryConfig = RegistryConfig()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)  # `load` merges the sources itself, so that an error can say where its value stands

    def gateways(self, count: int = 1) -> list[GatewayConfig]:
        """Settings of so many gateways beside each other on one machine: fixed ports rise by one."""
        whole = replace(self.gateway, listeners=self.listener, routes=self.route)
        if count == 1:
            return [whole]
        return [
            replace(
                whole,
                name=f"{whole.name}-{number + 1}",
                service_port=whole.service_port and whole.service_port + number,
                listeners=tuple(replace(each, port=each.port and each.port + number) for each in whole.listeners),
            )
            for number in range(count)
        ]


def _keys(config: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(config) if field.name not in ("listeners", "routes"))


SECTIONS = {
    "": tuple(Settings.model_fields),
    "gateway": _keys(GatewayConfig),
    "listener": _keys(ListenerConfig),
    "route": _keys(RouteConfig),
    "worker": _keys(WorkerConfig),
    "registry": _keys(RegistryConfig),
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and where each of them came from."""

    settings: Settings
    layers: Layers


def load(config_file: str | None = None, flags: Layer | None = None) -> Loaded:
    """Read all sources and check them.

    Raises:
        UserError: a line for each finding.
    """
    layers = Layers(
        [
            ("command line", flags or {}),
            ("environment", _from_environment()),
            ("environment", _from_consul_environment()),
            *([(config_file, read_toml(config_file))] if config_file is not None else []),
        ]
    )
    merged = layers.merged()
    gateway = merged.get("gateway")
    for key, section in (("listeners", "listener"), ("routes", "route")):
        if isinstance(gateway, dict) and key in gateway:
            raise UserError(f"{layers.where(('gateway', key))}: goes into tables of its own, [[{section}]]")
    settings, found = validate(Settings, merged)
    lines = [explain(each, layers, SECTIONS) for each in found]
    # Where an address or a name was bad, its default stands in; that this one clashes with another says nothing.
    if settings is not None and not any(path_of(each)[0] == "listener" for each in found):
        try:
            settings.gateways()
        except ConfigError as error:
            lines.append(f"{layers.where(('listener',))}: {error.problem}")
    if settings is None or lines:
        raise UserError("\n".join(lines))
    return Loaded(settings, layers)


def warn_of_environment() -> None:
    """Log which variables look like ours and say nothing."""
    for line in unknown(os.environ, SECTIONS):
        log.warning("%s", line)


def _from_environment() -> dict[str, Any]:
    for name in os.environ:
        section, separator, _ = name.removeprefix("GATECREW_").partition("__")
        if name.startswith("GATECREW_") and separator and section.lower() not in Settings.model_fields:
            known = ", ".join(Settings.model_fields).upper()
            raise UserError(f"environment: {name}: there is no section {section}; there are {known}")
    try:
        source = EnvSettingsSource(Settings)
        # GATECREW_GATEWAY is `gatecrew call`'s, an address; as a section it would be JSON.
        source.env_vars = {
            name: value
            for name, value in source.env_vars.items()
            if name != "gatecrew_gateway" or parse_address(value or "") is None
        }
        return source()
    except (SettingsError, ValueError, RecursionError) as error:
        raise UserError(f"environment: {error}; lists are written as JSON") from None


def _from_consul_environment() -> dict[str, Any]:
    names = {"CONSUL_HTTP_ADDR": "address", "CONSUL_HTTP_TOKEN": "token", "CONSUL_CACERT": "ca_cert"}
    found = {key: os.environ[name] for name, key in names.items() if os.environ.get(name)}
    return {"registry": found} if found else {}
