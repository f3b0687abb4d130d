"""HOST:PORT as people write it, and which ports can be had."""

import socket

from gatecrew_gateway.config import ConfigError, check_host


def parse_address(text: str) -> tuple[str, int] | None:
    """None: it is not HOST:PORT. An IPv6 host may be in brackets."""
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    if not port.isascii() or not port.isdecimal() or len(port) > 5 or int(port) > 65535:
        return None
    try:
        check_host("", "", host)
    except ConfigError:
        return None
    return host, int(port)


def join(host: str, port: int) -> str:
    """HOST:PORT, with an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reason_not_to_bind(host: str, port: int) -> str:
    """Empty if one could listen there."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return error.strerror or str(error)
    except OverflowError:
        return "ports end at 65535"
    return ""


def free_port(host: str) -> int:
    """One that nobody listens on now.

    Raises:
        OSError: the host is not this machine.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
