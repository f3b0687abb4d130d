"""What the machine gives this process: how much memory it may have, and how much it has."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

UNLIMITED = 1 << 60  # bytes; a control group of version 1 says so with a number above this
UNKNOWN = 1 << 30  # bytes; taken for the machine's memory where nobody says


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may have: the least limit of its control groups, of version 1 or 2, or all of the
    machine's. `root`: where proc and sys are.
    """
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        machine = UNKNOWN
    return min([machine, *(limit for limit in _group_limits(root) if limit < UNLIMITED)])


def _group_limits(root: Path) -> Iterator[int]:
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mount = root / "sys/fs/cgroup"
    for line in groups:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            top, name = mount, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = mount / "memory", "memory.limit_in_bytes"
        else:
            continue
        # In a container the path may be the host's and the mount its own group: then only the top is there.
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts) + 1):
            try:
                text = top.joinpath(*parts[:depth], name).read_text().strip()
            except OSError:
                continue
            if text.isdecimal():
                yield int(text)


def resident_memory() -> Callable[[], int | None]:
    """A function that says how many bytes this process has in memory; None where nobody says. One small read."""
    if not sys.platform.startswith("linux"):
        return lambda: None
    try:
        statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return lambda: None
    page = os.sysconf("SC_PAGE_SIZE")

    def resident() -> int:
        return int(os.pread(statm, 100, 0).split()[1]) * page

    return resident
