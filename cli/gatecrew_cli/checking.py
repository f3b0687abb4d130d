"""What `gatecrew config check` finds in settings that are each good by themselves: what would fail when they run, or
never be used. A line for each finding.
"""

import os
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder

from gatecrew_gateway.config import parse_commands

from .environment import unknown
from .errors import UserError
from .registry_access import registry_settings
from .settings import SECTIONS, Loaded


def findings(loaded: Loaded, import_targets: bool) -> Iterator[str]:
    """Args:
    import_targets: run the workers' modules, as `up` would; otherwise they are only looked for.
    """
    yield from unknown(os.environ, SECTIONS)
    yield from _registry(loaded)
    yield from _routes_never_reached(loaded)
    for number, worker in enumerate(loaded.settings.worker):
        problem = _import(worker.target) if import_targets else _look_for(worker.target)
        if problem:
            yield f"{loaded.layers.where(('worker', number, 'target'))}: {problem}"


def _registry(loaded: Loaded) -> Iterator[str]:
    try:
        registry_settings({**os.environ, **loaded.settings.registry.environment()})
    except UserError as error:
        yield str(error)


def _routes_never_reached(loaded: Loaded) -> Iterator[str]:
    """Routes all of whose commands belong to earlier ones: the first that matches decides."""
    taken: set[int] = set()
    everything = -1  # number of the route of all commands; none yet
    for number, route in enumerate(loaded.settings.route):
        commands = parse_commands(route.commands)
        where = loaded.layers.where(("route", number, "commands"))
        if everything >= 0:
            yield f'{where}: {route.commands!r}, never reached: route[{everything}] takes "*"; put it last'
        elif commands is None:
            everything = number
        elif commands <= taken:
            yield f"{where}: {route.commands!r}, never reached: earlier routes take all of it"
        else:
            taken |= commands


def _import(target: str) -> str:
    from .target import load_worker  # brings grpc, which nothing else here needs

    try:
        load_worker(target)
    except UserError as error:
        return str(error)
    return ""


def _look_for(target: str) -> str:
    """Whether there is such a module, here or installed; nothing of it runs."""
    names = target.partition(":")[0].split(".")
    path: list[str] | None = [os.getcwd(), *sys.path]
    for depth in range(1, len(names) + 1):
        name = ".".join(names[:depth])
        spec = PathFinder.find_spec(name, path)
        if spec is None:
            return f"{target}: no module {name!r} in {os.getcwd()}, and none installed"
        path = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
        if path is None and depth < len(names):
            return f"{target}: {name!r} is no package; an object of it is written {name}:worker"
    return ""
