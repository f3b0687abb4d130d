"""Logs for machines: with --log-format json every line of every process is one object with fields."""

import json
import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import ALONE, run
from processes import Process, gatecrew

from gatecrew_cli import log, ready

Start = Callable[..., Process]

QUIET = {**ALONE, "GATECREW_LOG_FORMAT": None, "GATECREW_LOG_LEVEL": None}
NEEDED = {"time", "level", "logger", "process", "message", "pid"}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def records(process: Process) -> list[dict[str, Any]]:
    """All that it printed, on both streams."""
    found = [json.loads(line) for line in process.lines]
    for record in found:
        assert record.keys() >= NEEDED, record
        assert TIME.fullmatch(record["time"]), record
    return found


def test_every_line_of_up_is_a_record(start: Start, project: Path) -> None:
    arguments = ("chat:worker", "--log-format", "json", "--log-level", "debug", "--listen", "127.0.0.1:0")
    process = start(gatecrew("up", *arguments), QUIET, project)
    process.wait_line('"message": "ready: ')
    gateway, pid = process.wait_line(r'"message": "gateway: main on ([\d.:]+), .* pid (\d+)"').groups()
    client = start(gatecrew("call", "4", "60", "--gateway", gateway, "--timeout", "60"), QUIET)
    process.wait_line("dawdling")
    [worker] = [each["pid"] for each in records(process) if each["message"] == "dawdling"]
    os.kill(worker, signal.SIGKILL)
    process.wait_line("ended by SIGKILL")
    process.wait_line("is back")
    client.kill()
    assert process.stop() == 0
    told = records(process)
    printed = next(each for each in told if each["message"] == "dawdling")
    assert (printed["process"], printed["level"]) == ("worker-1", "info")  # a print, wrapped
    lost = next(each for each in told if "went to others" in each["message"])
    assert (lost["process"], lost["level"]) == ("gateway", "warning")
    assert lost["worker"].startswith("chat-")
    assert any(each["message"].startswith("drain begins: ") and each["gateway"] for each in told)
    ended = next(each for each in told if "ended by SIGKILL" in each["message"])
    assert (ended["process"], ended["level"], ended["logger"]) == ("worker-1", "warning", "gatecrew.supervisor")
    stopped = next(each for each in told if each["message"] == "stopped")
    assert (stopped["process"], stopped["pid"]) == ("up", process.pid)
    logged = next(each for each in told if each["logger"] == "gatecrew.worker")
    assert logged["process"] == "worker-1"
    assert {each["process"] for each in told if each["level"] == "debug"} >= {"worker-1", "gateway"}
    assert {each["pid"] for each in told if each["process"] == "gateway" and each["level"] == "debug"} == {int(pid)}


def test_every_line_of_run_is_a_record_and_a_programs_own_fields_stay(start: Start) -> None:
    program = """
import json, sys
print("plain", flush=True)
print(json.dumps({"time": "2026-01-01T00:00:00.000Z", "level": "notice", "message": "own", "order": 7}), flush=True)
print(json.dumps(["no object"]), flush=True)
raise SystemExit("bad")
"""
    arguments = ("--service", "it", "--log-format", "json", "--", sys.executable, "-c", program)
    process = start(gatecrew("run", *arguments), {**QUIET, "CONSUL_HTTP_ADDR": "127.0.0.1:1"})
    assert process.wait() == 1
    told = records(process)
    plain, own, array, bad = (
        next(each for each in told if wanted in each["message"]) for wanted in ("plain", "own", "no object", "bad")
    )
    assert {each["process"] for each in (plain, own, array, bad)} == {"it-1"}
    assert own["time"] == "2026-01-01T00:00:00.000Z"
    assert (own["level"], own["order"], own["logger"]) == ("notice", 7, "output")
    assert array["message"] == '["no object"]'
    assert (plain["level"], bad["level"]) == ("info", "warning")
    assert told[-1]["message"] == "every worker of it ended again and again: gave up"
    assert (told[-1]["level"], told[-1]["process"]) == ("error", "run")


def test_a_level_reaches_the_children(start: Start, project: Path) -> None:
    process = start(gatecrew("up", "chat:worker", "--listen", "127.0.0.1:0", "--log-level", "error"), QUIET, project)
    process.wait_line("^ready: ")
    assert process.stop() == 0
    assert " INFO " not in process.output


@pytest.mark.parametrize(
    "env",
    [{"GATECREW_LOG_FORMAT": "json"}, {"GATECREW_LOG_JSON": "1"}, {"GATECREW_LOG_FORMAT": "json", "NO_COLOR": "1"}],
)
def test_a_single_process_says_that_it_is_ready_in_a_record(start: Start, env: dict[str, str]) -> None:
    process = start(gatecrew("registry", "--listen", "127.0.0.1:0"), {**QUIET, **env})
    process.wait_line('"message": "gatecrew ready: registry')
    assert process.stop() == 0
    told = records(process)
    facts = [facts for line in process.lines if (facts := ready.parse(line))]
    assert [each["pid"] for each in facts] == [str(process.pid)]
    assert {each["process"] for each in told} == {"registry"}


def test_the_former_flag_still_works_and_is_not_shown() -> None:
    code, out, error = run("up", "nothing:here", "--log-json")
    assert (code, out) == (2, "")
    [line] = error.splitlines()
    assert json.loads(line)["message"].startswith("nothing:here: no module")
    assert "--log-json" not in run("up", "--help")[1]


def test_a_flag_goes_before_the_former_variable() -> None:
    _, _, error = run("up", "nothing:here", "--log-format", "text", env={"GATECREW_LOG_JSON": "1"})
    assert error.startswith("gatecrew: nothing:here: no module")


@pytest.mark.parametrize(
    ("command", "variables"),
    [
        ("up", ["GATECREW_LOG_FORMAT", "GATECREW_LOG_LEVEL", "GATECREW_UNRESPONSIVE_AFTER"]),
        ("gateway", ["GATECREW_LOG_FORMAT", "GATECREW_LOG_LEVEL", "GATECREW_LOOP"]),
        ("worker", ["GATECREW_TLS_CERT", "GATECREW_TLS_KEY", "GATECREW_TLS_CA", "GATECREW_LOOP"]),
    ],
)
def test_help_names_the_variables_of_flags(command: str, variables: list[str]) -> None:
    shown = run(command, "--help")[1]
    assert all(f"env var: {variable}" in " ".join(shown.split()) for variable in variables)


def test_fields_and_exceptions_of_a_record() -> None:
    try:
        raise ValueError("no\nline")
    except ValueError:
        record = logging.getLogger("it").makeRecord(
            "it", logging.ERROR, __file__, 1, "lost %s", ("x",), sys.exc_info(), extra={"worker": "w", "session": 7}
        )
    told = json.loads(log.JsonFormatter("gateway").format(record))
    assert told["message"] == "lost x"
    assert (told["worker"], told["session"], told["process"]) == ("w", 7, "gateway")
    assert told["exception"].endswith("ValueError: no\nline")
    assert told.keys() == NEEDED | {"worker", "session", "exception"}
