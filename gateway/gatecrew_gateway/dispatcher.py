"""From packet to outcome: admits what clients send, settles what workers answer, decides what follows a loss.

Pure: no sockets, no gRPC, no event loop; the clock is handed in. Every accepted packet gets exactly one outcome, here.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Protocol

from .admission import Admission, Verdict
from .codec import HEADER, Kind, Status, encode_error
from .config import MAX_PACKET, PACKET_OVERHEAD, GatewayConfig, parse_size
from .counters import Counters
from .routing.lane import CLOSE, NOTIFY, OPEN, REQUEST, Lane, Pending
from .routing.link import Link, LinkState
from .routing.pool import Pool
from .routing.quarantine import DeadLetter, Quarantine
from .routing.route import Route, RouteTable
from .routing.suspicion import Lost, Suspicion
from .session import MAX_REASON, Session, SessionTable
from .wording import counted

log = logging.getLogger("gatecrew.gateway")
dead_letters = logging.getLogger("gatecrew.deadletter")

DOUBTFUL = 4  # oldest packets of a worker that may have been stopped from outside: one at a time takes time
EVENT_DEADLINE_S = 60.0  # of open and close events

_pack = HEADER.pack
_FAILURES = frozenset({int(Status.INTERNAL), int(Status.UNAVAILABLE)})  # of the worker, not of the request
_STATUSES = frozenset(map(int, Status))
_QUARANTINED = "quarantined: two workers were lost while they handled this request"
_QUARANTINED_BEFORE = "quarantined: two workers were lost while they handled a request with the same body"
_BYSTANDER = "two workers were lost while they had this request; what the second one was lost with is known"
_UNPROVEN = frozenset({Status.CANCELLED, Status.DEADLINE_EXCEEDED, Status.UNAVAILABLE})  # it may never have begun
_MAX_BODY = MAX_PACKET - PACKET_OVERHEAD
_RECEIVED_NOTIFY = int(Kind.NOTIFY)
_REPLY = int(Kind.REPLY)


class Answer(Protocol):
    """A worker's reply; the contract's Reply is one."""

    @property
    def id(self) -> int: ...
    @property
    def status(self) -> int: ...
    @property
    def body(self) -> bytes: ...
    @property
    def message(self) -> str: ...
    @property
    def not_started(self) -> bool: ...


Received = tuple[int, int, int, bytes]  # kind, command, seq, body, as the client wire has them


class Dispatcher:
    """Owns the pools and every accepted packet. `arm_linger`: see Pool. `forget(session_id)` is called when a closed
    session has nothing open any more. `after_told(act)` must call `act` soon: when the other gateways have been told
    what the quarantine had to tell. `after_a_moment(act)`: so long that of workers that die together, all have died.
    """

    def __init__(
        self,
        config: GatewayConfig,
        sessions: SessionTable,
        counters: Counters,
        clock: Callable[[], float],
        arm_linger: Callable[[Pool], None],
        forget: Callable[[int], None],
    ) -> None:
        self.pools: dict[str, Pool] = {}
        self.routes = RouteTable(config.routes, self.pools, self.pool)
        self.counters = counters
        self.quarantine = Quarantine(config.quarantine_s, counters)
        self.after_told: Callable[[Callable[[], None]], None] = lambda act: act()
        self.after_a_moment = self.after_told
        self._links: set[Link] = set()  # that are not lost
        self.admission = Admission(sessions)
        self._sessions = sessions
        self._max_waiting = config.max_waiting, parse_size(config.max_waiting_bytes)
        self._recent_s = config.lost_after_s + 0.5  # before a silent worker is given up
        self._max_attempts = config.max_attempts
        self._clock = clock
        self._arm_linger = arm_linger
        self._forget = forget
        self.out_of_memory = False  # what comes is refused
        self._next_id = 0
        self._event_pools: list[Pool] = []

    def pool(self, service: str) -> Pool:
        """The pool of a service; made when the service is first heard of, and kept."""
        pool = self.pools.get(service)
        if pool is None:
            pool = self.pools[service] = Pool(service, *self._max_waiting, self._arm_linger)
            pool.down_since = self._clock()
        return pool

    def bytes_held(self) -> int:
        """Of packets that workers have, or shall have, or have not answered although nobody waits any more."""
        return sum(len(packet.body) for packet in self._packets_held())

    def bytes_held_of(self) -> Counter[Session]:
        """The same, by session."""
        held: Counter[Session] = Counter()
        for packet in self._packets_held():
            held[packet.lane.session] += len(packet.body)
        return held

    def _packets_held(self) -> Iterator[Pending]:
        lanes: dict[int, Lane] = {}
        for link in self._links:
            for packet in chain(link.queue, link.pending.values()):
                yield packet
                if packet.lane.waiting:
                    lanes[id(packet.lane)] = packet.lane
            yield from link.expired.values()
        listed = chain.from_iterable(pool.listed for pool in self.pools.values())
        lanes.update((id(lane), lane) for lane in chain.from_iterable(listed))
        for lane in lanes.values():
            yield from lane.waiting

    def drop_forfeit(self) -> None:
        """Sessions were cut because they held too much: keep no bodies of theirs, be they in the hands of workers."""
        for link in self._links:
            for packet in link.expired.values():
                if packet.lane.session.is_forfeit:
                    packet.drop_body()
            link.count_slow()

    # From clients.

    def receive(self, session: Session, packets: Sequence[Received]) -> Sequence[Received]:
        """What one client sent, in order. Returns those from the first on that can't be taken now: the session is
        `blocked` then, and its port is resumed when it may offer them again.
        """
        now = self._clock()
        if self.out_of_memory:
            packets = self._refuse_for_memory(session, packets)
        if self.quarantine.watched:
            packets = self._screened(session, packets, now)
        known = self.routes.known
        first = id = self._next_id
        notifies = 0
        left: Sequence[Received] = ()
        incoming = iter(packets)
        for kind, command, seq, body in incoming:
            if kind > _RECEIVED_NOTIFY:
                if session.port is not None:
                    session.port.pinged(kind, command, seq, body)
                continue
            route = known.get(command) or self.routes.resolve(command)
            if route is None:
                self._refuse(session, kind, command, seq, route)
                continue
            pool = route.pool
            if pool.load >= pool.easy:
                verdict = self.admission.judge(session, route, session.in_flight + id - first, now)
                if verdict is Verdict.WAIT:
                    self.admission.block(session, pool, now)
                    left = [(kind, command, seq, body), *incoming]
                    break
                if verdict is Verdict.REFUSE:
                    self._refuse(session, kind, command, seq, route)
                    continue
            id += 1
            lane = session.lane
            if route.free:
                lane = Lane(session, pool)
            elif lane is None or lane.pool is not pool:
                lane = session.lane_in(pool)
            if kind == _RECEIVED_NOTIFY:
                notifies += 1
                resend = route.notify_resend
                kind = NOTIFY
            else:
                resend = route.resend
                kind = REQUEST
            pool.admit(lane, Pending(id, lane, route, kind, command, seq, body, now + route.timeout_s, resend))
        self._next_id = id
        accepted = id - first
        session.in_flight += accepted
        if session.out:
            session.flush()
        self.counters.requests += accepted - notifies
        self.counters.notifies += notifies
        return left

    def _screened(self, session: Session, packets: Sequence[Received], now: float) -> Sequence[Received]:
        """Refuse those that are quarantined; what is left."""
        quarantine = self.quarantine
        if now >= quarantine.expires_at:
            quarantine.tidy(now)
        left = []
        for packet in packets:
            kind, command, _, body = packet
            if command in quarantine.watched and kind <= _RECEIVED_NOTIFY:
                route = self.routes.resolve(command)
                refusal = quarantine.find(route.pool.service, command, body) if route else None
                if refusal is not None:
                    refusal.refused += 1
                    self.counters.quarantine_refused += 1
                    self._turn_away(session, packet, Status.FAILED_PRECONDITION, _QUARANTINED_BEFORE)
                    continue
            left.append(packet)
        return left

    def _refuse_for_memory(self, session: Session, packets: Sequence[Received]) -> Sequence[Received]:
        """Refuse all that would be kept; what is left."""
        left = []
        for packet in packets:
            if packet[0] > _RECEIVED_NOTIFY:
                left.append(packet)
            else:
                self.counters.memory_refused += 1
                self._turn_away(session, packet, Status.RESOURCE_EXHAUSTED, "the gateway is full, try later")
        return left

    def _turn_away(self, session: Session, packet: Received, status: Status, reason: str) -> None:
        """It was never let in: a request hears of it, what a client tells is dropped."""
        kind, command, seq, _ = packet
        if kind == _RECEIVED_NOTIFY:
            self.counters.notifies_dropped += 1
        else:
            self._error(session, command, seq, status, reason)

    def _refuse(self, session: Session, kind: int, command: int, seq: int, route: Route | None) -> None:
        if route is None and not self.pools:
            status, reason = Status.UNAVAILABLE, "no worker has registered yet"
        elif route is None:
            status, reason = Status.UNIMPLEMENTED, f"no service serves command {command}"
        elif not route.pool.links:
            status, reason = Status.UNAVAILABLE, f"no worker of {route.pool.service!r} is there"
        else:
            status, reason = Status.RESOURCE_EXHAUSTED, f"every worker of {route.pool.service!r} is full, try later"
        self._count_refusal(status)
        if kind == _RECEIVED_NOTIFY:
            self.counters.notifies_dropped += 1
        else:
            self._error(session, command, seq, status, reason)

    def _count_refusal(self, status: Status) -> None:
        if status is Status.RESOURCE_EXHAUSTED:
            self.counters.overloaded += 1
        elif status is Status.UNAVAILABLE:
            self.counters.unavailable += 1

    def _error(self, session: Session, command: int, seq: int, status: int, reason: str) -> None:
        self.counters.errors += 1
        session.out.append(encode_error(command, seq, status, reason))

    # Session events.

    def opened(self, session: Session) -> None:
        for pool in self._event_pools:
            self._event(session, pool, OPEN)

    def closed(self, session: Session) -> None:
        """The client has gone. Its requests are cancelled at the next sweep; what it has told runs on."""
        for lane in tuple(session.all_lanes()):
            if lane.opened:
                self._event(session, lane.pool, CLOSE)
        if not session.in_flight:
            self._forget(session.id)

    def _event(self, session: Session, pool: Pool, kind: int) -> None:
        lane = session.lane_in(pool)
        lane.opened = True
        self._next_id += 1
        session.in_flight += 1
        deadline = self._clock() + EVENT_DEADLINE_S
        pool.admit(lane, Pending(self._next_id, lane, None, kind, 0, 0, b"", deadline, True))
        pool.load -= 1  # events are no load: that many clients come and go must refuse nobody's packets

    # Links.

    def joined(self, link: Link, commands: frozenset[int] | None, session_events: bool) -> None:
        """A worker is ready. `commands`: those it serves; None: all that no other service claims."""
        pool = link.pool
        if commands != pool.commands:
            self._warn_of_rivals(pool, commands)
            # While versions of a service run side by side the newest says what it serves.
            pool.commands = commands
            self.routes.forget()
        pool.join(link)
        self._links.add(link)
        self.counters.links_opened += 1
        log.info("worker %s of %s is linked", link.worker_id, pool.service, extra={"worker": link.worker_id})
        if session_events and not pool.session_events:
            pool.session_events = True
            self._event_pools.append(pool)
            for session in tuple(self._sessions.by_id.values()):
                self._event(session, pool, OPEN)

    def _warn_of_rivals(self, pool: Pool, commands: frozenset[int] | None) -> None:
        """Two services that serve one command: it goes to the first by name, which may be nobody's wish."""
        for other in self.pools.values():
            if other is pool or not other.links:
                continue
            shared = min((commands or frozenset()) & (other.commands or frozenset()), default=None)
            if shared is None and not (commands is None and other.commands is None):
                continue
            first, second = sorted((pool.service, other.service))
            log.warning(
                "services %s and %s both serve %s: %s gets it; name one in a [[route]] to choose",
                first,
                second,
                "every command" if shared is None else f"command {shared}",
                first,
            )

    def suspected(self, link: Link) -> None:
        """Silent for a while: it keeps what it has and gets nothing new."""
        link.state = LinkState.SUSPECT
        link.pool.fell_silent(link, self._clock())
        link.hold()

    def recovered(self, link: Link) -> None:
        link.state = LinkState.READY
        link.pool.join(link)

    def draining(self, link: Link) -> None:
        if link.state is not LinkState.DRAINING:
            link.state = LinkState.DRAINING
            log.info(
                "worker %s drains: %d open",
                link.worker_id,
                len(link.pending) + len(link.queue),
                extra={"worker": link.worker_id},
            )
            link.pool.leave(link, self._clock())
            link.hold()

    def lost(self, link: Link, crashed: bool, blame: bool = True, sure: bool = True, silent: bool = False) -> None:
        """Move everything unanswered to other workers. The caller has cancelled the stream, so that nothing more can
        arrive on it. `crashed`: the worker's process died or fell silent, so one of the packets it held may have done
        that. `blame`: the suspect that it held has, since it is the second worker. `sure`: it was a packet; else the
        machine or the network may have stood still as well, and only the first DOUBTFUL packets are suspect.
        `silent`: it was given up for silence; one that drains has not crashed then, and has not left either.
        """
        now = self._clock()
        read = link.count_read() if crashed else 0
        if not sure:
            read = min(read, DOUBTFUL)
        worker = Lost(link.worker_id, link.incarnation)
        culprit = self._culprit(link, worker, read, now) if crashed and blame else None
        suspects = read if culprit is None else 0
        bystander = None if culprit is None or culprit is link.suspect else link.suspect
        link.state = LinkState.LOST
        link.pool.leave(link, now)
        link.suspect = None
        self._links.discard(link)
        self.counters.links_lost += 1
        letter = None if culprit is None else self._quarantine(culprit, worker)
        blocks: dict[Lane, list[Pending]] = {}
        for number, packet in enumerate(link.pending.values()):
            block = blocks.setdefault(packet.lane, [])
            packet.suspect = link.worker_id if number < suspects else ""
            if packet is culprit:
                self._fail_when_told(packet, _QUARANTINED)
            elif self._is_quarantined(packet):
                self._refuse_the_like(packet)
            elif packet is bystander:
                self._fail(packet, Status.UNAVAILABLE, _BYSTANDER)
            elif not packet.resend:
                self._fail(packet, Status.ABORTED, "outcome unknown: the worker was lost and may have run it")
            elif packet.attempt + 1 >= self._max_attempts:
                self._fail(packet, Status.UNAVAILABLE, f"{self._max_attempts} workers were lost with this request")
            else:
                packet.attempt += 1
                self.counters.redelivered += 1
                block.append(packet)
        moved = sum(map(len, blocks.values()))
        refused = len(link.pending) - moved
        moved += len(link.queue)
        log.log(
            logging.WARNING if crashed or silent or moved or refused else logging.INFO,
            "worker %s %s: %s went to others, %d refused",
            link.worker_id,
            "lost" if crashed or silent else "left",
            counted(moved, "packet"),
            refused,
            extra={"worker": link.worker_id},
        )
        for packet in link.queue:
            blocks.setdefault(packet.lane, []).append(packet)
        for id in tuple(link.expired):
            link.answered_late(id)
        link.pending = {}
        link.queue = []
        for lane, block in reversed(blocks.items()):
            lane.link = None
            lane.open = 0
            lane.held = False
            lane.take_back(block)
            if lane.waiting and lane.waiting[0].suspect:
                self.after_a_moment(functools.partial(self._try_again, lane))
            elif lane.waiting:
                link.pool.list(lane, first=True)
        if letter is not None:
            self._refuse_waiting(link.pool)
        if link.pool.has_work and link.pool.called is None:
            link.pool.wake()

    def _try_again(self, lane: Lane) -> None:
        """A lane whose first packet is suspect, if it has not been refused or dropped meanwhile."""
        gone = [packet for packet in lane.waiting if self._is_quarantined(packet)]
        lane.waiting = [packet for packet in lane.waiting if packet not in gone]
        for packet in gone:
            self._refuse_the_like(packet)
        if lane.waiting and lane.link is None:
            lane.pool.list(lane, first=True)
            if lane.pool.called is None:
                lane.pool.wake()

    def _culprit(self, link: Link, worker: Lost, count: int, now: float) -> Pending | None:
        """The packet with which this worker is the second one that was lost; else the first `count` are accused.

        The suspect is it, whom we sent to a second worker, unless somebody has sent again what was accused with it: who
        knows one input that crashes workers could else have others' packets quarantined.
        """
        # What nobody waits for any more is still in the worker's hands, but what it has had for long did not do it.
        recent = [packet for packet in link.expired.values() if now - packet.deadline < self._recent_s]
        read = [*recent, *islice(link.pending.values(), count)]
        suspect = link.suspect
        if suspect is not None:
            fresh = [packet for packet in read if not packet.attempt]
            again = self.quarantine.met_before(fresh, worker, now)
            if again is None or (again.command, again.body) == (suspect.command, suspect.body):
                return suspect
            return again
        culprit = self.quarantine.met_before(read, worker, now)
        if culprit is None:
            self.quarantine.accuse(read, worker, now)
        return culprit

    def _quarantine(self, packet: Pending, worker: Lost) -> DeadLetter:
        self.counters.quarantined += 1
        letter = self.quarantine.add(packet, worker, self._clock())
        dead_letters.error(
            "quarantined %s: command %d of session %x, %d bytes, was being handled when workers of %r were lost: %s",
            letter.id,
            letter.command,
            letter.session,
            len(letter.body),
            letter.service,
            ", ".join(letter.workers),
            extra={"command": letter.command, "session": f"{letter.session:x}", "worker": letter.workers[-1]},
        )
        return letter

    def _is_quarantined(self, packet: Pending) -> bool:
        """Whether another packet that is the same has been quarantined since this one was accepted."""
        if not self.quarantine.watched or packet.route is None:
            return False
        lane = packet.lane
        refusal = self.quarantine.find(lane.pool.service, packet.command, packet.body)
        return refusal is not None and not refusal.is_of(packet)

    def _acquit(self, link: Link, answers: Iterable[Answer]) -> None:
        """What has run did its worker no harm."""
        now = self._clock()
        self.quarantine.accused.tidy(now)
        for answer in answers:
            packet = link.pending.get(answer.id) or link.expired.get(answer.id)
            if packet is not None and not answer.not_started and answer.status not in _UNPROVEN:
                self.quarantine.acquit(packet, now)

    def _refuse_the_like(self, packet: Pending) -> None:
        refusal = self.quarantine.find(packet.lane.pool.service, packet.command, packet.body)
        if refusal is not None:
            refusal.refused += 1
        self.counters.quarantine_refused += 1
        self._fail_when_told(packet, _QUARANTINED_BEFORE)

    def _fail_when_told(self, packet: Pending, reason: str) -> None:
        """A client that hears of it may try another gateway at once."""
        self.after_told(lambda: self._fail(packet, Status.FAILED_PRECONDITION, reason))

    def hear(self, suspicion: Suspicion) -> None:
        """Another gateway has found this."""
        if self.quarantine.hear(suspicion, self._clock()) and suspicion.service in self.pools:
            self._refuse_waiting(self.pools[suspicion.service])

    def _refuse_waiting(self, pool: Pool) -> None:
        """What waits and is quarantined meets nobody. What is in flight elsewhere is not sent again."""
        lanes = {id(lane): lane for lane in chain.from_iterable(pool.listed)}
        for link in self._links:
            if link.pool is not pool:
                continue
            lanes.update((id(packet.lane), packet.lane) for packet in (*link.pending.values(), *link.queue))
            for packet in [packet for packet in link.queue if self._is_quarantined(packet)]:
                link.queue.remove(packet)
                packet.lane.open -= 1
                self._refuse_the_like(packet)
                if not packet.lane.open:
                    pool.release(packet.lane)
        for lane in lanes.values():
            gone = [packet for packet in lane.waiting if self._is_quarantined(packet)]
            if gone:
                pool.take_out(lane, gone)
                for packet in gone:
                    self._refuse_the_like(packet)

    def replay(self, session: Session, letter: DeadLetter) -> None:
        """Let a dead letter go once more, as this session's request: to one worker at most."""
        route = self.routes.resolve(letter.command)
        if route is None or route.pool.load >= route.pool.capacity or route.pool.refusing:
            self._refuse(session, REQUEST, letter.command, 0, route)
            session.flush()
            return
        self.counters.dead_letters_replayed += 1
        lane = Lane(session, route.pool)
        deadline = self._clock() + route.timeout_s
        packet = Pending(letter.number, lane, route, REQUEST, letter.command, 0, letter.body, deadline, resend=False)
        packet.attempt = letter.attempt + 1
        packet.suspect = letter.workers[-1]
        session.in_flight += 1
        route.pool.admit_suspect(lane, packet)

    # From workers.

    def answered(self, link: Link, answers: Iterable[Answer], touched: list[Session]) -> None:
        """Settle a batch. Sessions with something to write are added to `touched`; the caller flushes them."""
        if self.quarantine.watched or self.quarantine.accused or link.suspect is not None:
            self._acquit(link, answers)
        pop = link.pending.pop
        probe = link.pending.get(link.limit.probe)
        late = replies = events = slow = 0
        slow_open = link.slow_open
        for answer in answers:
            packet = pop(answer.id, None)
            if packet is None:
                link.answered_late(answer.id)
                late += 1
                continue
            if slow_open and packet.is_slow:
                slow += 1
            lane = packet.lane
            session = lane.session
            status = answer.status
            if packet.suspect:
                link.suspect = None
                if not answer.not_started:
                    packet.suspect = ""
            lane.open -= 1
            if status and answer.not_started:
                self._give_back(packet, link)
                continue
            replies += 1
            if lane.waiting and lane.waiting[0].id < packet.id:
                self._overtaken(packet)
            if not lane.open:
                if lane.waiting:
                    lane.pool.release(lane)
                else:
                    lane.link = None
                    lane.held = False
            session.in_flight -= 1
            kind = packet.kind
            if kind > NOTIFY:
                events += 1
            if session.port is None:
                if not session.in_flight:
                    self._forget(session.id)
            elif kind == REQUEST:
                out = session.out
                if not out:
                    touched.append(session)
                if status:
                    link.failed += status in _FAILURES
                    known = status if status in _STATUSES else Status.UNKNOWN
                    out.append(encode_error(packet.command, packet.seq, known, answer.message[:MAX_REASON]))
                else:
                    body = answer.body
                    size = len(body)
                    if size > _MAX_BODY:
                        self._error(session, packet.command, packet.seq, Status.INTERNAL, "the reply is too big")
                    else:
                        out.append(_pack(PACKET_OVERHEAD + size, _REPLY, 0, packet.command, packet.seq) + body)
            elif session.paused:
                touched.append(session)
        if probe is not None and probe.id not in link.pending:
            link.pool.probed(link, probe, self._clock())
        self.counters.late_replies += late
        self.counters.replies += replies
        link.answered += replies
        link.slow_open = max(0, link.slow_open - slow)
        pool = link.pool
        pool.answered += replies
        pool.load -= replies - events
        if pool in self.admission.blocked:
            self.admission.resume(pool, self._clock())

    def _give_back(self, packet: Pending, link: Link) -> None:
        """A worker did not begin it: it is free to go to another, ahead of what came after it."""
        lane = packet.lane
        now = self._clock()
        self.counters.returned_not_started += 1
        if packet.id == link.limit.probe:
            link.limit.probe = 0
        link.rest(now)
        if self._is_quarantined(packet):
            self._refuse_the_like(packet)
        elif not lane.pool.budget.spend(now):
            self._fail(packet, Status.UNAVAILABLE, "no worker took it, and the retry budget is spent")
        else:
            lane.take_back([packet])
            lane.held = True
        if not lane.open:
            lane.pool.release(lane)

    def _overtaken(self, packet: Pending) -> None:
        """A worker ran this one and had given back what came before it in the lane: that can't run any more."""
        lane = packet.lane
        while lane.waiting and lane.waiting[0].id < packet.id:
            late = lane.waiting.pop(0)
            self._fail(late, Status.UNAVAILABLE, "a worker gave it back, and ran a later packet of the session")

    # Outcomes that no worker gave.

    def _fail(self, packet: Pending, status: Status, reason: str) -> None:
        """Give a packet its outcome. It must be out of every list; its lane is the caller's."""
        lane = packet.lane
        session = lane.session
        lane.pool.load -= 1
        session.in_flight -= 1
        if packet.kind == REQUEST:
            if status is Status.ABORTED:
                self.counters.outcome_unknown += 1
            self._error(session, packet.command, packet.seq, status, reason)
        elif packet.kind == NOTIFY:
            self.counters.notifies_dropped += 1
        else:
            lane.pool.load += 1
            self.counters.events_lost += 1
        session.flush()
        if session.port is None and not session.in_flight:
            self._forget(session.id)

    def expire(self, packet: Pending, now: float) -> None:
        """It is past its deadline, or its client has gone, and it is out of every list."""
        if packet.deadline <= now:
            self.counters.deadlines_exceeded += 1
            self._fail(packet, Status.DEADLINE_EXCEEDED, "no answer within the deadline")
        else:
            self.counters.cancelled += packet.kind == REQUEST
            self._fail(packet, Status.CANCELLED, "the client has gone")

    def crowded_out(self, packet: Pending) -> None:
        """Its client has ended its side, and others need the room."""
        self.counters.overloaded += 1
        self._fail(
            packet, Status.RESOURCE_EXHAUSTED, f"every worker of {packet.lane.pool.service!r} is full, try later"
        )

    def never_told(self, event: Pending) -> None:
        """Its session came and went before any worker heard of it: none needs to."""
        session = event.lane.session
        session.in_flight -= 1
        if not session.in_flight:
            self._forget(session.id)

    def no_worker(self, packet: Pending) -> None:
        """Nobody of its service has been there for too long."""
        self.counters.unavailable += 1
        self._fail(packet, Status.UNAVAILABLE, f"no worker of {packet.lane.pool.service!r} is there")
