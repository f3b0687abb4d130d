"""The process that holds the clients' connections."""

from .config import ConfigError, GatewayConfig, ListenerConfig, RouteConfig
from .gateway import Gateway

__all__ = ["ConfigError", "Gateway", "GatewayConfig", "ListenerConfig", "RouteConfig"]
