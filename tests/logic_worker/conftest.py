"""What the tests of the SDK share."""

import pytest

from gatecrew_worker import dispatch


@pytest.fixture(autouse=True)
def _patient_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateways that these tests play send no heartbeats; a worker on a busy machine must not doubt them."""
    monkeypatch.setattr(dispatch, "LEASE_S", 3600.0)
