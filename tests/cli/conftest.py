"""A user's directory, and a cluster that runs his worker."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import ALONE, WORKER, Cluster, describe
from processes import Process, gatecrew


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's directory with a worker in chat.py."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "chat.py").write_text(WORKER)
    return folder


@pytest.fixture(scope="session")
def cluster(project: Path) -> Iterator[Cluster]:
    """One cluster for all tests that leave it as it was."""
    process = Process(gatecrew("up", "chat:worker", "--workers", "2", "--listen", "127.0.0.1:0"), ALONE, project)
    try:
        yield describe(process)
    finally:
        process.close()
