"""Who is connected: what workers ask and gateways answer."""

import pytest

from gatecrew.v1 import worker_pb2
from gatecrew_gateway.actions import ActionError, Actions
from gatecrew_gateway.config import ListenerConfig
from gatecrew_gateway.counters import Counters
from gatecrew_gateway.net.stream import MESSAGE_LIMIT, RESULT_BYTES, split
from gatecrew_gateway.session import ClientPort, Session, SessionTable

pytestmark = pytest.mark.quick


class Port:
    def write(self, data: bytes) -> None: ...
    def unsent(self) -> int:
        return 0

    def cut_as_slow(self) -> None: ...
    def resume(self) -> None: ...
    def close(self) -> None: ...


class Table:
    def __init__(self) -> None:
        self.sessions = SessionTable(prefix=1)
        self.actions = Actions(self.sessions, Counters(), lambda: 0.0)

    def come(self, user: str = "", *groups: str) -> Session:
        port: ClientPort = Port()
        session = self.sessions.open("127.0.0.1:1", ListenerConfig(name="main"), port, 0.0)
        self.sessions.bind(session, user)
        for group in groups:
            self.sessions.join(session, group)
        return session

    def ask(self, room: int = RESULT_BYTES, **fields: object) -> worker_pb2.QueryResult:
        return self.actions.query(worker_pb2.Query(receipt=7, **fields), room)  # type: ignore[arg-type]


@pytest.fixture
def table() -> Table:
    return Table()


def test_counts_and_names(table: Table) -> None:
    ada, bob, nobody = table.come("ada", "lobby"), table.come("bob", "lobby", "cellar"), table.come()
    again = table.come("ada")

    def ask(limit: int = 0, **target: object) -> tuple[int, list[tuple[int, str]]]:
        result = table.ask(limit=limit, **target)
        assert result.receipt == 7
        return result.sessions, [(name.session, name.user) for name in result.names]

    assert ask(everyone=True) == (4, [])
    assert ask(user="ada") == (2, [])
    assert ask(user="eve", limit=5) == (0, [])
    assert ask(user="", limit=5) == (0, [])
    assert ask(user="ada", limit=5) == (2, [(ada.id, "ada"), (again.id, "ada")])
    assert ask(group="lobby", limit=1) == (2, [(ada.id, "ada")])
    assert ask(group="cellar", limit=9) == (1, [(bob.id, "bob")])
    assert ask(session=nobody.id, limit=1) == (1, [(nobody.id, "")])
    assert ask(session=4711, limit=1) == (0, [])
    table.sessions.close(ada)
    assert ask(group="lobby", limit=9) == (1, [(bob.id, "bob")])
    assert ask(session=ada.id) == (0, [])


def test_what_cannot_be_meant(table: Table) -> None:
    with pytest.raises(ActionError, match="without a target"):
        table.ask()
    with pytest.raises(ActionError, match="without a receipt"):
        table.actions.query(worker_pb2.Query(everyone=True), RESULT_BYTES)


def test_names_fit_into_their_room(table: Table) -> None:
    for number in range(2000):
        table.come(f"{number:04}" + "\N{GRINNING FACE}" * 252)
    result = table.ask(everyone=True, limit=1 << 31)
    assert result.sessions == 2000
    assert 900 < len(result.names) < 2000
    assert result.ByteSize() <= RESULT_BYTES + 64
    assert table.ask(everyone=True, limit=5, room=0).sessions == 2000
    assert not table.ask(everyone=True, limit=5, room=0).names


def test_results_of_many_queries_are_split_over_messages(table: Table) -> None:
    for number in range(12_000):
        table.come(f"user-{number:06}")
    message = worker_pb2.GatewayMessage(heartbeat=worker_pb2.Heartbeat(number=3), sent_ms=1 << 40)
    message.query_results.extend(table.ask(everyone=True, limit=12_000) for _ in range(20))
    assert message.ByteSize() > MESSAGE_LIMIT
    parts = [worker_pb2.GatewayMessage.FromString(data) for data in split(message)]
    assert all(part.ByteSize() <= MESSAGE_LIMIT for part in parts)
    assert all(part.sent_ms == 1 << 40 for part in parts)
    assert sum(len(part.query_results) for part in parts) == 20
    assert [part.heartbeat.number for part in parts if part.HasField("heartbeat")] == [3]
