"""A worker's limit goes down and up again, outliers are few and forgiven, shares are kept. No sockets, no clock."""

import pytest

from gatecrew_gateway.codec import Kind
from gatecrew_gateway.config import GatewayConfig, RouteConfig
from gatecrew_gateway.routing import outliers
from gatecrew_gateway.routing.limit import FLOOR, LEAST, START, WATCH_EVERY_S, Limit
from gatecrew_gateway.routing.link import STILL_TICKS
from gatecrew_gateway.routing.pool import LINGER_S
from gateway.crew import Client, Crew, Worker

pytestmark = pytest.mark.quick

DEADLINE_S = 5.0


def test_a_limit_grows_while_it_is_what_holds_packets_back() -> None:
    limit = Limit(1024)
    for number in range(1, 20):
        limit.watch(number, 0.0, limit.now)
        limit.measured(0.001, DEADLINE_S)
    assert limit.now == 1024
    limit = Limit(1024)
    limit.watch(1, 0.0, START // 2)
    limit.measured(0.001, DEADLINE_S)
    assert limit.now == START


def test_a_limit_shrinks_with_the_queue_and_grows_again() -> None:
    limit = Limit(1024)
    limit.watch(1, 0.0, START)
    limit.measured(DEADLINE_S / 2, DEADLINE_S)
    assert FLOOR <= limit.now <= START // 2
    while limit.now < START:
        before = limit.now
        limit.watch(1, 0.0, limit.now)
        limit.measured(0.001, DEADLINE_S)
        assert limit.now > before


def test_what_expires_alone_or_for_want_of_time_is_slow_by_itself() -> None:
    limit = Limit(1024)
    for depth, least_s in ((1, 0.1), (START, None), (START, 4.0)):
        limit.watch(1, 0.0, depth)
        limit.expired(DEADLINE_S, least_s)
        assert limit.now == START
    limit.watch(2, 0.0, START)
    limit.expired(DEADLINE_S, 0.1)
    assert limit.now == START // 2
    for _ in range(20):
        limit.watch(3, 0.0, limit.now)
        limit.expired(DEADLINE_S, 0.1)
    assert limit.now == LEAST


def test_a_limit_is_as_at_the_start_when_the_worker_had_nothing_for_a_while() -> None:
    limit = Limit(1024)
    limit.now = LEAST
    for _ in range(40):
        limit.idle()
    assert limit.now == START


def test_who_says_how_much_it_can_run_has_little_more_while_it_is_slow() -> None:
    limit = Limit(1024, concurrency=4)
    assert limit.now == 8
    limit.watch(1, 0.0, 8)
    limit.measured(0.4, DEADLINE_S)
    assert 4 <= limit.now < 8


def crew_of(count: int) -> tuple[Crew, list[Worker]]:
    crew = Crew(GatewayConfig(routes=(RouteConfig(commands="1", deadline_ms=1000),)))
    return crew, [crew.worker(f"w{number}") for number in range(count)]


def test_requests_that_take_too_long_by_themselves_cost_their_workers_nothing() -> None:
    crew, workers = crew_of(3)
    for _ in range(4):
        clients = [crew.client() for _ in range(6)]
        for client in clients:
            crew.send(client, 1)
            crew.pass_time(LINGER_S)
            crew.run()
        crew.pass_time(1.1)
        crew.run()
        for worker in workers:
            worker.answer_all()
    assert all(worker.link.limit.now == START for worker in workers)
    assert crew.counters.workers_ejected == 0


def test_who_comes_back_from_being_out_begins_with_little() -> None:
    crew, [worker, _] = crew_of(2)
    worker.link.put_out(crew.now + 1)
    crew.pass_time(1.1)
    assert not worker.link.is_out
    assert LEAST <= worker.link.limit.now < 2 * LEAST


def test_never_more_than_half_are_out_and_times_are_forgiven() -> None:
    crew, workers = crew_of(5)
    links = [worker.link for worker in workers]
    for link in links[:3]:
        link.answered = link.failed = 100
    for link in links[3:]:
        link.answered = 10_000
    found = outliers.find(links, crew.now)
    assert len(found) == 2
    for link, seconds in found:
        link.put_out(crew.now + seconds)
    assert outliers.find(links, crew.now + 1) == []
    times = sum(link.conduct.times_out for link in links)
    later = crew.now + outliers.OUT_S + outliers.FORGIVEN_AFTER_S + 1
    for link in links:
        link.failed, link.answered = 0, 0
    outliers.find(links, later)
    assert sum(link.conduct.times_out for link in links) == times - 2


def test_one_session_that_asks_for_too_much_puts_nobody_out() -> None:
    crew, workers = crew_of(2)
    greedy = crew.client()
    crew.send(greedy, *[1] * 40)
    others = [crew.client() for _ in range(10)]
    for _ in range(30):
        for client in others:
            crew.send(client, 1)
        crew.pass_time(LINGER_S)
        crew.run()
        for worker in workers:
            worker.answer(*[packet for packet in worker.in_flight if packet.lane.session is not greedy.session])
        crew.pass_time(0.1)
    assert crew.counters.workers_ejected == 0


def test_a_worker_whose_threads_all_hang_gets_nothing() -> None:
    crew, [worker] = crew_of(1)
    link = worker.link
    link.limit = Limit(100, concurrency=2)
    for _ in range(2):
        crew.send(crew.client(), 1)
    crew.run()
    crew.pass_time(1.1)
    crew.pass_time(5)
    assert link.hung == 2
    assert link.room == 0


def test_an_address_has_its_share_of_what_is_free() -> None:
    crew = Crew(GatewayConfig(max_waiting=200))
    crew.worker("a", max_in_flight=200)
    crew.send(crew.client("10.0.0.2"), 1)
    many = [crew.client("10.0.0.1") for _ in range(60)]
    for client in many:
        crew.send(client, *[1] * 20)
    pool = crew.dispatcher.pool("echo")
    assert pool.load <= pool.capacity * 0.7


def test_those_who_wait_outside_have_turns() -> None:
    """Who may not come in now does not stand in the way of who may."""
    crew = Crew(GatewayConfig(max_waiting=50))
    worker = crew.worker("a", max_in_flight=50)
    done = [crew.client() for _ in range(35)]
    greedy = [crew.client() for _ in range(90)]
    for client in (*done, *greedy):
        crew.send(client, 1)
    for client in greedy:
        crew.send(client, 1)
    assert all(client.session.blocked for client in greedy)
    modest = crew.client()
    crew.send(modest, 1)
    assert modest.session.blocked
    crew.run()
    for packet in worker.in_flight[:5]:
        worker.answer(packet)
    assert not modest.session.blocked


@pytest.mark.parametrize("ended", [True, False])
def test_who_has_ended_its_side_goes_first_where_it_is_crowded(ended: bool) -> None:
    crew = Crew(GatewayConfig(max_waiting=20))
    crew.worker("a", max_in_flight=4)
    leavers: list[Client] = [crew.client() for _ in range(5)]
    for client in leavers:
        crew.send(client, *[1] * 4)
        client.session.ended = ended
    crew.run()
    crew.pass_time(0.1)
    assert bool(crew.counters.overloaded) is ended


@pytest.mark.parametrize("pipelined", [1, 30])
def test_slow_requests_leave_a_place_for_fast_ones(pipelined: int) -> None:
    """However many there are, and however few sessions they come from."""
    crew = Crew()
    worker = crew.worker("a", max_in_flight=64)
    modest = crew.client()
    crew.send(modest, 2)
    crew.run()
    crew.now += 0.001
    worker.answer_all()  # command 2 is known to be fast now
    for _ in range(3):
        for greedy in [crew.client() for _ in range(100)]:
            crew.send(greedy, *[1] * pipelined)
            crew.run()
        crew.pass_time(LINGER_S)
        crew.run()
    assert len(worker.in_flight) == 64 - 8
    for _ in range(20):
        [seq] = crew.send(modest, 2)
        crew.pass_time(LINGER_S)
        crew.run()
        [packet] = [packet for packet in worker.in_flight if packet.command == 2]
        worker.answer(packet)
        assert modest.replies[seq]
        crew.run()
        assert len(worker.in_flight) == 64 - 8


def test_fast_requests_leave_places_for_slow_ones() -> None:
    """Where both wait all the time, each has half of what becomes free."""
    crew = Crew()
    worker = crew.worker("a", max_in_flight=64)
    crew.send(crew.client(), 2)
    crew.run()
    crew.now += 0.001
    worker.answer_all()
    for command in (1, 2):
        for _ in range(200):
            crew.send(crew.client(), command)
    crew.run()
    for _ in range(2):
        worker.answer_all()
        crew.run()
    taken = [packet.command for batch in worker.batches[1:] for packet in batch]
    assert 60 <= taken.count(1) <= 100
    assert 60 <= taken.count(2) <= 130


def test_what_waits_is_bounded_in_bytes_too() -> None:
    crew = Crew(GatewayConfig(max_waiting_bytes="1MiB"))
    worker = crew.worker("a", max_in_flight=1)
    clients = [crew.client() for _ in range(100)]
    crew.send(clients[0], 1)
    crew.run()
    for client in clients[1:]:
        crew.dispatcher.receive(client.session, [(int(Kind.REQUEST), 1, 1, bytes(1 << 16))])
        crew.pass_time(0.001)
    waiting = sum(len(packet.body) for lane in worker.link.pool.slow for packet in lane.waiting)
    assert 1 << 20 < waiting <= (1 << 20) * 1.25 + (2 << 16)
    blocked = [client for client in clients if client.session.blocked]
    assert blocked  # they are not read
    crew.pass_time(1)  # and refused, if it goes on
    late = crew.client()
    crew.send(late, 1)
    assert late.errors or late.session.blocked
    while worker.in_flight:
        worker.answer_all()
        crew.pass_time(0.1)
        crew.run()
    crew.send(late, 1)
    crew.run()
    worker.answer_all()
    assert late.replies


def test_a_command_that_is_new_is_known_to_be_fast_although_slow_ones_are_being_timed() -> None:
    crew = Crew()
    worker = crew.worker("a", max_in_flight=64)
    crew.send(crew.client(), 1)
    crew.run()
    crew.now += 1
    worker.answer_all()  # command 1 is known to be slow now
    for _ in range(200):
        crew.send(crew.client(), 1)
        crew.run()
    modest = crew.client()
    crew.send(modest, 2)
    worker.answer(*worker.in_flight[:8])
    while modest.session.in_flight:
        crew.pass_time(0.05)
        crew.run()
        crew.now += 0.001
        worker.answer(*[packet for packet in worker.in_flight if packet.command == 2])
        worker.answer(*worker.in_flight[:8])
    [route] = [route for command, route in crew.dispatcher.routes.known.items() if command == 2]
    assert not route.slow


def test_a_command_whose_time_depends_on_the_body_is_slow_while_many_take_long() -> None:
    """However quick the others of it are."""
    crew = Crew()
    worker = crew.worker("a", max_in_flight=256)
    quick = crew.client()

    def ask_quickly(command: int) -> int:
        [seq] = crew.send(quick, command)
        crew.now += 0.001
        crew.linger()
        crew.run()
        [packet] = [packet for packet in worker.in_flight if packet.lane.session is quick.session]
        worker.answer(packet)
        return len(quick.replies[seq])

    for command in (1, 2):
        assert ask_quickly(command)
        crew.now += WATCH_EVERY_S
    routes = crew.dispatcher.routes.known
    for _ in range(40):
        crew.send(crew.client(), 1)
    assert not routes[1].slow
    crew.pass_time(0.05)
    crew.run()
    crew.pass_time(0.2)
    assert routes[1].slow
    assert not routes[2].slow
    assert ask_quickly(2)
    for _ in range(400):
        crew.send(crew.client(), 1)
    crew.pass_time(0.05)
    crew.run()
    assert len(worker.in_flight) == 256 - 32
    assert ask_quickly(2)
    while worker.in_flight:
        worker.answer_all()
        crew.run()
    crew.pass_time(0.1)
    assert not routes[1].slow


def test_what_a_worker_that_answers_nothing_has_is_not_for_the_others_to_answer() -> None:
    """From half a second on, long before it is called silent."""
    crew = Crew()
    frozen, well = crew.worker("a"), crew.worker("b")
    for _ in range(20):
        crew.send(crew.client(), 1)
        crew.run()
    for tick in range(1, 8):
        crew.pass_time(0.1)
        crew.run()
        well.answer_all()
        assert frozen.link.pool.stuck == (len(frozen.in_flight) if tick >= STILL_TICKS else 0), tick
    assert frozen.link.pool.stuck
    frozen.answer_all()
    crew.pass_time(0.1)
    assert frozen.link.pool.stuck == 0
