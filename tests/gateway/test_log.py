"""What a gateway's log tells of its workers: who came, who drains, who was lost, and what became of the packets."""

import logging

import pytest

from gatecrew_gateway.config import GatewayConfig, RouteConfig

from .crew import Crew


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, object]]:
    return [(each.levelname, each.getMessage(), each.__dict__.get("worker")) for each in caplog.records]


@pytest.fixture(autouse=True)
def _all(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gatecrew.gateway")


def test_a_lost_worker_says_how_many_packets_went_to_others(caplog: pytest.LogCaptureFixture) -> None:
    crew = Crew()
    first = crew.worker("a")
    for _ in range(3):
        crew.send(crew.client(), 1)
    crew.run()
    crew.worker("b")
    caplog.clear()
    crew.lose(first, crashed=True)
    assert told(caplog) == [("WARNING", "worker a lost: 3 packets went to others, 0 refused", "a")]


def test_what_may_not_run_twice_is_counted_as_refused(caplog: pytest.LogCaptureFixture) -> None:
    crew = Crew(GatewayConfig(routes=(RouteConfig(commands="1", delivery="at-most-once"),)))
    first = crew.worker("a")
    client = crew.client()
    crew.send(client, 1)
    crew.run()
    crew.send(client, 1)  # queued for the busy link, not written
    caplog.clear()
    crew.lose(first, crashed=True)
    assert told(caplog) == [("WARNING", "worker a lost: 1 packet went to others, 1 refused", "a")]


def test_a_worker_comes_drains_and_leaves(caplog: pytest.LogCaptureFixture) -> None:
    crew = Crew()
    first = crew.worker("a")
    crew.send(crew.client(), 1)
    crew.run()
    crew.dispatcher.draining(first.link)
    first.answer_all()
    crew.lose(first, crashed=False)
    assert [(level, text, worker) for level, text, worker in told(caplog) if "worker a" in text] == [
        ("INFO", f"worker a of {first.link.pool.service} is linked", "a"),
        ("INFO", "worker a drains: 1 open", "a"),
        ("INFO", "worker a left: 0 packets went to others, 0 refused", "a"),
    ]


def test_a_worker_that_falls_silent_while_it_drains_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    crew = Crew()
    first = crew.worker("a")
    crew.send(crew.client(), 1)
    crew.run()
    crew.worker("b")
    crew.dispatcher.draining(first.link)
    caplog.clear()
    crew.dispatcher.lost(first.link, crashed=False, silent=True)
    assert told(caplog) == [("WARNING", "worker a lost: 1 packet went to others, 0 refused", "a")]
