"""A cluster whose workers are the reference workers of one language: registry, gateway, `gatecrew run`.

Usage: python -m bench.language go 3
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from . import ready

BUILT = Path(__file__).parents[1] / ".build" / "workers"
LINKED_WITHIN_S = 60.0


def program(language: str) -> Path:
    """The built reference worker."""
    return BUILT / language / "tour"


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gatecrew_cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def wait_for(process: subprocess.Popen[str], pattern: str) -> str:
    """The first group of the first line that matches.

    Raises:
        SystemExit: it ended before.
    """
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(pattern, line):
            return found[1]
    raise SystemExit(f"ended too early: {process.args!r}")


def linked() -> int:
    """How many workers the gateway is linked to."""
    command = [sys.executable, "-m", "gatecrew_cli", "status"]
    printed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return len(re.findall(r"^ +worker .* ready ", printed, re.MULTILINE))


def main() -> None:
    language, workers = sys.argv[1], int(sys.argv[2])
    registry = start("registry", "--listen", "127.0.0.1:0")
    processes = [registry]
    try:
        os.environ["CONSUL_HTTP_ADDR"] = wait_for(registry, r"address=(\S+)")
        crew = start("run", "--service", "tour", "--replicas", str(workers), "--", str(program(language)))
        processes.append(crew)
        wait_for(crew, "^(ready): ")
        gateway = start("gateway", "--listen", "127.0.0.1:0")
        processes.append(gateway)
        facts = wait_for(gateway, "(listener-main=.*)")
        give_up_at = time.monotonic() + LINKED_WITHIN_S
        while linked() < workers:
            if time.monotonic() > give_up_at:
                raise SystemExit(f"{workers} {language} workers were not linked within {LINKED_WITHIN_S:g} s")
            time.sleep(0.1)
        ready.say(int(facts.split("listener-main=127.0.0.1:")[1].split()[0]))
        gateway.wait()
    except KeyboardInterrupt:
        pass
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait()


if __name__ == "__main__":
    main()
