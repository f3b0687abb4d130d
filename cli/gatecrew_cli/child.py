"""Where a process starts that `gatecrew up` runs: it dies with its parent, then it is the command line as usual.

python -m gatecrew_cli.child PARENT_PID worker chat:worker ...
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Be killed when the parent ends in whatever way. A killed parent can drain nobody, and a child that outlived it
    would hold its port. Linux only; elsewhere a child of a killed parent stays."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before we asked
            sys.exit(1)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    from .main import main

    main(sys.argv[2:])
