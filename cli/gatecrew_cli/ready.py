"""What a process says on its streams to whoever started it: where it listens, or what is wrong with its input. In the
form of its log: a plain line for people, or a record.

gatecrew ready: worker service=chat address=127.0.0.1:41235 pid=4711
gatecrew: chat:worker: no module 'chat'
"""

import os
import shlex
import sys

from . import log
from .terminal import visible

_MARK = "gatecrew ready: "
_LOGGER = "gatecrew.ready"
_COMPLAINT = "gatecrew: "


def announce(what: str, **facts: str) -> None:
    """Print on stdout that it is ready, with the process id as one more fact."""
    pairs = (f"{key}={value}" for key, value in {**facts, "pid": os.getpid()}.items())
    line = _MARK + shlex.join([what, *pairs])
    process = log.process()
    print(line if process is None else log.record(process, line, "info", _LOGGER), flush=True)


def parse(line: str) -> dict[str, str] | None:
    """The facts of such a line; None for any other."""
    line = log.read(line, _LOGGER) or line
    if not line.startswith(_MARK):
        return None
    return dict(fact.split("=", 1) for fact in shlex.split(line.removeprefix(_MARK))[1:])


def complain(text: str) -> None:
    """Print on stderr what is wrong, a line each."""
    process = log.process()
    for line in text.splitlines():
        if process is None:
            print(f"{_COMPLAINT}{visible(line)}", file=sys.stderr)
        else:
            print(log.record(process, line, "error", log.COMMAND_LINE), file=sys.stderr)


def parse_complaint(line: str) -> str | None:
    """What such a line says; None for any other."""
    if line.startswith(_COMPLAINT):
        return line.removeprefix(_COMPLAINT)
    return log.read(line, log.COMMAND_LINE)
