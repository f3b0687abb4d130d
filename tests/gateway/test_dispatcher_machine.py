"""Any mixture of packets, answers, losses, drains, deadlines and departures keeps the promises of delivery."""

import random
from collections import defaultdict
from itertools import chain

import pytest

from gatecrew_gateway.codec import Kind, Status
from gatecrew_gateway.config import GatewayConfig, RouteConfig
from gatecrew_gateway.routing.lane import Pending
from gatecrew_gateway.routing.link import LinkState
from gatecrew_gateway.routing.pool import LINGER_S
from gateway.crew import Client, Crew, Worker

pytestmark = pytest.mark.quick

SESSION, STRICT, FREE, ONCE, OTHER = range(1, 6)  # commands
IN_ORDER = (SESSION, STRICT, ONCE)  # they share a session's lane
CONFIG = GatewayConfig(
    max_waiting=60,
    routes=(
        RouteConfig(commands="2", order="strict", service="echo"),
        RouteConfig(commands="3", order="none", service="echo"),
        RouteConfig(commands="4", delivery="at-most-once", service="echo"),
        RouteConfig(commands="5", service="other"),
        RouteConfig(commands="*", service="echo"),
    ),
)


class Delivery:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.crew = Crew(CONFIG)
        self.clients: list[Client] = []
        self.sent: dict[tuple[int, int], int] = {}  # (session, seq) -> command
        self.gone: set[int] = set()
        self.names = 0
        self.gives_back = seed % 2 == 1
        self.given_back: set[tuple[int, int]] = set()  # (session, seq): taken more than once at the same attempt
        self.ran: dict[int, int] = defaultdict(int)  # session -> highest seq that a worker has run, of one lane
        self.seen = 0  # executions

    def worker(self) -> Worker:
        return self.random.choice(self.crew.workers)

    # What may happen.

    def join(self) -> None:
        if len(self.crew.workers) < 5:
            self.names += 1
            service = self.random.choice(["echo", "echo", "echo", "other"])
            credit = self.random.choice([2, 10, 50])
            self.crew.worker(f"w{self.names}", service, max_in_flight=credit, one_at_a_time=self.random.random() < 0.2)

    def connect(self) -> None:
        if len(self.clients) < 4:
            self.clients.append(self.crew.client())

    def send(self) -> None:
        if self.clients:
            client = self.random.choice(self.clients)
            commands = self.random.choices(range(1, 6), k=self.random.randint(1, 6))
            kind = self.random.choice([Kind.REQUEST, Kind.REQUEST, Kind.NOTIFY])
            seqs = self.crew.send(client, *commands, kind=kind)
            if kind is Kind.REQUEST:
                self.sent.update(
                    {(client.session.id, seq): command for seq, command in zip(seqs, commands, strict=True)}
                )

    def leave(self) -> None:
        if len(self.clients) > 1:
            client = self.clients.pop(self.random.randrange(len(self.clients)))
            self.gone.add(client.session.id)
            self.crew.leave(client)

    def take(self) -> None:
        if self.crew.workers:
            self.worker().writes_slowly |= self.random.random() < 0.2
        self.crew.run()

    def write(self) -> None:
        self.worker().wrote()

    def answer(self) -> None:
        worker = self.worker()
        packets = worker.in_flight
        self.random.shuffle(packets)
        some = packets[: self.random.randint(1, 9)]
        some += [packet for packet in worker.link.expired.values() if self.random.random() < 0.3]
        for packet in some:
            if packet.command in IN_ORDER:
                session = packet.lane.session.id
                self.ran[session] = max(self.ran[session], packet.seq)
        worker.answer(*some, status=self.random.choice([0, 0, Status.NOT_FOUND]))

    def give_back(self) -> None:
        worker = self.worker()
        self.give_some_back(worker, [packet for packet in worker.in_flight if self.random.random() < 0.4])

    def give_some_back(self, worker: Worker, packets: list[Pending]) -> None:
        """But nothing that came before what it has run."""
        back = [packet for packet in packets if packet.seq > self.ran[packet.lane.session.id]]
        self.given_back.update((packet.lane.session.id, packet.seq) for packet in back)
        worker.answer(*back, status=Status.UNAVAILABLE, not_started=True)

    def lose(self) -> None:
        self.crew.lose(self.worker(), crashed=self.random.random() < 0.5)

    def drain(self) -> None:
        worker = self.worker()
        self.crew.dispatcher.draining(worker.link)
        if self.gives_back:
            self.give_some_back(worker, worker.in_flight)

    def fall_silent_or_recover(self) -> None:
        link = self.worker().link
        if link.state is LinkState.READY:
            self.crew.dispatcher.suspected(link)
        elif link.state is LinkState.SUSPECT:
            self.crew.dispatcher.recovered(link)

    def pass_time(self) -> None:
        self.crew.pass_time(self.random.choice([LINGER_S] * 40 + [0.1, 0.1, 0.6, 5.1]))

    def step(self) -> None:
        acts = {self.send: 8, self.take: 8, self.pass_time: 4, self.connect: 2, self.join: 3, self.leave: 1}
        if self.crew.workers:
            acts |= {self.answer: 8, self.write: 4, self.lose: 1, self.drain: 1, self.fall_silent_or_recover: 2}
            acts |= {self.give_back: 2} if self.gives_back else {}
        self.random.choices(list(acts), list(acts.values()))[0]()

    # What must hold after each.

    def check(self) -> None:
        self.somebody_will_come()
        self.nobody_hears_twice()
        self.a_lane_is_in_one_place()
        self.strict_lanes_have_one_in_flight()
        self.each_worker_gets_a_session_in_order()
        self.what_was_given_back_does_not_run_after_what_came_later()
        self.repeats_are_marked_and_at_most_once_holds()

    def somebody_will_come(self) -> None:
        """What waits while a link could take it is not forgotten."""
        for pool in self.crew.dispatcher.pools.values():
            if pool.called is None and not pool._lingering:
                assert pool.wake_at == 1
                assert not any(pool.has_work_for(link) for link in pool.links)
                assert not any(link.queue and link.can_take and not link.awake for link in pool.links)

    def nobody_hears_twice(self) -> None:
        for client in self.clients:
            for seq in {*client.replies, *client.errors}:
                assert client.outcomes(seq) == 1

    def a_lane_is_in_one_place(self) -> None:
        for worker in self.crew.workers:
            link = worker.link
            assert len(link.pending) + len(link.expired) <= link.limit.most
            assert not link.pending.keys() & link.expired.keys()
            for packet in (*link.pending.values(), *link.queue):
                assert packet.lane.link is link
                assert packet not in packet.lane.waiting
            opened: dict[int, int] = defaultdict(int)
            for packet in (*link.pending.values(), *link.queue):
                opened[id(packet.lane)] += 1
                assert packet.lane.open >= opened[id(packet.lane)]
        for pool in self.crew.dispatcher.pools.values():
            listed = list(chain.from_iterable(pool.listed))
            assert len(set(map(id, listed))) == len(listed)
            for lane in listed:
                assert lane.waiting
                assert lane.link is None

    def strict_lanes_have_one_in_flight(self) -> None:
        for worker in self.crew.workers:
            strict = [p for p in worker.in_flight if p.command == STRICT]
            for packet in strict:
                assert packet.lane.open == 1

    def each_worker_gets_a_session_in_order(self) -> None:
        """Also what moved there from a lost worker: as a block, with newer packets behind it."""
        last: dict[tuple[str, int], int] = {}
        first: dict[int, int] = {}
        for run in self.crew.executions:
            if self.sent.get((run.session, run.seq)) in IN_ORDER and not self.given_back:
                assert last.get((run.worker, run.session), 0) < run.seq
                last[run.worker, run.session] = run.seq
                if run.attempt == 0:
                    assert first.get(run.session, 0) < run.seq
                    first[run.session] = run.seq

    def what_was_given_back_does_not_run_after_what_came_later(self) -> None:
        for run in self.crew.executions[self.seen :]:
            key = run.session, run.seq
            if key in self.given_back and self.sent.get(key) in IN_ORDER and run.attempt == 0:
                assert self.ran[run.session] < run.seq
        self.seen = len(self.crew.executions)

    def repeats_are_marked_and_at_most_once_holds(self) -> None:
        attempts: dict[tuple[int, int], list[int]] = defaultdict(list)
        for run in self.crew.executions:
            attempts[run.session, run.seq].append(run.attempt)
        for key, counted in attempts.items():
            # A packet given back was not run, and comes again with the same attempt.
            assert counted == sorted(counted)
            assert counted[-1] < CONFIG.max_attempts
            if self.sent.get(key) == ONCE:
                assert set(counted) == {0}

    def finish(self) -> None:
        """Whatever happened: with healthy workers everything ends, with one outcome each, and nothing stays behind."""
        for name in ("echo", "other"):
            self.crew.worker(f"last-{name}", name)
        for worker in self.crew.workers:
            worker.wrote()
        for _ in range(200):
            self.crew.pass_time(0.05 if self.gives_back else LINGER_S)
            self.crew.run()
            for worker in self.crew.workers:
                worker.answer_all()
        for client in self.clients:
            for session, seq in self.sent:
                if session == client.session.id:
                    assert client.outcomes(seq) == 1
            assert client.session.in_flight == 0
        for pool in self.crew.dispatcher.pools.values():
            assert pool.load == 0
            assert not any(pool.listed)
        assert self.gone == set(self.crew.forgotten)


@pytest.mark.parametrize("seed", range(100))
def test_promises_hold(seed: int) -> None:
    delivery = Delivery(seed)
    for _ in range(400):
        delivery.step()
        delivery.check()
    delivery.finish()
