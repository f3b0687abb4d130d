"""A handler that never ends, in every language: its session goes on at the deadline, behind a real gateway."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import ALONE
from processes import Process, gatecrew
from survival.client import ERROR, REPLY, REQUEST, connected

from workers.languages import LANGUAGES, program

ECHO, WAIT = 101, 104
FOR_EVER = b"600000"  # milliseconds
DEADLINE_EXCEEDED = 4


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_handler_that_never_ends_costs_its_session_no_more(
    language: str, start: Callable[..., Process], tmp_path: Path
) -> None:
    path = program(language)
    settings = tmp_path / "gatecrew.toml"
    settings.write_text(
        '[[listener]]\nname = "main"\nport = 0\n[[route]]\ncommands = "104"\nservice = "tour"\ndeadline_ms = 500\n'
    )
    registry = start(gatecrew("registry", "--listen", "127.0.0.1:0"), ALONE)
    environment = {**ALONE, "CONSUL_HTTP_ADDR": registry.wait_line(r"address=(127\.0\.0\.1:\d+)")[1]}
    crew = start(gatecrew("run", "--service", "tour", "--", path), environment)
    crew.wait_line("^ready: 1 of tour", timeout_s=90)
    gateway = start(gatecrew("gateway", "--config", str(settings)), environment)
    address = gateway.wait_line(r"main=(127\.0\.0\.1:\d+)")[1]
    with connected(address) as client:
        while client.ask(ECHO, b"there").kind != REPLY:
            pass  # the gateway has no link yet
        client.send(REQUEST, WAIT, 1000, FOR_EVER)
        client.send(REQUEST, ECHO, 1001, b"behind")
        late, behind = client.read(), client.read()
    assert late is not None
    assert behind is not None
    assert (late.kind, late.seq, late.status) == (ERROR, 1000, DEADLINE_EXCEEDED)
    assert (behind.kind, behind.seq, behind.body) == (REPLY, 1001, b"behind")
