"""Real Consul agents for tests: which are on this machine, and starting one."""

import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from processes import PATIENCE_S, Process, free_port

_ROOT = Path(__file__).parent.parent.parent
_DEBIAN_VERSION = "1.8.7"


def find_consul(which: str) -> Path | None:
    """The binary of `debian` (1.8.7) or `current` (anything newer), from .tools or PATH."""
    on_path = shutil.which("consul")
    candidates = [*(_ROOT / ".tools").glob("consul-*/consul"), *([Path(on_path)] if on_path else [])]
    versions = {_version(candidate): candidate for candidate in candidates}
    if which == "debian":
        return versions.get(_DEBIAN_VERSION)
    newer = [version for version in versions if version and version != _DEBIAN_VERSION]
    return versions[max(newer, key=lambda text: [int(part) for part in text.split(".")])] if newer else None


def require_consul(which: str) -> Path:
    """The binary; skips the test if there is none, or fails it where GATECREW_REQUIRE_CONSUL=1 says so."""
    found = find_consul(which)
    if found is None:
        line = f"NO REAL CONSUL ({which}): get it with tests/tools/get_consul.sh {which}"
        if os.environ.get("GATECREW_REQUIRE_CONSUL") == "1":
            pytest.fail(line)
        pytest.skip(line)
    return found


def _version(binary: Path) -> str:
    try:
        output = subprocess.run([binary, "version"], capture_output=True, text=True, timeout=60).stdout
    except OSError:
        return ""
    match = re.match(r"Consul v(\d+\.\d+\.\d+)", output)
    return match[1] if match else ""


class ConsulAgent:
    """A `consul agent -dev` on ports of its own; what is registered with it ends with its process."""

    def __init__(self, binary: Path, *options: str) -> None:
        self._binary = binary
        self._options = options
        self._ports = {name: free_port() for name in ("http", "server", "serf-lan", "serf-wan")}
        self._process: Process | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._ports['http']}"

    def start(self) -> None:
        """Start it and wait until it has a leader and knows itself."""
        command = [str(self._binary), "agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=warn"]
        command += [f"-{name}-port={port}" for name, port in self._ports.items()]
        command += self._options
        command += ["-dns-port=-1", "-grpc-port=-1"]
        if _version(self._binary) != _DEBIAN_VERSION:
            command.append("-grpc-tls-port=-1")
        environment = {name: None for name in os.environ if name.startswith("CONSUL_")}
        self._process = Process(command, environment)
        deadline = time.monotonic() + PATIENCE_S
        while not self._is_ready():
            if time.monotonic() > deadline:
                raise AssertionError(f"{self._binary} is not ready after {PATIENCE_S} s\n{self._process.output}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it at once, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.close()
            self._process = None

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/v1/health/service/consul", timeout=2) as answer:
                return bool(json.load(answer))
        except OSError:
            return False
