"""docs/worker-contract.md is true: its worker, registered with its entry, serves a client through a gateway."""

import json
import re
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import run
from processes import Process

PAGE = (Path(__file__).parents[2] / "docs" / "worker-contract.md").read_text("utf-8")
GATECREW = [sys.executable, "-m", "gatecrew_cli"]


@pytest.mark.uvloop_only
def test_the_worker_of_the_page(start: Callable[..., Process], tmp_path: Path) -> None:
    [program] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    [entry] = re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    registry = start([*GATECREW, "registry", "--listen", "127.0.0.1:0"])
    address = registry.wait_line(r"(127\.0\.0\.1:\d+)")[1]
    (tmp_path / "upper.py").write_text(program)
    port = int(start([sys.executable, str(tmp_path / "upper.py")]).wait_line(r"listening on (\d+)")[1])
    body = json.dumps({**json.loads(entry), "Port": port}).encode()
    request = urllib.request.Request(f"http://{address}/v1/agent/service/register", body, method="PUT")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
    env: dict[str, str | None] = {"CONSUL_HTTP_ADDR": address}
    gateway = start([*GATECREW, "gateway", "--listen", "127.0.0.1:0"], env=env)
    clients = gateway.wait_line(r"main=(127\.0\.0\.1:\d+)")[1]
    code, printed, error = 1, "", ""
    for _ in range(50):  # the link may come up a moment after the gateway
        code, printed, error = run("call", "1", "hello", "--gateway", clients, env=env)
        if code == 0:
            break
    assert (code, printed.strip()) == (0, "HELLO"), error
    code, printed, error = run("conformance", f"127.0.0.1:{port}", "--command", "1")
    assert code == 0, printed + error
    code, printed, error = run("conformance", "--command", "1", "--", sys.executable, str(tmp_path / "upper.py"))
    assert code == 0, printed + error
