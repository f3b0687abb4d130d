"""The line in which a process says on stdout where it listens: for people, and for the supervisor that waits for it.

gatecrew ready: worker service=chat address=127.0.0.1:41235 pid=4711
"""

import os
import shlex

_MARK = "gatecrew ready: "


def announce(what: str, **facts: str) -> None:
    """Print it, with the process id as one more fact."""
    pairs = (f"{key}={value}" for key, value in {**facts, "pid": os.getpid()}.items())
    print(_MARK + shlex.join([what, *pairs]), flush=True)


def parse(line: str) -> dict[str, str] | None:
    """The facts of such a line; None for any other."""
    if not line.startswith(_MARK):
        return None
    return dict(fact.split("=", 1) for fact in shlex.split(line.removeprefix(_MARK))[1:])
