"""One cluster on many hosts for all tests, whole again before each of them."""

from collections.abc import Iterator

import pytest
from tools.consul import require_consul

from hosts.cluster import HostCluster
from hosts.network import require_hosts


@pytest.fixture(scope="package")
def one_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostCluster]:
    require_hosts()
    cluster = HostCluster(tmp_path_factory.mktemp("hosts"), require_consul("current"))
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(one_cluster: HostCluster) -> Iterator[HostCluster]:
    """Every gateway is linked to every worker; nothing that ran in the test may have met what it did not expect."""
    one_cluster.wait_links()
    before = one_cluster.complaints()
    yield one_cluster
    assert one_cluster.complaints() == before
