"""What clients and workers saw, and which promises it breaks. Pure: records in, violations out.

Clients record what they sent and what came back, workers what they began and finished, each into a file of its own, one
JSON record a line. All times are of the machine's one monotonic clock, in seconds, so that files can be merged.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Sent:
    """A client wrote a request, or a notify (`oneway`), which no answer follows.

    `session` is the client's own name for its connection, `secret` is known to that connection alone.
    """

    session: str
    seq: int
    command: int
    secret: str
    nonce: str
    at: float
    oneway: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """A client read a reply (`status` 0) or an error. `echo` is the body of a reply, `reason` the text of an error."""

    session: str
    seq: int
    status: int
    at: float
    echo: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Pushed:
    """A client read a push."""

    session: str
    secret: str
    at: float


@dataclass(frozen=True, slots=True)
class Ended:
    """A connection ended before the client closed it, or was told to."""

    session: str
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Stall:
    """The machine, not Gatecrew, was late: an echo between two idle processes took so long."""

    at: float
    took: float


@dataclass(frozen=True, slots=True)
class Executed:
    """A worker began a packet. `session`, `seq` and `nonce` are those of the body, `gateway_session` and `key` the
    gateway's names of session and packet.
    """

    worker: str
    incarnation: int
    session: str
    seq: int
    nonce: str
    command: int
    attempt: int
    gateway_session: str
    key: str
    at: float


@dataclass(frozen=True, slots=True)
class Finished:
    """A worker is about to answer it."""

    incarnation: int
    session: str
    seq: int
    nonce: str
    at: float


Record = Sent | Answered | Pushed | Ended | Stall | Executed | Finished
_TYPES = {each.__name__: each for each in (Sent, Answered, Pushed, Ended, Stall, Executed, Finished)}


def to_line(record: Record) -> bytes:
    """One line of a history file."""
    return json.dumps({"is": type(record).__name__, **asdict(record)}, separators=(",", ":")).encode() + b"\n"


def from_line(line: bytes | str) -> Record:
    fields = json.loads(line)
    record: Record = _TYPES[fields.pop("is")](**fields)
    return record


def read(path: Path) -> Iterator[Record]:
    """The records of a file. Half a line at its end is what a killed writer left, and is dropped."""
    *lines, rest = path.read_bytes().split(b"\n")
    del rest
    return map(from_line, lines)


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise. `what` is its kind, one word, for tests to tell them apart."""

    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.what}: {self.text}"


@dataclass
class History:
    """All records, by type, each list in order of time."""

    sent: list[Sent] = field(default_factory=list)
    answered: list[Answered] = field(default_factory=list)
    pushed: list[Pushed] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    stalls: list[Stall] = field(default_factory=list)
    executed: list[Executed] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)

    @classmethod
    def of(cls, records: Iterable[Record]) -> History:
        history = cls()
        lists: dict[type, list[Record]] = {
            Sent: history.sent,  # type: ignore[dict-item]
            Answered: history.answered,  # type: ignore[dict-item]
            Pushed: history.pushed,  # type: ignore[dict-item]
            Ended: history.ended,  # type: ignore[dict-item]
            Stall: history.stalls,  # type: ignore[dict-item]
            Executed: history.executed,  # type: ignore[dict-item]
            Finished: history.finished,  # type: ignore[dict-item]
        }
        for record in records:
            lists[type(record)].append(record)
        for each in lists.values():
            each.sort(key=lambda record: record.at)
        return history

    def take(self, other: History) -> None:
        """Become the other one."""
        self.__dict__.update(other.__dict__)

    @property
    def errors(self) -> list[Answered]:
        return [answer for answer in self.answered if answer.status]

    @property
    def requests(self) -> list[Sent]:
        return [each for each in self.sent if not each.oneway]

    @property
    def again(self) -> list[Executed]:
        """Executions of packets that had been with another worker before."""
        return [each for each in self.executed if each.attempt]


def violations(
    history: History,
    *,
    at_most_once: Collection[int] = (),
    strict: Collection[int] = (),
    unordered: Collection[int] = (),
) -> list[Violation]:
    """Every promise that the history breaks; the arguments are commands that were routed so.

    - lost, twice, unasked: each request has exactly one answer, and each answer a request;
    - leak, garbled: an answer or push carries the secret of its own session and the nonce of its own request;
    - unexecuted: a request that was answered well has been executed;
    - mixed: one connection is one session of the gateway, and the other way round;
    - repeated: the executions of a packet have different attempts;
    - again: an at-most-once packet, and a notify, is executed at most once;
    - order: a session's packets are first executed in the order in which they were sent, but for those that begin when
      their client has been given up on already, see `begun_late`;
    - strict: a strict packet is begun when the one before it is finished, and not begun again after that.
    """
    found: list[Violation] = []
    found += _answers(history)
    found += _identities(history)
    executions: dict[tuple[str, int], list[Executed]] = defaultdict(list)
    for execution in history.executed:
        executions[execution.session, execution.seq].append(execution)
    found += _executions(history, executions, at_most_once)
    found += _order(history, executions, strict, unordered)
    return found


def _answers(history: History) -> Iterator[Violation]:
    asked = {(sent.session, sent.seq): sent for sent in history.requests}
    owners = {sent.secret: sent.session for sent in history.sent}
    answers: dict[tuple[str, int], int] = defaultdict(int)
    for answer in history.answered:
        where = answer.session, answer.seq
        sent = asked.get(where)
        if sent is None:
            yield Violation("unasked", f"{answer}")
            continue
        answers[where] += 1
        if answers[where] == 2:
            yield Violation("twice", f"{answer}")
        if answer.status == 0:
            yield from _echo(answer, sent, owners)
    for where, sent in asked.items():
        if where not in answers:
            yield Violation("lost", f"{sent}")
    for push in history.pushed:
        if owners.get(push.secret) != push.session:
            yield Violation("leak", f"{push}, which is of {owners.get(push.secret)}")


def _echo(answer: Answered, sent: Sent, owners: dict[str, str]) -> Iterator[Violation]:
    if answer.echo == body_of(sent):
        return
    others = [secret for secret in answer.echo.split() if owners.get(secret, sent.session) != sent.session]
    if others:
        yield Violation("leak", f"{answer} to {sent} has the secret of {owners[others[0]]}")
    else:
        yield Violation("garbled", f"{answer} to {sent}")


def body_of(sent: Sent) -> str:
    """The text that a client writes into the body, and a worker sends back."""
    return f"{sent.session} {sent.seq} {sent.secret} {sent.nonce}"


def _identities(history: History) -> Iterator[Violation]:
    gateway_sessions: dict[str, str] = {}
    sessions: dict[str, str] = {}
    for each in history.executed:
        if (
            gateway_sessions.setdefault(each.session, each.gateway_session) != each.gateway_session
            or sessions.setdefault(each.gateway_session, each.session) != each.session
        ):
            yield Violation("mixed", f"{each}: connection {sessions.get(each.gateway_session)} has that session")


def _executions(
    history: History, executions: dict[tuple[str, int], list[Executed]], at_most_once: Collection[int]
) -> Iterator[Violation]:
    sent = {(each.session, each.seq): each for each in history.sent}
    for where, each in executions.items():
        if where not in sent or any(one.nonce != sent[where].nonce for one in each):
            yield Violation("garbled", f"executed, but not so sent: {each[0]}")
            continue
        attempts = [one.attempt for one in each]
        if len(set(attempts)) < len(attempts):
            yield Violation("repeated", f"attempts {attempts} of {sent[where]}")
        if len({one.key for one in each}) > 1:
            yield Violation("repeated", f"several keys: {each}")
        if len(each) > 1 and (sent[where].command in at_most_once or sent[where].oneway):
            yield Violation("again", f"executed {len(each)} times: {sent[where]}")
    for answer in history.answered:
        if answer.status == 0 and (answer.session, answer.seq) in sent and not executions[answer.session, answer.seq]:
            yield Violation("unexecuted", f"{answer}")


def _order(
    history: History,
    executions: dict[tuple[str, int], list[Executed]],
    strict: Collection[int],
    unordered: Collection[int],
) -> Iterator[Violation]:
    firsts: dict[str, list[Executed]] = defaultdict(list)
    late = {(each.session, each.seq) for each, _ in begun_late(history)}
    for where, each in executions.items():
        if each and each[0].command not in unordered and where not in late:
            firsts[each[0].session].append(each[0])
    finished: dict[tuple[str, int], float] = {}
    for end in history.finished:
        finished.setdefault((end.session, end.seq), end.at)
    for in_session in firsts.values():
        in_session.sort(key=lambda each: each.at)
        for before, after in pairwise(in_session):
            if before.seq > after.seq:
                yield Violation("order", f"{before.session}: {after.seq} began after {before.seq}")
        for before, after in pairwise(sorted(in_session, key=lambda each: each.seq)):
            if after.command in strict and before.command in strict:
                begun = executions[before.session, before.seq][-1].at
                ended = finished.get((before.session, before.seq))
                if begun > after.at or (ended is not None and ended > after.at):
                    yield Violation("strict", f"{after.session}: {after.seq} began before {before.seq} was over")


def begun_late(history: History) -> list[tuple[Executed, float]]:
    """Executions that began after their client had an error, and how many seconds after it: the deadline had passed and
    the worker had not heard of it.
    """
    errors = {(error.session, error.seq): error.at for error in history.errors}
    began = ((each, each.at - errors.get((each.session, each.seq), each.at)) for each in history.executed)
    return [(each, late) for each, late in began if late > 0]


@dataclass(frozen=True, slots=True)
class Latency:
    """From a request's writing to its answer's reading. `ours` leaves out for how long the machine stood still."""

    sent: Sent
    answered: Answered
    took: float
    ours: float


def latencies(history: History) -> list[Latency]:
    """Of every answered request, the slowest first."""
    answers = {(answer.session, answer.seq): answer for answer in reversed(history.answered)}
    stalls = _merged(history.stalls)
    starts = [start for start, _ in stalls]
    found = []
    for sent in history.requests:
        answer = answers.get((sent.session, sent.seq))
        if answer is not None:
            took = answer.at - sent.at
            found.append(Latency(sent, answer, took, took - _stalled(stalls, starts, sent.at, answer.at)))
    return sorted(found, key=lambda latency: latency.ours, reverse=True)


def _merged(stalls: Iterable[Stall]) -> list[tuple[float, float]]:
    """As intervals that do not overlap."""
    merged: list[tuple[float, float]] = []
    for stall in stalls:
        start, end = stall.at, stall.at + stall.took
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _stalled(stalls: list[tuple[float, float]], starts: list[float], since: float, until: float) -> float:
    total = 0.0
    at = max(0, bisect_left(starts, since) - 1)
    while at < len(stalls) and stalls[at][0] < until:
        total += max(0.0, min(until, stalls[at][1]) - max(since, stalls[at][0]))
        at += 1
    return total
