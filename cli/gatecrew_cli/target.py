"""Find the object that `module:object` names, in the current directory or installed."""

import inspect
import logging
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path

from gatecrew_worker import Worker
from gatecrew_worker.importing import RunWhileImported, importing

from .errors import UserError

log = logging.getLogger(__name__)


def load_worker(target: str) -> Worker:
    """Import it.

    Raises:
        UserError: it does not import, or is no Worker; says where.
    """
    module_name, colon, path = target.partition(":")
    if not colon or not module_name or not path:
        raise UserError(f"{target!r} is not module:object, such as chat:worker for `worker` in chat.py")
    if module_name.endswith(".py"):
        meant = ".".join(Path(module_name).with_suffix("").parts)
        raise UserError(f"{target}: give the module, not its file: did you mean {meant}:{path}?")
    sys.path.insert(0, os.getcwd())
    try:
        with importing():
            found: object = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise UserError(f"{target}: no module {error.name!r} in {os.getcwd()}, and none installed") from None
        raise UserError(f"{target}: {_place(error)}{error}; install it beside gatecrew") from None
    except RunWhileImported as error:
        caller = traceback.extract_tb(error.__traceback__)[-3]  # above Worker.run and its check
        place = f"{_from_here(Path(caller.filename))}:{caller.lineno}"
        text = f'{place} calls worker.run() while it is imported; put it under `if __name__ == "__main__":`'
        raise UserError(f"{target}: {text}") from None
    except (Exception, SystemExit) as error:
        log.debug("%s does not import", module_name, exc_info=True)
        raise UserError(f"{target}: does not import: {_place(error)}{type(error).__name__}: {error}") from None
    workers: list[str] = []
    for name in path.split("."):
        workers = [name for name, value in getattr(found, "__dict__", {}).items() if isinstance(value, Worker)]
        if not hasattr(found, name):
            hint = f"; its Worker objects are: {', '.join(workers)}" if workers else ""
            raise UserError(f"{target}: module {module_name!r} has no {path!r}{hint}")
        found = getattr(found, name)
    if not isinstance(found, Worker) and workers:
        what = "a function" if inspect.isroutine(found) else f"of type {type(found).__name__}"
        holder = ".".join([module_name, *path.split(".")[:-1]])
        raise UserError(f"{target} is {what}; the Worker objects of {holder} are: {', '.join(workers)}")
    if not isinstance(found, Worker):
        raise UserError(f'{target}: of type {type(found).__name__}, not Worker; write: {path} = Worker("name")')
    return found


def _place(error: BaseException) -> str:
    """`chat.py:3: `, the line of the user's code where it failed, as near as that is known."""
    if isinstance(error, SyntaxError):
        return ""  # its text names file and line
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    own = [(_from_here(file), line) for file, line in frames if file.is_relative_to(Path.cwd())]
    file, line = (own or frames)[-1]
    return f"{file}:{line}: "


def _from_here(file: Path) -> Path:
    here = Path.cwd()
    return file.relative_to(here) if file.is_relative_to(here) else file
