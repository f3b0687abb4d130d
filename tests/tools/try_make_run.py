"""Start `make run` as a user would, talk to it over a plain socket, stop it with Ctrl-C, see that nothing is left."""

import socket
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "tools")]

from processes import Process  # noqa: E402
from talk import REPLY, talk  # noqa: E402

NAME, SAY = 1, 3  # commands of the chat


def main() -> None:
    make = Process(["make", "run"], {"CONSUL_HTTP_ADDR": None}, ROOT)
    try:
        make.wait_line("^ready", timeout_s=300)  # it may have to install everything first
        pids = [int(make.wait_line(rf"^{name}: .* pid (\d+)$")[1]) for name in ("gateway", "worker-1", "registry")]
        for command, body, wanted in ((NAME, b"ann", b"ann"), (SAY, b"hello", b"")):
            answer = talk("127.0.0.1", 7000, command, body)
            assert answer == (REPLY, wanted), answer
        # Ctrl-C in a terminal reaches the whole foreground group: make and gatecrew, but not gatecrew's children.
        make.interrupt()
        make.wait()
        assert any(line == "stopped" for line in make.lines), make.output
        for pid in pids:
            assert not Path(f"/proc/{pid}").exists(), f"process {pid} is left"
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", 7000)), "port 7000 still listens"
        assert not any("Traceback" in line for line in make.lines), make.output
    finally:
        make.close()
    print("make run: started, answered, stopped, nothing left")


if __name__ == "__main__":
    main()
