"""Where a process starts that we supervise: it dies with its parent, then it is what it should be.

python -m gatecrew_cli.child PARENT_PID worker chat:worker ...     the command line as usual
python -m gatecrew_cli.child PARENT_PID --exec PROGRAM ...         any program
python -m gatecrew_cli.child PARENT_PID --watch-health             health_process.py
"""

import ctypes
import os
import shutil
import signal
import sys

from .errors import UserError

_PR_SET_PDEATHSIG = 1


def command(*arguments: str) -> list[str]:
    """The command that starts one as a child of this process."""
    # -P: the user's directory must not come before the standard library in a process that is not his worker.
    return [sys.executable, "-P", "-m", f"{__package__}.child", str(os.getpid()), *arguments]


def check_program(program: str) -> None:
    """Find out before anything is started.

    Raises:
        UserError: there is no such program.
    """
    if shutil.which(program) is None:
        raise UserError(f"{program}: {'is not executable' if os.path.isfile(program) else 'no such program'}")


def die_with_parent(parent: int) -> None:
    """Be killed when the parent ends in whatever way. A killed parent can drain nobody, and a child that outlived it
    would hold its port. Linux only; elsewhere a child of a killed parent stays."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before we asked
            sys.exit(1)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    if sys.argv[2:3] == ["--exec"]:
        try:
            os.execvp(sys.argv[3], sys.argv[3:])
        except OSError as error:
            sys.exit(f"{sys.argv[3]}: {error.strerror}")
    if sys.argv[2:] == ["--watch-health"]:
        from .health_process import main as watch_health

        watch_health()
        sys.exit()
    from .main import main

    main(sys.argv[2:])
