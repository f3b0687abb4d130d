"""Who gets a packet and what becomes of it: balancing, order, failover, deadlines, limits. No sockets, no clock."""

from typing import Any

import pytest

from gatecrew_gateway.admission import WAIT_S, Admission
from gatecrew_gateway.codec import Kind, Status
from gatecrew_gateway.config import GatewayConfig, RouteConfig
from gatecrew_gateway.deadlines import NO_WORKER_WAIT_S
from gatecrew_gateway.dispatcher import CLOSE, OPEN
from gatecrew_gateway.routing.lane import Lane, Pending
from gatecrew_gateway.routing.link import REST_S
from gatecrew_gateway.routing.pool import FULL_BATCH, LINGER_S, WORTH_A_BATCH
from gatecrew_gateway.session import Session
from gateway.crew import Client, Crew, Worker

pytestmark = pytest.mark.quick


def routes(**options: object) -> GatewayConfig:
    return GatewayConfig(routes=(RouteConfig(commands="1", **options),))  # type: ignore[arg-type]


def statuses(errors: dict[int, list[tuple[int, str]]]) -> dict[int, int]:
    return {seq: status for seq, [(status, _)] in errors.items()}


# Round robin.


def test_one_packet_at_a_time_goes_round() -> None:
    crew = Crew()
    workers = [crew.worker(name) for name in "abc"]
    client = crew.client()
    for _ in range(9):
        crew.send(client, 1)
        crew.run()
        for worker in workers:
            worker.answer_all()
        crew.run()
    assert [execution.worker for execution in crew.executions] == list("abcabcabc")


def test_packets_gather_while_every_worker_is_busy_and_go_with_the_next_answer() -> None:
    crew = Crew()
    worker = crew.worker("a")
    clients = [crew.client() for _ in range(5)]
    crew.send(clients[0], 1)
    crew.run()
    for client in clients[1:]:
        crew.send(client, 1)
        crew.run()
    assert [len(batch) for batch in worker.batches] == [1]
    worker.answer_all()
    crew.run()
    assert [len(batch) for batch in worker.batches] == [1, 4]


def test_gathering_ends_after_the_linger() -> None:
    crew = Crew()
    worker = crew.worker("a")
    first, second = crew.client(), crew.client()
    crew.send(first, 1)
    crew.run()
    crew.send(second, 1)
    crew.run()
    assert len(worker.batches) == 1
    crew.pass_time(LINGER_S)
    crew.run()
    assert len(worker.batches) == 2


@pytest.mark.parametrize("is_bound", [True, False])
def test_what_gathers_during_a_write_goes_soon_after_it_although_nothing_is_answered(is_bound: bool) -> None:
    crew = Crew()
    worker = crew.worker("a")
    worker.writes_slowly = True
    client = crew.client()
    crew.send(client, 1)
    crew.run()
    crew.send(client if is_bound else crew.client(), 1)
    crew.now += LINGER_S
    crew.linger()
    crew.run()
    worker.wrote()
    crew.now += LINGER_S
    crew.linger()
    crew.run()
    assert [len(batch) for batch in worker.batches] == [1, 1]


def test_a_full_batch_does_not_wait() -> None:
    crew = Crew()
    worker = crew.worker("a")
    worker.link.limit.now = 2 * FULL_BATCH
    crew.send(crew.client(), 1)
    crew.run()
    for _ in range(FULL_BATCH):
        crew.send(crew.client(), 1)
    crew.run()
    assert [len(batch) for batch in worker.batches] == [1, FULL_BATCH]


def test_an_idle_worker_is_called_early_when_enough_has_gathered() -> None:
    crew = Crew()
    first, second = crew.worker("a"), crew.worker("b")
    for count in range(1, 2 + WORTH_A_BATCH):
        crew.send(crew.client(), 1)
        crew.run()
        assert len(second.batches) == (count > WORTH_A_BATCH)
    assert [len(batch) for batch in first.batches + second.batches] == [1, 9]  # its share of what is open


def test_a_worker_whose_write_is_stuck_gets_no_turn() -> None:
    crew = Crew()
    stuck, well = crew.worker("a"), crew.worker("b")
    stuck.link.writing = True
    for _ in range(4):
        crew.send(crew.client(), 1)
        crew.run()
        well.answer_all()
    assert {execution.worker for execution in crew.executions} == {"b"}


def test_the_linger_favours_the_least_loaded() -> None:
    crew = Crew()
    slow, well = crew.worker("a"), crew.worker("b")
    for _ in range(2):
        crew.send(crew.client(), 1)
        crew.pass_time(LINGER_S)
        crew.run()
    assert slow.in_flight
    assert well.in_flight
    for _ in range(10):
        crew.send(crew.client(), 1)
        crew.pass_time(LINGER_S)
        crew.run()
        well.answer_all()
        crew.run()
    assert len(slow.in_flight) <= 2  # the first time both had one


@pytest.mark.parametrize("places", [1, 4])
def test_who_waits_for_a_worker_is_not_kept_out_by_sessions_that_have_one(places: int) -> None:
    crew = Crew()
    worker = crew.worker("a", max_in_flight=places)
    crew.send(crew.client(), 1)
    crew.run()
    worker.answer_all()  # the handler is known to be fast
    bound = [crew.client() for _ in range(places)]
    for _ in range(2):
        for client in bound:
            crew.send(client, 1)
        crew.run()
    late = crew.client()
    crew.send(late, 1)
    for _ in range(10):
        for client in bound:
            crew.send(client, 1)
        worker.answer_all()
        crew.pass_time(LINGER_S)
        crew.run()
    assert list(late.replies) == [1]


# Order.


def test_a_session_stays_with_its_worker_while_something_is_in_flight() -> None:
    crew = Crew()
    workers = [crew.worker(name) for name in "abc"]
    client = crew.client()
    for _ in range(6):
        crew.send(client, 1)
        crew.pass_time(LINGER_S)
        crew.run()
    assert {execution.worker for execution in crew.executions} == {"a"}
    workers[0].answer_all()
    crew.send(client, 1)
    crew.run()
    assert crew.executions[-1].worker == "b"


def test_order_none_spreads_one_session() -> None:
    crew = Crew(routes(order="none"))
    for name in "abc":
        crew.worker(name)
    client = crew.client()
    for _ in range(3):
        crew.send(client, 1)
        crew.pass_time(LINGER_S)
        crew.run()
    assert {execution.worker for execution in crew.executions} == set("abc")


def test_order_strict_has_one_in_flight() -> None:
    crew = Crew(routes(order="strict"))
    workers = [crew.worker(name) for name in "ab"]
    client = crew.client()
    crew.send(client, 1, 1, 1)
    for done in range(1, 4):
        crew.run()
        assert sum(len(worker.in_flight) for worker in workers) == 1
        for worker in workers:
            worker.answer_all()
        assert sum(map(len, client.replies.values())) == done


def test_a_worker_without_order_gets_one_packet_of_a_session_at_a_time() -> None:
    crew = Crew()
    worker = crew.worker("a", one_at_a_time=True)
    client = crew.client()
    crew.send(client, 1, 1)
    crew.send(client, 1)
    for _ in range(3):
        crew.run()
        assert len(worker.in_flight) == 1
        worker.answer_all()
    assert sorted(client.replies) == [1, 2, 3]


# Failover.


def test_the_unanswered_suffix_moves_as_one_block_and_newer_packets_wait_behind_it() -> None:
    crew = Crew()
    first = crew.worker("a")
    client = crew.client()
    crew.send(client, 1, 1, 1, 1)
    crew.run()
    first.answer(first.in_flight[0])
    second = crew.worker("b")
    crew.lose(first, crashed=False)
    crew.send(client, 1, 1)
    crew.run()
    assert [(p.seq, p.attempt) for p in second.in_flight] == [(2, 1), (3, 1), (4, 1), (5, 0), (6, 0)]
    second.answer_all()
    assert all(client.outcomes(seq) == 1 for seq in range(1, 7))


def test_what_was_not_written_moves_freely() -> None:
    crew = Crew(routes(delivery="at-most-once"))
    first = crew.worker("a")
    client = crew.client()
    crew.send(client, 1)
    crew.run()
    crew.send(client, 1)  # joins the queue of the busy link
    second = crew.worker("b")
    crew.lose(first)
    crew.run()
    assert statuses(client.errors) == {1: Status.ABORTED}
    assert [(p.seq, p.attempt) for p in second.in_flight] == [(2, 0)]
    assert crew.counters.outcome_unknown == 1


def test_three_workers_lost_with_a_request_end_it() -> None:
    crew = Crew()
    client = crew.client()
    crew.send(client, 1)
    crew.worker("a")
    crew.send(client, 1)
    for name in "bcd":
        crew.run()
        crew.worker(name)
        crew.lose(crew.workers[0], crashed=False)
    assert statuses(client.errors) == {1: Status.UNAVAILABLE, 2: Status.UNAVAILABLE}
    assert [execution.worker for execution in crew.executions] == list("abc")


def test_notifies_are_dropped_by_default_and_resent_on_request() -> None:
    for delivery, resent in (("at-most-once", 0), ("at-least-once", 1)):
        crew = Crew(routes(notify_delivery=delivery))
        first = crew.worker("a")
        crew.send(crew.client(), 1, kind=Kind.NOTIFY)
        crew.run()
        second = crew.worker("b")
        crew.lose(first, crashed=False)
        crew.run()
        assert len(second.in_flight) == resent
        assert crew.counters.notifies_dropped == 1 - resent


def test_a_late_answer_of_a_lost_worker_is_dropped() -> None:
    crew = Crew()
    first = crew.worker("a")
    client = crew.client()
    crew.send(client, 1)
    crew.run()
    [packet] = first.in_flight
    second = crew.worker("b")
    crew.lose(first, crashed=False)
    crew.run()
    second.answer_all()
    first.answer(packet)
    assert client.replies == {1: [b"1"]}
    assert crew.counters.late_replies == 1


def test_suspects_go_one_at_a_time_and_the_culprit_never_meets_a_third_worker() -> None:
    crew = Crew()
    first = crew.worker("a")
    clients = [crew.client() for _ in range(3)]
    for client in clients:
        crew.send(client, 1)
    crew.run()
    assert len(first.in_flight) == 3
    second = crew.worker("b")
    crew.lose(first)
    crew.run()
    assert len(second.in_flight) == 1
    second.answer_all()
    crew.run()
    [culprit] = second.in_flight
    third = crew.worker("c")
    crew.lose(second)
    crew.run()
    assert crew.counters.quarantined == 1
    assert culprit not in third.in_flight
    third.answer_all()
    crew.run()
    assert sum(len(client.errors) for client in clients) == 1
    assert all(client.outcomes(1) == 1 for client in clients)


def test_a_crash_while_a_suspect_is_out_clears_the_others() -> None:
    crew = Crew()
    first = crew.worker("a")
    crew.send(crew.client(), 1)
    crew.run()
    second = crew.worker("b")
    crew.lose(first)
    crew.run()
    crew.send(crew.client(), 2)
    crew.pass_time(LINGER_S)
    crew.run()
    assert len(second.in_flight) == 2
    third = crew.worker("c")
    crew.lose(second)
    crew.run()
    [innocent] = third.in_flight
    assert not innocent.suspect


# Draining and giving back.


def test_a_draining_worker_gets_nothing_new_and_nothing_is_redelivered() -> None:
    crew = Crew()
    first = crew.worker("a")
    client = crew.client()
    crew.send(client, 1)
    crew.run()
    crew.send(client, 1)  # queued behind the first, not written
    second = crew.worker("b")
    crew.dispatcher.draining(first.link)
    crew.send(client, 1)
    crew.run()
    assert not second.in_flight  # the lane finishes where it is
    first.answer_all()
    crew.run()
    assert [(p.seq, p.attempt) for p in second.in_flight] == [(2, 0), (3, 0)]
    crew.lose(first, crashed=False)
    assert crew.counters.redelivered == 0


def test_what_was_not_started_goes_elsewhere_in_order() -> None:
    crew = Crew()
    first = crew.worker("a")
    client = crew.client()
    crew.send(client, 1, 1, 1)
    crew.run()
    second = crew.worker("b")
    crew.dispatcher.draining(first.link)
    first.answer(*first.in_flight, status=Status.UNAVAILABLE, not_started=True)
    crew.send(client, 1)
    crew.run()
    assert [(p.seq, p.attempt) for p in second.in_flight] == [(1, 0), (2, 0), (3, 0), (4, 0)]


def test_what_was_given_back_goes_to_another_worker() -> None:
    """Also at once: the worker that gave it back has the next turn."""
    crew = Crew()
    full, idle = crew.worker("full"), crew.worker("idle")
    for _ in range(20):
        client = crew.client()
        crew.send(client, 1)
        crew.run()
        full.answer(*full.in_flight, status=Status.UNAVAILABLE, not_started=True)
        crew.run()
        idle.answer_all()
        assert list(client.replies) == [1]
        crew.pass_time(0.1)
    assert crew.counters.returned_not_started < 10


def test_a_worker_that_gives_back_rests_a_while_and_not_for_ever() -> None:
    crew = Crew()
    worker = crew.worker("a")
    client = crew.client()
    crew.send(client, 1)
    crew.run()
    worker.answer(*worker.in_flight, status=Status.UNAVAILABLE, not_started=True)
    crew.run()
    assert worker.in_flight == []
    crew.pass_time(REST_S)
    crew.run()
    worker.answer_all()
    assert list(client.replies) == [1]


@pytest.mark.row(14)
def test_giving_back_for_ever_is_ended() -> None:
    crew = Crew()
    worker = crew.worker("a")
    clients = [crew.client() for _ in range(100)]
    for client in clients:
        crew.send(client, 1)
    for _ in range(200):
        crew.run()
        worker.answer(*worker.in_flight, status=Status.UNAVAILABLE, not_started=True)
        crew.pass_time(0.1)
    ends = [statuses(client.errors) for client in clients]
    assert {end[1] for end in ends} <= {Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED}
    assert {1: Status.UNAVAILABLE} in ends  # the budget
    assert len(crew.executions) < 500


@pytest.mark.parametrize("then", ["runs", "is lost"])
def test_what_was_given_back_never_runs_after_what_came_later(then: str) -> None:
    crew = Crew()
    first = crew.worker("a")
    client = crew.client()
    crew.send(client, 1, 1, 1, 1)
    crew.run()
    _, *middle, last = first.in_flight
    first.answer(*middle, status=Status.UNAVAILABLE, not_started=True)
    second = crew.worker("b")
    if then == "runs":
        first.answer(last)
        assert statuses(client.errors) == {2: Status.UNAVAILABLE, 3: Status.UNAVAILABLE}
    crew.lose(first, crashed=False)
    crew.run()
    assert [packet.seq for packet in second.in_flight] == ([1] if then == "runs" else [1, 2, 3, 4])


# Limits and deadlines.


def test_a_worker_never_has_more_than_it_said() -> None:
    crew = Crew()
    worker = crew.worker("a", max_in_flight=3)
    client = crew.client()
    crew.send(client, *[1] * 10)
    for _ in range(20):
        crew.run()
        assert len(worker.in_flight) <= 3
        if worker.in_flight:
            worker.answer(worker.in_flight[0])
    assert sorted(client.replies) == list(range(1, 11))


def test_a_full_service_does_not_read_for_a_moment_and_then_refuses() -> None:
    """It is full with a quarter more than it has room for: that is for those who have nothing open."""
    crew = Crew(GatewayConfig(max_waiting=6))
    worker = crew.worker("a", max_in_flight=2)
    clients = [crew.client() for _ in range(12)]
    for client in clients:
        crew.send(client, 1)
    crew.run()
    late, later = clients[10:]
    assert [client.session.blocked for client in clients] == [False] * 10 + [True] * 2
    worker.answer(worker.in_flight[0])
    assert not late.session.blocked
    assert not late.errors
    crew.pass_time(WAIT_S * 0.9)
    assert not later.errors
    crew.pass_time(WAIT_S * 0.2)
    assert statuses(later.errors) == {1: Status.RESOURCE_EXHAUSTED}
    # It has been full for long enough: what comes now need not wait.
    crew.send(later, 1)
    assert statuses(later.errors) == {1: Status.RESOURCE_EXHAUSTED, 2: Status.RESOURCE_EXHAUSTED}


@pytest.mark.parametrize("address", ["10.0.0.1", "10.0.0.2"])
def test_who_has_more_than_its_share_waits_and_others_do_not(address: str) -> None:
    """Be they of the same address or of another one."""
    crew = Crew(GatewayConfig(max_waiting=100))
    crew.worker("a", max_in_flight=100)
    greedy = [crew.client("10.0.0.1") for _ in range(20)]
    for client in greedy:
        crew.send(client, *[1] * 40)
    assert all(client.session.blocked for client in greedy[4:])
    modest = crew.client(address)
    crew.send(modest, 1)
    assert not modest.session.blocked
    assert modest.session.in_flight == 1
    crew.pass_time(WAIT_S * 1.2)
    assert statuses(greedy[-1].errors)


def test_a_silent_worker_takes_nobodys_room() -> None:
    crew = Crew(GatewayConfig(max_waiting=4))
    frozen, well = crew.worker("a", max_in_flight=4), crew.worker("b", max_in_flight=4)
    for _ in range(8):
        crew.send(crew.client(), 1)
        crew.pass_time(LINGER_S)
        crew.run()
    assert len(frozen.in_flight) == 4
    crew.dispatcher.suspected(frozen.link)
    well.answer_all()
    clients = [crew.client() for _ in range(8)]
    for client in clients:
        crew.send(client, 1)
    assert not any(client.session.blocked for client in clients)


def test_what_would_wait_past_its_deadline_is_refused_at_once() -> None:
    crew = Crew(routes(deadline_ms=1000))
    worker = crew.worker("a", max_in_flight=2)
    clients = [crew.client() for _ in range(40)]
    for client in clients[:36]:
        crew.send(client, 2)  # with five seconds
    for _ in range(10):  # ten a second are answered, so that two dozens take more than two seconds
        crew.run()
        worker.answer(worker.in_flight[0])
        crew.pass_time(0.1)
    crew.send(clients[-1], 1)
    assert statuses(clients[-1].errors) == {1: Status.RESOURCE_EXHAUSTED}


def test_without_workers_packets_wait_a_moment_and_then_fail_at_once() -> None:
    crew = Crew()
    crew.lose(crew.worker("a"))
    client = crew.client()
    crew.send(client, 1)
    crew.pass_time(NO_WORKER_WAIT_S * 0.9)
    assert not client.errors
    crew.pass_time(NO_WORKER_WAIT_S * 0.2)
    assert statuses(client.errors) == {1: Status.UNAVAILABLE}
    crew.send(client, 1)
    assert statuses(client.errors) == {1: Status.UNAVAILABLE, 2: Status.UNAVAILABLE}
    worker = crew.worker("b")
    crew.send(client, 1)
    crew.run()
    worker.answer_all()
    assert client.replies == {3: [b"3"]}


def test_commands_that_nobody_serves() -> None:
    crew = Crew()
    client = crew.client()
    crew.send(client, 1)
    crew.worker("a", commands=(1, 2))
    crew.send(client, 3)
    assert statuses(client.errors) == {1: Status.UNAVAILABLE, 2: Status.UNIMPLEMENTED}


def test_commands_find_the_service_that_publishes_them() -> None:
    crew = Crew(GatewayConfig(routes=(RouteConfig(commands="9", service="rooms"),)))
    rooms = crew.worker("r", service="rooms", commands=(1,))
    rest = crew.worker("x", service="rest")
    crew.send(crew.client(), 1, 2, 9)
    crew.run()
    assert [p.command for p in rooms.in_flight] == [1, 9]
    assert [p.command for p in rest.in_flight] == [2]


def test_one_deadline_over_all_attempts() -> None:
    crew = Crew(routes(deadline_ms=1000))
    first = crew.worker("a")
    client = crew.client()
    crew.send(client, 1)
    crew.run()
    crew.pass_time(0.6)
    crew.worker("b")
    crew.lose(first, crashed=False)
    crew.run()
    crew.pass_time(0.3)
    assert not client.errors
    crew.pass_time(0.2)
    assert statuses(client.errors) == {1: Status.DEADLINE_EXCEEDED}
    assert crew.dispatcher.pool("echo").load == 0


def test_a_deadline_frees_the_lane_and_a_late_answer_is_dropped() -> None:
    crew = Crew(routes(order="strict", deadline_ms=1000))
    worker = crew.worker("a")
    client = crew.client()
    crew.send(client, 1, 1)
    crew.run()
    [late] = worker.in_flight
    crew.pass_time(0.5)
    crew.send(client, 1)
    crew.pass_time(0.6)
    crew.pass_time(LINGER_S)
    crew.run()
    worker.answer(late)
    worker.answer_all()
    assert statuses(client.errors) == {1: Status.DEADLINE_EXCEEDED, 2: Status.DEADLINE_EXCEEDED}
    assert client.replies == {3: [b"3"]}


def test_an_expired_request_keeps_its_slot_until_the_late_answer() -> None:
    """Else the worker would get ever more of what nobody waits for."""
    crew = Crew(routes(deadline_ms=1000))
    worker = crew.worker("a", max_in_flight=2)
    for _ in range(2):
        crew.send(crew.client(), 1)
    crew.run()
    late = worker.in_flight
    crew.pass_time(1.1)
    crew.run()
    assert worker.cancelled == [packet.id for packet in late]
    crew.send(crew.client(), 1)
    crew.run()
    assert worker.in_flight == []
    worker.answer(late[0])
    crew.run()
    assert len(worker.in_flight) == 1
    assert crew.counters.late_replies == 1


def test_a_session_goes_on_with_another_worker_while_its_request_hangs() -> None:
    crew = Crew(routes(deadline_ms=1000))
    hanging, well = crew.worker("a"), crew.worker("b")
    client = crew.client()
    crew.send(client, 1)
    crew.run()
    [late] = hanging.in_flight
    crew.pass_time(1.1)
    for _ in range(4):
        crew.send(client, 1)
        crew.pass_time(LINGER_S)
        crew.run()
        well.answer_all()
    assert sorted(client.replies) == [2, 3, 4, 5]
    hanging.answer(late)
    for _ in range(2):
        crew.send(client, 1)
        crew.pass_time(LINGER_S)
        crew.run()
        hanging.answer_all()
        well.answer_all()
    assert {execution.worker for execution in crew.executions[-2:]} == {"a", "b"}


def hang(crew: Crew, worker: Worker, count: int) -> list[Client]:
    """Clients whose request the worker has not answered in time."""
    clients = [crew.client() for _ in range(count)]
    for client in clients:
        crew.send(client, 1)
    crew.run()
    crew.pass_time(1.1)
    crew.run()
    assert all(client.errors for client in clients)
    return clients


def test_the_worker_that_hangs_is_better_than_none() -> None:
    """Where the only other one gets nothing now: it fails too much, or its write is stuck."""
    crew = Crew(routes(deadline_ms=1000))
    hanging = crew.worker("a")
    [client] = hang(crew, hanging, 1)
    other = crew.worker("b")
    other.link.put_out(crew.now + 10)
    crew.send(client, 1)
    crew.pass_time(LINGER_S)
    crew.run()
    assert len(hanging.in_flight) == 1


def test_all_sessions_that_avoid_a_worker_go_elsewhere_together() -> None:
    crew = Crew(routes(deadline_ms=1000))
    clients = hang(crew, crew.worker("a"), 50)
    other = crew.worker("b")
    for client in clients:
        crew.send(client, 1)
    for _ in range(8):
        crew.pass_time(LINGER_S)
        crew.run()
    assert len(other.in_flight) == 50


def test_a_worker_that_recovers_without_reading_stops_nobody() -> None:
    crew = Crew()
    stuck, well = crew.worker("a"), crew.worker("b")
    crew.dispatcher.suspected(stuck.link)
    stuck.link.writing = True
    well.link.busy = True
    for _ in range(3):
        crew.send(crew.client(), 1)
    crew.dispatcher.recovered(stuck.link)
    for _ in range(3):
        crew.pass_time(LINGER_S)
        well.run()
    assert len(well.in_flight) == 3


def test_an_ejected_worker_is_no_room() -> None:
    crew = Crew()
    out, busy = crew.worker("a"), crew.worker("b", max_in_flight=2)
    out.link.put_out(crew.now + 10)
    for _ in range(30):
        crew.send(crew.client(), 1)
    for _ in range(5):
        crew.run()
        busy.answer(busy.in_flight[0])
        crew.pass_time(0.1)
    assert crew.dispatcher.pool("echo").can_wait


def test_requests_of_a_client_that_has_gone_are_cancelled_and_what_it_told_is_not() -> None:
    crew = Crew()
    worker = crew.worker("a", max_in_flight=2)
    client = crew.client()
    crew.send(client, 1)
    crew.send(client, 1, kind=Kind.NOTIFY)
    crew.run()
    request, notify = worker.in_flight
    crew.send(client, 1, 1)
    crew.leave(client)
    crew.pass_time(0.1)
    crew.run()
    assert worker.cancelled == [request.id]
    assert worker.in_flight == [notify]
    assert crew.counters.cancelled == 3
    worker.answer(notify)
    assert crew.forgotten == [client.session.id]


@pytest.mark.parametrize("how", ["fails", "is silent"])
def test_a_worker_that_fails_so_much_more_than_others_is_out_for_a_while(how: str) -> None:
    crew = Crew(routes(deadline_ms=1000))
    sick, *well = (crew.worker(name) for name in "abc")
    clients = [crew.client() for _ in range(30)]

    def work(seconds: float) -> list[str]:
        """A request of each client every tenth of a second; returns who got them."""
        before = len(crew.executions)
        for _ in range(int(seconds * 10)):
            for client in clients:
                if not client.session.in_flight:
                    crew.send(client, 1)
            crew.pass_time(LINGER_S)
            crew.run()
            for worker in well:
                worker.answer_all()
            if how == "fails":
                sick.answer(*sick.in_flight, status=Status.INTERNAL)
            crew.pass_time(0.1)
            crew.run()
        return [execution.worker for execution in crew.executions[before:]]

    assert "a" in work(0.5)
    work(3)
    assert crew.counters.workers_ejected
    out_s = sick.link.rests_until - crew.now
    if sick.link.is_out:
        assert "a" not in work(out_s - 0.2)
    # The times that it is out grow while it goes on, so that it gets ever less.
    work(20)
    assert sick.link.conduct.times_out >= 2
    assert not any(worker.link.is_out for worker in well)


def test_where_all_fail_nobody_is_out() -> None:
    crew = Crew()
    workers = [crew.worker(name) for name in "abc"]
    for _ in range(60):
        for _ in range(3):
            crew.send(crew.client(), 1)
            crew.run()
        for worker in workers:
            worker.answer(*worker.in_flight, status=Status.INTERNAL)
        crew.pass_time(0.1)
    assert crew.counters.workers_ejected == 0


def test_an_application_error_reaches_the_client_and_is_not_retried() -> None:
    crew = Crew()
    worker = crew.worker("a")
    client = crew.client()
    crew.send(client, 1)
    crew.run()
    worker.answer(*worker.in_flight, status=Status.NOT_FOUND)
    assert client.errors == {1: [(Status.NOT_FOUND, "told so")]}
    assert len(crew.executions) == 1


# Sessions.


def test_a_service_that_wants_events_hears_of_open_and_close_around_the_packets() -> None:
    crew = Crew()
    early = crew.client()  # came before any worker
    worker = crew.worker("a", events=True)
    late = crew.client()
    crew.send(late, 1)
    crew.leave(late)
    crew.run()
    kinds = [(p.lane.session.id, p.kind) for p in worker.in_flight]
    crew.run()
    assert kinds == [(early.session.id, OPEN), (late.session.id, OPEN), (late.session.id, 0), (late.session.id, CLOSE)]
    assert crew.forgotten == []
    worker.answer_all()
    assert crew.forgotten == [late.session.id]


def test_events_are_no_load_and_of_who_has_gone_unheard_nothing_is_told() -> None:
    crew = Crew(GatewayConfig(max_waiting=5))
    crew.lose(crew.worker("a", events=True))
    for _ in range(100):
        crew.leave(crew.client())
    staying = crew.client()
    assert crew.dispatcher.pool("echo").load == 0
    crew.pass_time(0.1)
    assert len(crew.forgotten) == 100
    worker = crew.worker("b", events=True)
    crew.run()
    assert [(packet.kind, packet.lane.session) for packet in worker.in_flight] == [(OPEN, staying.session)]


def test_a_lost_open_event_is_told_again() -> None:
    crew = Crew()
    first = crew.worker("a", events=True)
    crew.client()
    crew.run()
    assert len(first.in_flight) == 1
    second = crew.worker("b", events=True)
    crew.lose(first, crashed=False)
    crew.run()
    assert [p.kind for p in second.in_flight] == [OPEN]


def test_pings_are_the_connections() -> None:
    crew = Crew()
    client = crew.client()
    crew.dispatcher.receive(client.session, [(Kind.PING, 0, 9, b"abc"), (Kind.PONG, 0, 9, b"")])
    assert client.pings == [(Kind.PING, 9, b"abc"), (Kind.PONG, 9, b"")]
    assert client.session.in_flight == 0


# What it costs.


def test_counting_the_sessions_takes_a_tenth_of_the_time_at_most() -> None:
    crew = Crew(GatewayConfig(max_waiting=8))
    client = crew.client()
    counted = 0
    spent = 0.0

    class Sessions(dict[int, Session]):
        def values(self) -> Any:
            nonlocal counted, spent
            counted += 1
            spent += 0.05  # as long as it takes with very many
            return super().values()

    crew.sessions.by_id = Sessions(crew.sessions.by_id)
    crew.dispatcher.admission = Admission(crew.sessions, lambda: spent)
    crew.worker("a", max_in_flight=1)
    route = crew.dispatcher.routes.resolve(1)
    assert route is not None
    for _ in range(100):  # ten seconds
        crew.dispatcher.admission.judge(client.session, route, 0, crew.now)
        crew.now += 0.1
    assert 10 <= counted <= 20


def test_giving_up_what_waits_is_linear_in_its_number() -> None:
    """Compared are the comparisons of packets, which a busy machine does not change."""
    compared = 0

    class Packet(Pending):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return self is other

        __hash__ = None  # type: ignore[assignment]

    crew = Crew()
    lane = Lane(crew.client().session, crew.dispatcher.pool("echo"))
    for number in range(200):
        lane.waiting.append(Packet(number, lane, None, 0, 1, number, b"", crew.now + number % 2, True))
    gone = crew.deadlines._remove(lane, crew.now)
    assert [packet.id for packet in gone] == list(range(0, 200, 2))
    assert [packet.id for packet in lane.waiting] == list(range(1, 200, 2))
    assert compared == 0
