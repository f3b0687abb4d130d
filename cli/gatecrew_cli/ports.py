"""HOST:PORT as people write it, and which ports can be had."""

import errno
import os
import random
import socket
from collections.abc import Collection

from gatecrew_gateway.config import ConfigError, check_host

EVERY_ADDRESS = ("0.0.0.0", "::")
LISTENING_PORTS = range(20_000, 32_768)  # below those that Linux gives to outgoing connections; others begin higher


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


def free_port(host: str, taken: Collection[int] = ()) -> int:
    """One that nobody uses now, and that no outgoing connection will be given before somebody listens on it.

    Args:
        host: where one wants to listen.
        taken: ports that have been given away already, though nobody may listen there yet.

    Raises:
        OSError: the host is not this machine, or has no port left.
    """
    for port in random.sample(LISTENING_PORTS, len(LISTENING_PORTS)):
        if port in taken:
            continue
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
