"""How much may be held while a worker stands still."""

import pytest

from gatecrew_gateway.config import GatewayConfig
from gateway.crew import Crew, Worker


@pytest.mark.parametrize("capacity", [13, 15, 30])
def test_nobody_is_refused_while_a_worker_stands_still_and_the_others_are_busy(capacity: int) -> None:
    """2 000 packets a second of 100 sessions. `capacity`: packets that a worker answers in 10 ms."""
    crew = Crew(GatewayConfig())
    frozen, *others = [crew.worker(name) for name in "abc"]
    clients = [crew.client() for _ in range(100)]

    def pass_(seconds: float, *answering: Worker) -> None:
        for _ in range(round(seconds * 100)):
            crew.now += 0.01
            for _ in range(20):
                client = clients.pop(0)
                clients.append(client)
                crew.send(client, 1)
            crew.linger()
            crew.run()
            if round(crew.now * 100) % 10 == 0:
                crew.sweep()
            for worker in answering:
                worker.answer(*worker.in_flight[:capacity])
            crew.run()

    pass_(3, *crew.workers)
    pass_(1.3, *others)
    crew.dispatcher.suspected(frozen.link)
    pass_(1.2, *others)
    crew.workers.remove(frozen)
    crew.dispatcher.lost(frozen.link, crashed=True)
    pass_(1.0, *others)
    again = crew.worker("a")
    pass_(3, again, *others)
    errors = [error for client in clients for error in client.errors.values()]
    assert not errors, (len(errors), errors[0])
