"""Whether a module is being imported for its Worker: `run()` in it would serve, and the import would never end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .status import WorkerError

_is_importing = False


class RunWhileImported(WorkerError):
    """Raised by `run()` in a module that somebody imports to run its worker himself."""


@contextmanager
def importing() -> Iterator[None]:
    """For the import of somebody's module."""
    global _is_importing
    _is_importing = True
    try:
        yield
    finally:
        _is_importing = False


def check_run() -> None:
    """Raises:
    RunWhileImported: run() is called inside `importing`.
    """
    if _is_importing:
        raise RunWhileImported("run() is called while the module is imported")
