"""What all tests share: both event loops, and processes that end with their test."""

import asyncio
import random
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import hypothesis
import pytest
import uvloop
from processes import Process, free_port
from seeds import SEED, chance_of

# Under `nohup` it is ignored, and processes that tests start would inherit that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).parent.parent
# Whose tests measure time or load, or need a port, a network or an engine for themselves.
ALONE = (
    "benchmark",
    "deploy/test_cluster.py",
    "overload",
    "survival",
    "workers/test_one_cluster.py",
)

# Whose tests measure time too, but mostly wait for somebody to be found out: some of them go together. Those of one
# group need one thing, so they follow each other.
PATIENT = {"cluster": "", "hosts": "hosts"}

# A busy machine is slow at times; that says nothing about the code.
hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")


@pytest.hookimpl(tryfirst=True)  # before marks are selected by
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("quick"):
            continue
        if any(item.path.is_relative_to(ROOT / "tests" / each) for each in ALONE):
            item.add_marker("alone")
        for each, group in PATIENT.items():
            if item.path.is_relative_to(ROOT / "tests" / each):
                item.add_marker("patient")
                if group:
                    item.add_marker(pytest.mark.xdist_group(group))


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Asynchronous tests run on both loops that users run us on."""
    if item.get_closest_marker("uvloop_only"):
        return {"uvloop": uvloop.new_event_loop}
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Start a process: `start(command, env={...}, cwd=...)`. All are ended after the test, the newest first."""
    started: list[Process] = []

    def start_one(
        command: list[str], env: Mapping[str, str | None] | None = None, cwd: Path | str | None = None
    ) -> Process:
        process = Process(command, env, cwd)
        started.append(process)
        return process

    yield start_one
    for process in reversed(started):
        process.close()


@pytest.fixture
def port() -> int:
    return free_port()


REPETITIONS = 20


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What proves a row of the catalogue of faults is repeated in the slow tier, each time with other chances."""
    if metafunc.definition.get_closest_marker("row"):
        metafunc.fixturenames.append("repetition")
        slow = [pytest.param(number, marks=pytest.mark.slow) for number in range(2, REPETITIONS + 1)]
        metafunc.parametrize("repetition", [pytest.param(1, id=pytest.HIDDEN_PARAM), *slow])


def pytest_report_header() -> str:
    return f"chance: GATECREW_SEED={SEED}"


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """The test's own; the seed in the head of the run repeats it."""
    return chance_of(request.node.name)


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say a figure: all are printed at the end of the run, whichever process ran the test."""

    def say(figure: str) -> None:
        request.node.user_properties.append(("measured", f"{request.node.name}: {figure}"))

    return say


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # Each test has one report of its teardown, the last, with all that was said.
    every = (report for reports in terminalreporter.stats.values() for report in reports)
    reports = [report for report in every if getattr(report, "when", "") == "teardown"]
    figures = [text for each in reports for name, text in each.user_properties if name == "measured"]
    if figures:
        terminalreporter.section("measured")
        for figure in figures:
            terminalreporter.write_line(figure)
