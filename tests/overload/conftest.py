"""Clusters whose workers have something to do."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from survival.cluster import Cluster


@pytest.fixture
def cluster_of(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """`cluster_of(kind, work_s)`: one gateway and three workers whose command 1 takes so long, in the way of `kind`."""
    started: list[Cluster] = []

    def start(
        kind: str, work_s: float = 0.0, slow: str = "", sick: str = "", settings: str = "", workers: int = 3
    ) -> Cluster:
        environment = {"OVERLOAD_KIND": kind, "OVERLOAD_WORK_S": str(work_s), "OVERLOAD_SLOW": slow}
        environment["OVERLOAD_SICK"] = sick
        cluster = Cluster(
            tmp_path, workers=workers, target="overload.worker:worker", environment=environment, settings=settings
        )
        started.append(cluster)
        return cluster

    yield start
    for cluster in started:
        cluster.close()
