"""A dead letter goes to a worker once more: what the worker is told, who hears the answer, what is left. No sockets."""

import pytest

from gatecrew_gateway.codec import Kind, Status
from gatecrew_gateway.replay import Outcome, Replays
from gatecrew_gateway.routing.lane import Pending
from gatecrew_gateway.routing.quarantine import DeadLetter
from gateway.crew import Client, Crew
from gateway.test_quarantine import POISON, holder, met, poisoned, say

pytestmark = pytest.mark.quick


class Operator:
    """A crew in which somebody's packet has been quarantined, and who looks after that."""

    def __init__(self, kind: Kind = Kind.REQUEST) -> None:
        self.crew = Crew()
        self.client: Client = self.crew.client()
        self.crew.sessions.bind(self.client.session, "ann")
        self.crew.sessions.set_attributes(self.client.session, {"room": "1"})
        poisoned(self.crew, client=self.client)
        self.outcomes: list[Outcome] = []
        self.replays = Replays(self.crew.dispatcher, self.crew.sessions, self.crew.forgotten.append)

    @property
    def letters(self) -> list[DeadLetter]:
        return list(self.crew.dispatcher.quarantine.letters.values())

    def replay(self) -> Pending | None:
        """What a worker has of it."""
        self.replays.begin(self.letters[0], self.outcomes.append)
        self.crew.run()
        found = [packet for worker in self.crew.workers for packet in worker.in_flight]
        return found[0] if found else None


def test_the_worker_sees_the_same_request_once_more_and_the_operator_its_answer() -> None:
    operator = Operator()
    [letter] = operator.letters
    packet = operator.replay()
    assert packet is not None
    session = packet.lane.session
    assert (f"{session.id:x}-{packet.id:x}", packet.attempt, packet.body) == (letter.id, 2, POISON)
    assert (session.user, session.attributes, session.peer) == ("ann", {"room": "1"}, letter.peer)
    assert session.version == operator.client.session.version
    heard = dict(operator.client.errors)
    holder(operator.crew).answer_all()
    assert operator.outcomes == [Outcome(Status.OK, "", POISON)]
    assert operator.client.errors == heard
    assert not operator.client.replies  # the client had its outcome
    assert not operator.letters
    assert operator.crew.counters.dead_letters == 0
    say(operator.crew, operator.client, POISON)  # and may send it again
    holder(operator.crew).answer_all()
    assert operator.client.replies[operator.client.last_seq] == [POISON]
    assert operator.client.session.in_flight == 0
    assert all(pool.load == 0 for pool in operator.crew.dispatcher.pools.values())


def test_an_error_of_the_handler_is_an_outcome_too() -> None:
    operator = Operator()
    operator.replay()
    worker = holder(operator.crew)
    worker.answer(*worker.in_flight, status=Status.NOT_FOUND)
    assert operator.outcomes == [Outcome(Status.NOT_FOUND, "told so")]
    assert not operator.letters


def test_one_more_worker_is_all_that_it_can_take() -> None:
    operator = Operator()
    before = operator.letters[0]
    operator.replay()
    victim = holder(operator.crew)
    operator.crew.worker("another")
    operator.crew.lose(victim)
    operator.crew.run()
    assert not met(operator.crew)
    [(status, text, _)] = operator.outcomes
    assert status == Status.FAILED_PRECONDITION
    assert text == f"quarantined again: worker {victim.link.worker_id} was lost with it"
    [letter] = operator.letters
    assert letter.id == before.id
    assert letter.workers == (*before.workers, victim.link.worker_id)
    say(operator.crew, operator.crew.client(), POISON)
    assert not met(operator.crew)


def test_a_worker_that_is_lost_in_order_while_it_has_it_leaves_the_letter() -> None:
    operator = Operator()
    operator.replay()
    operator.crew.worker("another")
    operator.crew.lose(holder(operator.crew), crashed=False)
    operator.crew.run()
    assert not met(operator.crew)
    assert [outcome.status for outcome in operator.outcomes] == [Status.ABORTED]
    assert len(operator.letters) == 1
    say(operator.crew, operator.crew.client(), POISON)
    assert not met(operator.crew)


def test_without_a_worker_the_letter_stays() -> None:
    operator = Operator()
    for worker in tuple(operator.crew.workers):
        operator.crew.lose(worker, crashed=False)
    operator.crew.pass_time(1)
    operator.replay()
    assert [outcome.status for outcome in operator.outcomes] == [Status.UNAVAILABLE]
    assert len(operator.letters) == 1


def test_a_letter_is_under_way_once() -> None:
    operator = Operator()
    operator.replay()
    operator.replay()
    assert met(operator.crew) == 1
    assert [outcome.status for outcome in operator.outcomes] == [Status.ABORTED]


def test_a_session_that_has_gone_is_told_as_it_was_and_forgotten_after() -> None:
    operator = Operator()
    operator.crew.leave(operator.client)
    forgotten = len(operator.crew.forgotten)
    packet = operator.replay()
    assert packet is not None
    assert packet.lane.session.user == "ann"
    assert len(operator.crew.forgotten) == forgotten
    holder(operator.crew).answer_all()
    assert operator.crew.forgotten[forgotten:] == [operator.client.session.id]


def test_an_event_is_not_replayed() -> None:
    crew = Crew()
    crew.worker("first", events=True)
    crew.client()
    crew.run()
    for _ in range(2):
        crew.worker("next", events=True)
        crew.lose(crew.workers[0])
        crew.run()
    outcomes: list[Outcome] = []
    [letter] = crew.dispatcher.quarantine.letters.values()
    Replays(crew.dispatcher, crew.sessions, crew.forgotten.append).begin(letter, outcomes.append)
    assert [outcome.status for outcome in outcomes] == [Status.INVALID_ARGUMENT]
