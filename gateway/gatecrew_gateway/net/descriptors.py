"""File descriptors: as many clients as there are, less some that are kept for workers, the registry and those who ask.

A gateway whose clients have the last one can link to no new worker and answer no `gatecrew status`.
"""

from __future__ import annotations

import sys

RESERVE = 64


def room_for_clients() -> int:
    """Raise the process's soft limit to its hard one, as servers do; returns how many clients fit under it."""
    if sys.platform == "win32":
        return sys.maxsize
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    except (ValueError, OSError):
        pass  # some systems have a hard limit that cannot be had
    return sys.maxsize if soft == resource.RLIM_INFINITY else max(1, soft - RESERVE)
