"""Which ports can be had."""

import socket


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
    except ValueError:  # what no name server would be asked for
        return "this is no host name"
    return ""


def free_port(host: str) -> int:
    """One that nobody listens on now.

    Raises:
        OSError: the host is not this machine.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
