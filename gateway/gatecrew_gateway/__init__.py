"""The process that holds the clients' connections."""

from typing import TYPE_CHECKING, Any

from .config import ConfigError, GatewayConfig, ListenerConfig, RouteConfig

if TYPE_CHECKING:
    from .gateway import Gateway

__all__ = ["ConfigError", "Gateway", "GatewayConfig", "ListenerConfig", "RouteConfig"]


def __getattr__(name: str) -> Any:
    # Gateway loads grpc. Who only wants settings or the codec should not pay for that, and a process that starts
    # others must not: grpc and fork do not mix.
    if name == "Gateway":
        from .gateway import Gateway

        return Gateway
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
