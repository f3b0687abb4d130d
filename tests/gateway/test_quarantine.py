"""What took two workers down is remembered, kept, and bounded; what only looks like it is let go. No sockets."""

from collections.abc import Callable

import pytest

from gatecrew_gateway.codec import Kind, Status
from gatecrew_gateway.config import GatewayConfig, RouteConfig
from gatecrew_gateway.routing import quarantine, suspicion
from gatecrew_gateway.routing.link import QUIET_S, LinkState
from gatecrew_gateway.routing.pool import FULL_BATCH
from gatecrew_gateway.routing.quarantine import digest
from gatecrew_gateway.routing.suspicion import Finding, Lost, Suspicion
from gateway.crew import Client, Crew, Worker

pytestmark = pytest.mark.quick

POISON = b"poison"
REFUSED = Status.FAILED_PRECONDITION


def say(crew: Crew, client: Client, body: bytes, command: int = 1, kind: Kind = Kind.REQUEST, copies: int = 1) -> int:
    """Send a packet, as often as told to in one read; returns the last one's seq."""
    packets = []
    for _ in range(copies):
        client.last_seq += 1
        packets.append((int(kind), command, client.last_seq, body))
    crew.dispatcher.receive(client.session, packets)
    crew.run()
    return client.last_seq


def poisoned(crew: Crew, body: bytes = POISON, command: int = 1, client: Client | None = None) -> Client:
    """Somebody's packet has taken two workers with it."""
    client = client or crew.client()
    for name in ("first", "second"):
        if not any(packet.body == body for worker in crew.workers for packet in worker.in_flight):
            crew.worker(name)
            say(crew, client, body, command) if name == "first" else crew.run()
        crew.lose(holder(crew, body))
        crew.worker(f"after {name}")
        crew.run()
    return client


def holder(crew: Crew, body: bytes = POISON) -> Worker:
    [worker] = [worker for worker in crew.workers if any(packet.body == body for packet in worker.in_flight)]
    return worker


def met(crew: Crew, body: bytes = POISON) -> int:
    """How many workers have it in hand now."""
    return sum(packet.body == body for worker in crew.workers for packet in worker.in_flight)


# The memory.


def test_the_same_command_and_body_reach_nobody_for_ten_minutes() -> None:
    crew = Crew()
    poisoned(crew)
    other = crew.client()
    for _ in range(3):
        seq = say(crew, other, POISON)
        assert not met(crew)
        [(status, text)] = other.errors[seq]
        assert status == REFUSED
        assert text.startswith("quarantined")
    assert crew.counters.quarantined == 1
    assert crew.counters.quarantine_refused == 3
    assert not other.session.in_flight
    crew.pass_time(599)
    say(crew, other, POISON)
    assert not met(crew)
    crew.pass_time(2)
    say(crew, other, POISON)
    assert met(crew) == 1
    assert not crew.dispatcher.quarantine.watched  # and costs nothing any more


def test_a_notify_of_the_same_is_dropped_and_counted() -> None:
    crew = Crew()
    poisoned(crew)
    other = crew.client()
    dropped = crew.counters.notifies_dropped
    say(crew, other, POISON, kind=Kind.NOTIFY)
    assert not met(crew)
    assert crew.counters.notifies_dropped == dropped + 1
    assert crew.counters.quarantine_refused == 1
    assert not other.errors


def test_another_body_and_another_command_go_on() -> None:
    crew = Crew()
    poisoned(crew)
    other = crew.client()
    say(crew, other, b"harmless")
    say(crew, other, POISON, command=2)
    crew.pass_time(0.1)
    crew.run()
    assert {(packet.command, packet.body) for worker in crew.workers for packet in worker.in_flight} == {
        (1, b"harmless"),
        (2, POISON),
    }


def test_what_comes_with_it_in_one_read_is_served() -> None:
    crew = Crew()
    poisoned(crew)
    other = crew.client()
    bodies = [b"before", POISON, b"after"]
    crew.dispatcher.receive(other.session, [(0, 1, seq, body) for seq, body in enumerate(bodies)])
    crew.run()
    for worker in crew.workers:
        worker.answer_all()
    assert other.replies == {0: [b"before"], 2: [b"after"]}
    assert [status for status, _ in other.errors[1]] == [REFUSED]


def test_it_can_be_turned_off() -> None:
    crew = Crew(GatewayConfig(quarantine_s=0))
    poisoned(crew)
    say(crew, crew.client(), POISON)
    assert met(crew) == 1
    assert len(crew.dispatcher.quarantine.letters) == 1


def test_events_are_kept_but_refuse_no_packet_of_command_0() -> None:
    crew = Crew()
    crew.worker("first", events=True)
    crew.client()
    crew.run()
    for _ in range(2):
        crew.worker("next", events=True)
        crew.lose(crew.workers[0])
        crew.run()
    assert crew.counters.quarantined == 1
    say(crew, crew.client(), b"", command=0)
    assert not crew.counters.quarantine_refused


# The same packet more than once.


def test_three_copies_sent_at_once_take_two_workers() -> None:
    crew = Crew()
    crew.worker("first")
    client = crew.client()
    say(crew, client, POISON, copies=3)
    assert met(crew) == 3
    crew.worker("second")
    crew.lose(crew.workers[0])
    crew.run()
    assert met(crew) == 1
    crew.worker("third")
    crew.lose(holder(crew))
    crew.run()
    assert not met(crew)
    assert [status for [(status, _)] in client.errors.values()] == [REFUSED] * 3
    assert crew.counters.quarantined == 1
    assert crew.counters.quarantine_refused == 2
    say(crew, client, b"harmless")
    crew.workers[0].answer_all()
    assert client.replies == {4: [b"harmless"]}


def test_a_copy_that_waits_in_a_queue_or_behind_another_packet_meets_nobody() -> None:
    crew = Crew()
    crew.worker("first")
    client, patient, queued = crew.client(), crew.client(), crew.client()
    say(crew, client, POISON)
    crew.worker("second")
    crew.lose(crew.workers[0])
    crew.run()
    [third] = [crew.worker("third")]
    for other in (patient, queued):
        say(crew, other, b"slow")
        crew.pass_time(0.1)
        crew.run()
    third_holds = {packet.lane.session.id for packet in third.in_flight}
    assert third_holds
    third.link.writing = True
    for other in (patient, queued):
        say(crew, other, POISON)
        say(crew, other, b"harmless")
    crew.lose(holder(crew))
    third.link.written()
    for _ in range(10):
        crew.run()
        assert not met(crew)
        for worker in crew.workers:
            worker.answer_all()
        crew.pass_time(0.1)
    for other in (patient, queued):
        assert [status for status, _ in other.errors[2]] == [REFUSED]
        assert set(other.replies) >= {3}
    assert all(pool.load == 0 for pool in crew.dispatcher.pools.values())


def test_a_copy_in_flight_elsewhere_is_not_sent_again_when_its_worker_is_lost_or_gives_it_back() -> None:
    crew = Crew()
    crew.worker("first")
    clients = [crew.client() for _ in range(4)]
    say(crew, clients[0], POISON)
    crew.worker("second")
    crew.lose(crew.workers[0])
    crew.run()
    for name, client in zip(("third", "fourth"), clients[1:], strict=False):
        crew.worker(name)
        say(crew, client, POISON)
        crew.pass_time(0.1)
        crew.run()
    assert met(crew) == 3
    suspect, *others = [worker for worker in crew.workers if worker.in_flight]
    assert suspect.link.suspect is not None
    crew.lose(suspect)
    crew.worker("fifth")
    crew.lose(others[0], crashed=False)
    others[1].answer(*others[1].in_flight, status=Status.UNAVAILABLE, not_started=True)
    crew.pass_time(0.1)
    crew.run()
    assert not met(crew)
    assert [status for client in clients[:3] for status, _ in client.errors[1]] == [REFUSED] * 3


def test_what_workers_answer_in_doubt_is_not_refused_for_everybody() -> None:
    """An empty body that everybody sends, and two workers that crash for reasons of their own."""
    crew = Crew()
    crew.worker("first")
    clients = [crew.client() for _ in range(3)]
    crew.dispatcher.receive(clients[0].session, [(0, 1, 1, b"")])
    crew.dispatcher.receive(clients[1].session, [(0, 1, 1, b"")])
    crew.pass_time(0.1)
    crew.run()
    crew.worker("second")
    crew.lose(crew.workers[0])
    crew.run()
    crew.workers[0].answer_all()
    crew.run()
    crew.worker("third")
    crew.lose(crew.workers[0])
    assert crew.counters.quarantined == 1
    say(crew, clients[2], b"")
    assert met(crew, b"") == 1


def test_an_answer_to_the_same_elsewhere_ends_the_refusal() -> None:
    crew = Crew()
    crew.worker("first")
    unlucky, well, later = (crew.client() for _ in range(3))
    say(crew, unlucky, b"")
    crew.worker("second")
    crew.lose(crew.workers[0])
    crew.run()
    third = crew.worker("third")
    say(crew, well, b"")
    crew.pass_time(0.1)
    crew.run()
    assert third.in_flight
    crew.lose(crew.workers[0])
    assert crew.counters.quarantined == 1
    assert crew.dispatcher.quarantine.watched
    third.answer_all()
    assert well.replies == {1: [b""]}
    say(crew, later, b"")
    third.answer_all()
    assert later.replies == {1: [b""]}


# What is not sent again.


def test_a_notify_that_may_run_once_is_known_again_when_it_comes_again() -> None:
    crew = Crew()
    client = crew.client()
    for name in ("first", "second"):
        worker = crew.worker(name)
        say(crew, client, POISON, kind=Kind.NOTIFY)
        assert met(crew) == 1
        crew.lose(worker)
    assert crew.counters.quarantined == 1
    [letter] = crew.dispatcher.quarantine.letters.values()
    assert letter.workers == ("first", "second")
    crew.worker("third")
    say(crew, client, POISON, kind=Kind.NOTIFY)
    assert not met(crew)
    assert crew.counters.notifies_dropped == 3


@pytest.mark.parametrize("given_up", ["deadline", "client"])
def test_a_request_that_nobody_waits_for_any_more_is_known_again(given_up: str) -> None:
    """Its deadline was shorter than it takes to find that a worker stands still; or its client went at once."""
    crew = Crew(GatewayConfig(routes=(RouteConfig(commands="1", deadline_ms=1000),)))
    for name in ("first", "second"):
        worker = crew.worker(name)
        client = crew.client()
        say(crew, client, POISON)
        assert met(crew) == 1
        if given_up == "client":
            crew.leave(client)
        crew.pass_time(1.1)
        assert not met(crew)
        crew.pass_time(1.4)
        freeze(crew, worker)
    assert crew.counters.quarantined == 1
    crew.worker("third")
    client = crew.client()
    say(crew, client, POISON)
    assert not met(crew)
    assert [status for status, _ in client.errors[1]] == [REFUSED]


def test_what_has_hung_for_long_is_not_what_a_worker_died_of() -> None:
    crew = Crew(GatewayConfig(routes=(RouteConfig(commands="1", deadline_ms=1000),)))
    for name in ("first", "second"):
        worker = crew.worker(name)
        say(crew, crew.client(), b"hangs")
        crew.pass_time(1.1)
        crew.pass_time(10)
        crew.lose(worker)
    assert crew.counters.quarantined == 0


def all_hit_at_once(body: bytes) -> tuple[Crew, list[Client]]:
    """Three workers, each with a packet that is the same, are lost within a moment."""
    crew = Crew()
    clients = [crew.client() for _ in range(3)]
    for number, client in enumerate(clients):
        crew.worker(f"worker {number}")
        say(crew, client, body)
        crew.pass_time(0.1)
        crew.run()
    for worker in [worker for worker in crew.workers if worker.in_flight]:
        crew.now += 0.01
        crew.lose(worker)
    assert not crew.workers
    return crew, clients


def test_copies_on_three_workers_at_once_take_one_more_with_them() -> None:
    crew, clients = all_hit_at_once(POISON)
    crew.worker("another")
    crew.run()
    crew.lose(holder(crew))
    crew.worker("last")
    crew.run()
    assert not met(crew)
    assert [status for client in clients for status, _ in client.errors[1]] == [REFUSED] * 3


def test_when_a_host_dies_with_all_its_workers_what_everybody_sends_is_not_refused_after_it() -> None:
    crew, clients = all_hit_at_once(b"")
    for name in ("again a", "again b", "again c"):
        crew.worker(name)
    for _ in range(5):
        crew.run()
        for worker in crew.workers:
            worker.answer_all()
    assert all(client.replies[1] for client in clients)
    for client in clients:
        say(crew, client, b"")
        for worker in crew.workers:
            worker.answer_all()
        assert client.replies[2]
    assert crew.counters.quarantined == 0


def test_what_is_written_to_a_worker_that_is_dead_already_is_not_blamed() -> None:
    crew = Crew()
    crew.dispatcher.quarantine.moment_s = 0.05
    for name, later_s in (("first", 0.0), ("second", 0.01), ("third", 0.1)):
        worker = crew.worker(name)
        crew.now += later_s
        say(crew, crew.client(), b"", kind=Kind.NOTIFY)
        crew.lose(worker)
        assert crew.counters.quarantined == (name == "third")


def test_a_suspect_rests_for_a_moment_in_which_other_workers_may_die_too() -> None:
    """Else it is sent to one that is dead already, and blamed for that."""
    crew = Crew()
    later: list[Callable[[], None]] = []
    crew.dispatcher.after_a_moment = later.append
    first, client = crew.worker("first"), crew.client()
    say(crew, client, b"innocent")
    second = crew.worker("second")
    crew.lose(first)
    crew.run()
    assert not met(crew, b"innocent")
    crew.lose(second)
    crew.worker("third")
    for act in later:
        act()
    crew.run()
    for worker in crew.workers:
        worker.answer_all()
    assert client.replies[1]


def test_an_answer_in_between_acquits_and_time_does_too() -> None:
    for wait_s, answered in ((0.0, True), (suspicion.ACCUSED_S + 1, False)):
        crew = Crew()
        client = crew.client()
        for name in ("first", "second"):
            worker = crew.worker(name)
            say(crew, client, b"", kind=Kind.NOTIFY)
            if name == "second":
                assert met(crew, b"") == 1
            crew.lose(worker)
            if name == "first" and answered:
                well = crew.worker("well")
                say(crew, client, b"", kind=Kind.NOTIFY)
                well.answer_all()
                crew.lose(well, crashed=False)
            crew.pass_time(wait_s)
        assert crew.counters.quarantined == 0, (wait_s, answered)
        assert not crew.dispatcher.quarantine.accused or not answered


def test_two_that_are_the_same_as_before_leave_it_open_which_it_was() -> None:
    crew = Crew()
    client = crew.client()
    for name in ("first", "second"):
        worker = crew.worker(name)
        for body in (b"one", b"two"):
            say(crew, client, body, kind=Kind.NOTIFY)
            crew.pass_time(0.1)
            crew.run()
        assert len(worker.in_flight) == 2
        crew.lose(worker)
    assert crew.counters.quarantined == 0


# A worker that fell silent.


def freeze(crew: Crew, worker: Worker, blame: bool = True) -> None:
    crew.dispatcher.suspected(worker.link)
    crew.workers.remove(worker)
    crew.dispatcher.lost(worker.link, crashed=True, blame=blame)


def test_a_packet_that_blocks_its_worker_meets_two() -> None:
    crew = Crew()
    crew.worker("first")
    client = crew.client()
    say(crew, client, POISON)
    crew.worker("second")
    freeze(crew, crew.workers[0])
    crew.run()
    crew.worker("third")
    freeze(crew, holder(crew))
    crew.run()
    assert not met(crew)
    assert [status for status, _ in client.errors[1]] == [REFUSED]


def test_when_the_others_are_silent_too_nothing_is_to_blame() -> None:
    crew = Crew()
    crew.worker("first")
    client = crew.client()
    say(crew, client, POISON)
    crew.worker("second")
    freeze(crew, crew.workers[0], blame=False)
    crew.run()
    crew.worker("third")
    freeze(crew, holder(crew), blame=False)
    crew.run()
    assert crew.counters.quarantined == 0
    holder(crew).answer_all()
    assert client.replies == {1: [POISON]}


def test_what_a_silent_worker_has_not_read_is_not_suspect() -> None:
    crew = Crew()
    worker = crew.worker("first", max_in_flight=2000)
    early = [crew.client() for _ in range(3)]
    for client in early:
        crew.send(client, 1)
    crew.pass_time(0.1)
    crew.run()
    answered = worker.in_flight[0]
    worker.answer(answered)
    worker.link.sent_when_it_spoke = worker.link.sent
    for _ in range(4):
        worker.link.limit.now = 2000
        for _ in range(FULL_BATCH // 2):
            crew.send(crew.client(), 1)
        crew.pass_time(0.1)
        crew.run()
    assert len(worker.in_flight) == 2 + 2 * FULL_BATCH
    freeze(crew, worker)
    assert len(worker.link.pool.suspects) == 2 + FULL_BATCH


def test_suspects_that_have_little_time_left_go_together() -> None:
    """Of a frozen worker with slow handlers: one at a time, most of them would be past their deadlines."""
    crew = Crew()
    crew.worker("first")
    clients = [crew.client() for _ in range(40)]
    for client in clients:
        crew.send(client, 1)
    crew.pass_time(0.1)
    crew.run()
    second = crew.worker("second")
    crew.pass_time(2.4)
    freeze(crew, crew.workers[0])
    crew.run()
    assert len(second.in_flight) == 1
    for _ in range(5):
        crew.pass_time(0.1)
        second.answer_all()
        crew.run()
        assert len(second.in_flight) == 1
    for _ in range(2):
        crew.pass_time(0.5)
        crew.run()
    crew.pass_time(0.1)
    crew.run()
    assert len(second.in_flight) == 35
    second.answer_all()
    crew.run()
    assert all(client.replies for client in clients)
    assert all(pool.load == 0 for pool in crew.dispatcher.pools.values())


def test_a_draining_worker_that_ends_makes_nothing_suspect() -> None:
    crew = Crew()
    crew.worker("first")
    say(crew, crew.client(), POISON)
    crew.dispatcher.draining(crew.workers[0].link)
    assert crew.workers[0].link.state is LinkState.DRAINING
    crew.worker("second")
    crew.lose(crew.workers[0], crashed=False)
    crew.run()
    assert not any(packet.suspect for packet in crew.workers[0].in_flight)


# What is kept.


def test_a_dead_letter_says_what_it_was_and_who_was_lost() -> None:
    crew = Crew()
    client = crew.client()
    crew.sessions.bind(client.session, "ann")
    poisoned(crew, client=client)
    [letter] = crew.dispatcher.quarantine.letters.values()
    assert (letter.service, letter.command, letter.body) == ("echo", 1, POISON)
    assert (letter.session, letter.user, letter.peer) == (client.session.id, "ann", "10.0.0.1:5")
    assert letter.id == f"{client.session.id:x}-{1:x}"  # the request's key, as its workers have logged it
    assert letter.workers == ("first", "after first")
    say(crew, crew.client(), POISON)
    assert letter.refused == 1
    assert crew.counters.dead_letters == 1


def test_letters_are_bounded_in_number_and_bytes_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "MAX_LETTERS", 3)
    monkeypatch.setattr(quarantine, "MAX_LETTER_BYTES", 100)
    crew = Crew()
    for number in range(5):
        poisoned(crew, b"%d" % number)
    kept = crew.dispatcher.quarantine
    assert [letter.body for letter in kept.letters.values()] == [b"2", b"3", b"4"]
    assert crew.counters.dead_letters == 3
    assert crew.counters.dead_letters_dropped == 2
    poisoned(crew, bytes(99))
    assert [len(letter.body) for letter in kept.letters.values()] == [1, 99]
    assert crew.counters.dead_letters_dropped == 4
    assert sum(map(len, kept.watched.values())) == 2
    say(crew, crew.client(), b"3")  # what is forgotten may come again
    assert met(crew, b"3") == 1


def test_a_read_costs_one_look_while_nothing_is_quarantined(monkeypatch: pytest.MonkeyPatch) -> None:
    """And bodies of commands that have no entry are not hashed."""
    crew = Crew(GatewayConfig(routes=(RouteConfig(commands="*", service="echo"),)))
    poisoned(crew)
    hashed: list[bytes] = []

    def count(body: bytes) -> bytes:
        hashed.append(body)
        return b""

    monkeypatch.setattr(quarantine, "digest", count)
    client = crew.client()
    say(crew, client, b"x" * 100, command=2)
    assert not hashed
    say(crew, client, b"x" * 100, command=1)
    assert hashed


def test_no_suspect_goes_to_a_worker_that_has_missed_a_heartbeat() -> None:
    """It may hang already, over what another gateway has sent it: the suspect would be blamed for that."""
    crew = Crew()
    first = crew.worker("a")
    crew.send(crew.client(), 1)
    crew.run()
    silent = crew.worker("b")
    silent.link.spoke_at = crew.now - 1.01 * QUIET_S
    crew.pass_time(0.0)
    crew.lose(first)
    crew.run()
    assert not silent.in_flight
    silent.link.spoke_at = crew.now
    crew.pass_time(0.1)
    crew.run()
    assert len(silent.in_flight) == 1


# Who is to blame.


def suspect_on(crew: Crew, other: bytes) -> tuple[Client, Worker]:
    """A worker was lost with somebody's "harmless" and with another packet; "harmless" is with a second worker now."""
    crew.worker("first")
    unlucky = crew.client()
    say(crew, unlucky, b"harmless")
    say(crew, crew.client(), other, kind=Kind.NOTIFY)
    crew.pass_time(0.1)
    crew.run()
    second = crew.worker("second")
    crew.lose(crew.workers[0])
    crew.run()
    assert second.link.suspect is not None
    return unlucky, second


def test_who_sends_again_what_crashes_workers_gets_nobody_elses_packet_quarantined() -> None:
    crew = Crew()
    unlucky, second = suspect_on(crew, POISON)
    attacker = crew.client()
    say(crew, attacker, POISON)
    crew.pass_time(0.1)
    crew.run()
    assert {packet.body for packet in second.in_flight} == {b"harmless", POISON}
    crew.lose(second)
    crew.worker("third")
    crew.run()
    [letter] = crew.dispatcher.quarantine.letters.values()
    assert (letter.body, letter.workers) == (POISON, ("first", "second"))
    assert [status for status, _ in attacker.errors[1]] == [REFUSED]
    # It has been with two workers that were lost, so it goes to no third; but whoever sends it is served.
    assert not met(crew, b"harmless")
    assert [status for status, _ in unlucky.errors[1]] == [Status.UNAVAILABLE]
    say(crew, unlucky, b"harmless")
    say(crew, crew.client(), POISON)
    holder(crew, b"harmless").answer_all()
    assert unlucky.replies == {2: [b"harmless"]}
    assert not met(crew)
    assert all(pool.load == 0 for pool in crew.dispatcher.pools.values())


def test_a_suspect_is_to_blame_though_packets_that_are_new_are_there_or_copies_of_itself() -> None:
    for fresh in (b"new", b"harmless"):
        crew = Crew()
        unlucky, second = suspect_on(crew, POISON)
        say(crew, crew.client(), fresh)
        crew.pass_time(0.1)
        crew.run()
        assert len(second.in_flight) == 2
        crew.lose(second)
        assert [letter.number for letter in crew.dispatcher.quarantine.letters.values()] == [1]
        assert [status for status, _ in unlucky.errors[1]] == [REFUSED]


def test_a_bystander_that_takes_a_third_worker_after_all_is_quarantined() -> None:
    crew = Crew()
    unlucky, second = suspect_on(crew, POISON)
    say(crew, crew.client(), POISON)
    crew.pass_time(0.1)
    crew.run()
    crew.lose(second)
    crew.worker("third")
    say(crew, unlucky, b"harmless")
    crew.lose(holder(crew, b"harmless"))
    crew.worker("fourth")
    crew.run()
    assert [letter.body for letter in crew.dispatcher.quarantine.letters.values()] == [POISON, b"harmless"]
    say(crew, crew.client(), b"harmless")
    assert not met(crew, b"harmless")


# Several gateways.


class Gateways:
    """Crews that tell each other, at once or when `deliver` is called."""

    def __init__(self, count: int = 2, at_once: bool = True) -> None:
        self.crews = [Crew() for _ in range(count)]
        self.told: list[tuple[Crew, Suspicion]] = []
        for crew in self.crews:
            crew.dispatcher.quarantine.tell = lambda suspicion, crew=crew: self._tell(crew, suspicion, at_once)  # type: ignore[misc]

    @staticmethod
    def beside(crew: Crew) -> Crew:
        """Another gateway, which tells this one."""
        other = Crew()
        other.dispatcher.quarantine.tell = crew.dispatcher.hear
        return other

    def _tell(self, teller: Crew, suspicion: Suspicion, at_once: bool) -> None:
        self.told.append((teller, suspicion))
        if at_once:
            self.deliver()

    def deliver(self) -> None:
        told, self.told = self.told, []
        for teller, found in told:
            for crew in self.crews:
                if crew is not teller:
                    crew.dispatcher.hear(found)

    def lose(self, name: str, *crews: Crew, incarnation: str = "") -> None:
        """The process of a worker that all have a link to; these have given it something."""
        for crew in crews:
            [worker] = [worker for worker in crew.workers if worker.link.worker_id == name]
            worker.link.incarnation = incarnation
            crew.lose(worker)


def tell(crew: Crew, body: bytes = POISON) -> None:
    """Somebody says it, and does not wait for an answer."""
    say(crew, crew.client(), body, kind=Kind.NOTIFY)


def test_what_one_gateway_quarantines_reaches_nobody_at_another_for_ten_minutes() -> None:
    first, second = Gateways().crews
    poisoned(first)
    second.worker("well")
    client = second.client()
    seq = say(second, client, POISON)
    assert not met(second)
    [(status, text)] = client.errors[seq]
    assert (status, text.startswith("quarantined")) == (REFUSED, True)
    assert (second.counters.quarantined, second.counters.quarantined_elsewhere) == (0, 1)
    assert (second.counters.quarantine_refused, second.counters.dead_letters) == (1, 0)
    second.pass_time(601)
    say(second, client, POISON)
    assert met(second) == 1
    assert not second.dispatcher.quarantine.watched


def test_what_is_quarantined_again_is_refused_for_ten_minutes_more() -> None:
    first, second = Gateways().crews
    client = poisoned(first)
    second.worker("well")
    for crew in (first, second):
        crew.pass_time(400)
    [letter] = first.dispatcher.quarantine.letters.values()
    first.dispatcher.replay(client.session, letter)
    first.run()
    first.lose(holder(first))
    for wait_s, is_served in ((400, False), (201, True)):
        for crew in (first, second):
            crew.pass_time(wait_s)
        say(second, second.client(), POISON)
        assert met(second) == is_served
    second.workers[0].answer_all()
    poisoned(Gateways.beside(second), b"again")
    second.pass_time(601)  # nobody has looked since it ended
    poisoned(Gateways.beside(second), b"again")
    say(second, second.client(), b"again")
    assert not met(second, b"again")


def lost_at_two_gateways(at_once: bool) -> Gateways:
    """Two of three gateways have lost a worker each with the same packet; all have another worker now."""
    gateways = Gateways(3, at_once)
    for number, crew in enumerate(gateways.crews[:2]):
        crew.worker(f"worker {number}")
        tell(crew)
        for each in gateways.crews:
            each.now += 2
        gateways.lose(f"worker {number}", crew)
    gateways.deliver()
    for crew in gateways.crews:
        crew.worker("well")
        say(crew, crew.client(), POISON)
    return gateways


def test_one_worker_lost_at_each_of_two_gateways_makes_two() -> None:
    gateways = lost_at_two_gateways(at_once=True)
    assert not any(map(met, gateways.crews))
    [letter] = gateways.crews[1].dispatcher.quarantine.letters.values()
    assert letter.workers == ("worker 0", "worker 1")


def test_what_two_gateways_tell_of_at_the_same_time_may_have_one_cause_and_the_next_loss_decides() -> None:
    gateways = lost_at_two_gateways(at_once=False)
    *_, third = gateways.crews
    assert met(third) == 1
    gateways.lose("well", third)
    third.worker("last")
    say(third, third.client(), POISON)
    assert not met(third)


def test_a_worker_that_two_gateways_lose_at_once_is_one() -> None:
    """Whether they hear of each other's loss before they see their own, or after."""
    for at_once in (True, False):
        for incarnation in ("", "a life"):
            gateways = Gateways(2, at_once)
            for crew in gateways.crews:
                crew.worker("one")
                tell(crew, b"")
            gateways.lose("one", *gateways.crews, incarnation=incarnation)
            gateways.deliver()
            for crew in gateways.crews:
                crew.worker("well")
                say(crew, crew.client(), b"")
                assert met(crew, b"") == 1
                assert not crew.counters.quarantined + crew.counters.quarantined_elsewhere


def test_its_next_process_is_another() -> None:
    gateways = Gateways()
    for incarnation, crew in zip(("first life", "second life"), gateways.crews, strict=True):
        crew.worker("one")
        tell(crew)
        gateways.lose("one", crew, incarnation=incarnation)
    first, second = gateways.crews
    assert second.counters.quarantined == 1
    assert first.counters.quarantined_elsewhere == 1


def test_what_is_answered_at_one_gateway_is_accused_and_refused_at_none() -> None:
    gateways = Gateways()
    first, second = gateways.crews
    poisoned(first, b"")
    assert second.dispatcher.quarantine.watched
    first.worker("well")
    [letter] = first.dispatcher.quarantine.letters.values()
    first.dispatcher.replay(first.client().session, letter)
    first.run()
    holder(first, b"").answer_all()
    assert not second.dispatcher.quarantine.watched
    second.worker("unlucky")
    tell(second, b"")
    gateways.lose("unlucky", second)
    assert not second.dispatcher.quarantine.accused  # it is known for some time that it is harmless
    assert not first.dispatcher.quarantine.accused


def test_what_waits_at_another_gateway_is_refused_when_it_hears() -> None:
    gateways = Gateways()
    first, second = gateways.crews
    waiting = second.client()
    second.worker("gone")
    say(second, waiting, POISON)
    second.lose(second.workers[0], crashed=False)
    assert not waiting.errors
    poisoned(first)
    assert [status for status, _ in waiting.errors[1]] == [REFUSED]
    assert all(pool.load == 0 for pool in second.dispatcher.pools.values())


def test_several_that_two_losses_have_in_common_leave_it_open() -> None:
    gateways = Gateways(3, at_once=False)
    for number, crew in enumerate(gateways.crews[:2]):
        crew.worker(f"worker {number}")
        for body in (b"one", b"two"):
            tell(crew, body)
            crew.pass_time(0.1)
            crew.run()
        gateways.lose(f"worker {number}", crew)
    gateways.deliver()
    assert not any(crew.counters.quarantined_elsewhere for crew in gateways.crews)


def test_what_others_say_is_bounded_and_nonsense_is_not_kept() -> None:
    crew = Crew()
    kept = crew.dispatcher.quarantine
    lost = Lost("w")
    for number in range(3000):
        for finding in Finding:
            body = digest(b"%d %d" % (number, finding))
            crew.dispatcher.hear(Suspicion(finding, "echo", lost, ((number % 7, body),)))
    assert len(kept.accused) == suspicion.MAX_ACCUSED
    assert sum(map(len, kept.watched.values())) == len(kept._elsewhere) == quarantine.MAX_ELSEWHERE
    assert len(kept._acquitted) == quarantine.MAX_ACQUITTED
    other = Crew()
    many = tuple((1, digest(b"%d" % number)) for number in range(3000))
    other.dispatcher.hear(Suspicion(Finding.QUARANTINED, "echo", lost, many))
    assert other.counters.quarantined_elsewhere == quarantine.MOST_HASHED
    for bad in (
        Suspicion(Finding.QUARANTINED, "echo", lost, ((2, b"short"),)),
        Suspicion(Finding.QUARANTINED, "echo", lost, ((1 << 16, bytes(16)),)),
        Suspicion(Finding.QUARANTINED, "e" * 1000, lost, ((2, bytes(16)),)),
        Suspicion(Finding.QUARANTINED, "echo", Lost("w" * 1000), ((2, bytes(16)),)),
    ):
        other.dispatcher.hear(bad)
    assert list(other.dispatcher.quarantine.watched) == [1]


def test_a_client_hears_that_it_is_quarantined_when_the_others_have_been_told() -> None:
    """It may try another gateway at once."""
    crew = Crew()
    held = []
    crew.dispatcher.after_told = held.append
    client = poisoned(crew)
    assert not client.errors
    for act in held:
        act()
    assert [status for status, _ in client.errors[1]] == [REFUSED]
    assert not client.session.in_flight
