"""What all tests share: both event loops, and processes that end with their test."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import hypothesis
import pytest
import uvloop
from processes import Process, free_port

ROOT = Path(__file__).parent.parent

# A busy machine is slow at times; that says nothing about the code.
hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")


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


FIGURES: list[str] = []


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say a figure: all are printed at the end of the run."""

    def say(figure: str) -> None:
        FIGURES.append(f"{request.node.name}: {figure}")

    return say


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if FIGURES:
        terminalreporter.section("measured")
        for figure in FIGURES:
            terminalreporter.write_line(figure)
