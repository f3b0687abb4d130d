"""A cluster for the tests of a module, whole again before each of them."""

import random
from collections.abc import Iterator

import pytest

from survival.cluster import Cluster


@pytest.fixture(scope="module")
def module_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("survival"))
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(module_cluster: Cluster, chance: random.Random) -> Iterator[Cluster]:
    """One gateway and three workers, all well; nothing that ran in the test may have met what it did not expect."""
    module_cluster.restore()
    module_cluster.chance = chance
    before = module_cluster.processes()
    yield module_cluster
    for process in before | module_cluster.processes():
        for line in process.stderr:
            assert "Traceback" not in line, process.output
            assert "never retrieved" not in line, process.output
