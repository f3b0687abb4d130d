"""A dispatcher with clients and workers that are plain objects: no sockets, no loop, a clock that the test turns."""

from __future__ import annotations

from dataclasses import dataclass

from gatecrew_gateway.admission import Admission
from gatecrew_gateway.codec import FROM_GATEWAY, Decoder, Kind, decode_error
from gatecrew_gateway.config import GatewayConfig, ListenerConfig
from gatecrew_gateway.counters import Counters
from gatecrew_gateway.deadlines import Deadlines
from gatecrew_gateway.dispatcher import Dispatcher, Received
from gatecrew_gateway.routing.lane import Pending
from gatecrew_gateway.routing.link import Link
from gatecrew_gateway.routing.pool import LINGER_S, Pool
from gatecrew_gateway.session import Session, SessionTable


class Client:
    """A session's port, and what the client at its other end has heard."""

    def __init__(self) -> None:
        self.session: Session
        self.replies: dict[int, list[bytes]] = {}  # seq -> bodies
        self.errors: dict[int, list[tuple[int, str]]] = {}  # seq -> (status, reason)
        self.pushes: list[bytes] = []
        self.pings: list[tuple[int, int, bytes]] = []  # and pongs: (kind, seq, body)
        self.goaways = 0
        self.closed = False
        self.reading = True
        self.last_seq = 0
        self.crew: Crew
        self.backlog: list[Received] = []
        self._decoder = Decoder(allowed=FROM_GATEWAY)

    def pinged(self, kind: int, command: int, seq: int, body: bytes) -> None:
        self.pings.append((kind, seq, body))

    def write(self, data: bytes) -> None:
        packets, error = self._decoder.decode(data)
        assert error is None
        for kind, _, seq, body in packets:
            if kind == Kind.REPLY:
                self.replies.setdefault(seq, []).append(body)
            elif kind == Kind.ERROR:
                self.errors.setdefault(seq, []).append(decode_error(body))
            elif kind == Kind.PUSH:
                self.pushes.append(body)
            elif kind == Kind.GOAWAY:
                self.goaways += 1

    def outcomes(self, seq: int) -> int:
        return len(self.replies.get(seq, ())) + len(self.errors.get(seq, ()))

    def unsent(self) -> int:
        return 0

    def postpone(self) -> None:
        while self.session.write_some(1 << 20):
            pass

    def cut_as_slow(self) -> None:
        self.closed = True

    def resume(self) -> None:
        self.reading = True
        backlog, self.backlog = self.backlog, []
        if backlog:
            self.offer(backlog)

    def offer(self, packets: list[Received]) -> None:
        """As a connection does: what can't be taken now stays with it."""
        if self.session.blocked:
            self.backlog += packets
        else:
            self.backlog = list(self.crew.dispatcher.receive(self.session, packets))

    def close(self) -> None:
        self.closed = True


@dataclass
class Reply:
    """The contract's Reply, as the dispatcher sees it."""

    id: int
    status: int = 0
    body: bytes = b""
    message: str = ""
    not_started: bool = False


@dataclass
class Execution:
    worker: str
    session: int
    seq: int
    attempt: int


class Worker:
    """Takes a batch whenever it was woken, and answers when told to."""

    def __init__(self, crew: Crew, name: str, service: str, max_in_flight: int, one_at_a_time: bool) -> None:
        self.crew = crew
        self.woken = False
        self.link = Link(crew.dispatcher.pool(service), name, max_in_flight, self._wake, one_at_a_time)
        self.batches: list[list[Pending]] = []
        self.writes_slowly = False  # then what it takes is on its way until `wrote`
        self.cancelled: list[int] = []  # ids that it was told of

    def _wake(self) -> None:
        self.woken = True

    def run(self) -> None:
        """What the writer does after it was woken."""
        self.woken = False
        self.cancelled += self.link.cancelled
        self.link.cancelled.clear()
        batch = self.link.take(self.crew.now)
        for packet in batch:
            session = packet.lane.session.id
            self.crew.executions.append(Execution(self.link.worker_id, session, packet.seq, packet.attempt))
        if batch:
            self.batches.append(batch)
        if not self.writes_slowly:
            self.link.written()

    def wrote(self) -> None:
        self.writes_slowly = False
        self.link.written()

    def answer(self, *packets: Pending, status: int = 0, not_started: bool = False) -> None:
        touched: list[Session] = []
        replies = [Reply(p.id, status, p.body, "told so", not_started) for p in packets]
        self.crew.dispatcher.answered(self.link, replies, touched)
        for session in touched:
            session.flush()
        self.link.heard()

    def answer_all(self) -> None:
        """Also what nobody waits for any more."""
        self.answer(*self.link.pending.values(), *self.link.expired.values())

    @property
    def in_flight(self) -> list[Pending]:
        return list(self.link.pending.values())


class Crew:
    def __init__(self, config: GatewayConfig | None = None) -> None:
        self.now = 1000.0
        self.counters = Counters()
        self.sessions = SessionTable(7)
        self.forgotten: list[int] = []
        self.executions: list[Execution] = []
        self.workers: list[Worker] = []
        self._lingers: list[tuple[float, Pool]] = []
        self.dispatcher = Dispatcher(
            config or GatewayConfig(),
            self.sessions,
            self.counters,
            lambda: self.now,
            lambda pool: self._lingers.append((self.now + LINGER_S, pool)),
            self.forgotten.append,
        )
        self.dispatcher.admission = Admission(self.sessions, lambda: self.now)
        self.deadlines = Deadlines(self.dispatcher)

    def worker(
        self,
        name: str,
        service: str = "echo",
        commands: tuple[int, ...] = (),
        max_in_flight: int = 1000,
        events: bool = False,
        one_at_a_time: bool = False,
    ) -> Worker:
        worker = Worker(self, name, service, max_in_flight, one_at_a_time)
        self.workers.append(worker)
        self.dispatcher.joined(worker.link, frozenset(commands) or None, events)
        return worker

    def client(self, address: str = "10.0.0.1") -> Client:
        client = Client()
        client.crew = self
        client.session = self.sessions.open(f"{address}:5", ListenerConfig(), client, self.now)
        self.dispatcher.opened(client.session)
        return client

    def send(self, client: Client, *commands: int, kind: Kind = Kind.REQUEST) -> list[int]:
        """One packet for each command, all in one read; returns their seqs."""
        packets = []
        for command in commands:
            client.last_seq += 1
            packets.append((int(kind), command, client.last_seq, b"%d" % client.last_seq))
        client.offer(packets)
        return [packet[2] for packet in packets]

    def leave(self, client: Client) -> None:
        self.sessions.close(client.session)
        self.dispatcher.closed(client.session)

    def run(self) -> None:
        """Let every woken worker take, until nobody is woken."""
        while any(worker.woken for worker in self.workers):
            for worker in self.workers:
                if worker.woken:
                    worker.run()

    def lose(self, worker: Worker, crashed: bool = True) -> None:
        self.workers.remove(worker)
        self.dispatcher.lost(worker.link, crashed)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.linger()
        self.sweep()

    def linger(self) -> None:
        """Do what was to be done LINGER_S later, if it is due."""
        due = [pool for at, pool in self._lingers if at <= self.now]
        self._lingers = [(at, pool) for at, pool in self._lingers if at > self.now]
        for pool in due:
            pool.linger_passed()

    def sweep(self) -> None:
        for worker in self.workers:
            self.deadlines.sweep_link(worker.link, self.now)
        self.deadlines.sweep(self.now)
