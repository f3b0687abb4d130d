"""Settings: who wins, and one line for each finding that says where it stands."""

import re
from pathlib import Path

import pytest

import gatecrew_cli
from gatecrew_cli.environment import OPTIONS, unknown
from gatecrew_cli.errors import UserError
from gatecrew_cli.settings import SECTIONS, load
from gatecrew_gateway.config import GatewayConfig, ListenerConfig

pytestmark = pytest.mark.quick


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN", "CONSUL_CACERT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("gatecrew.toml")


def findings(file: Path | None = None, flags: dict[str, object] | None = None) -> list[str]:
    with pytest.raises(UserError) as raised:
        load(str(file) if file else None, flags)
    return str(raised.value).splitlines()


def test_defaults_are_those_of_the_gateway() -> None:
    assert load().settings.gateways() == [GatewayConfig()]


def test_flag_before_environment_before_file_before_default(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("[gateway]\nmax_waiting = 1\nmax_attempts = 1\nheartbeat_s = 0.5\n")
    monkeypatch.setenv("GATECREW_GATEWAY__MAX_WAITING", "2")
    monkeypatch.setenv("GATECREW_GATEWAY__MAX_ATTEMPTS", "2")
    loaded = load(str(file), {"gateway": {"max_waiting": 3}})
    [gateway] = loaded.settings.gateways()
    assert (gateway.max_waiting, gateway.max_attempts, gateway.heartbeat_s, gateway.drain_s) == (3, 2, 0.5, 10.0)
    origins = [
        loaded.layers.origin(("gateway", key)) for key in ("max_waiting", "max_attempts", "heartbeat_s", "drain_s")
    ]
    assert origins == ["command line", "environment", "gatecrew.toml", "default"]


def test_a_flag_changes_one_key_of_one_listener(file: Path) -> None:
    file.write_text('[[listener]]\nname = "a"\nmax_sessions = 5\n[[listener]]\nname = "b"\nport = 7100\n')
    loaded = load(str(file), {"listener": {0: {"port": 7005}}})
    assert loaded.settings.listener == (
        ListenerConfig(name="a", max_sessions=5, port=7005),
        ListenerConfig(name="b", port=7100),
    )
    assert load(None, {"listener": {0: {"port": 7005}}}).settings.listener == (ListenerConfig(port=7005),)


def test_lists_come_from_the_environment_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATECREW_LISTENER", '[{"name": "a", "port": 7009}]')
    assert load().settings.listener == (ListenerConfig(name="a", port=7009),)
    monkeypatch.setenv("GATECREW_LISTENER", "[7009")
    [line] = findings()
    assert "listener" in line
    assert "JSON" in line


def test_each_finding_is_a_line_with_file_and_key(file: Path) -> None:
    file.write_text(
        """
        [gatway]
        [gateway]
        max_wating = 3
        heartbeat_s = "often"
        [[listener]]
        port = 70000
        [[listener]]
        name = "second"
        max_packet = 8.5
        [[route]]
        order = "sesion"
        [[route]]
        commands = "1-x"
        [[worker]]
        target = "chat"
        [[worker]]
        count = 0
        """
    )
    assert sorted(findings(file)) == [
        "gatecrew.toml: gateway.heartbeat_s: 'often', must be a number",
        "gatecrew.toml: gateway.max_wating: unknown; did you mean max_waiting?",
        "gatecrew.toml: gatway: unknown; did you mean gateway?",
        "gatecrew.toml: listener[0].port: 70000, must be from 0 to 65535",
        "gatecrew.toml: listener[1].max_packet: 8.5, must be a whole number",
        "gatecrew.toml: route[0].order: 'sesion', must be 'session', 'none' or 'strict'",
        "gatecrew.toml: route[1].commands: '1-x', '1-x' is neither a number nor a range like 1-20",
        "gatecrew.toml: worker[0].target: 'chat', must be module:object, such as chat:worker",
        "gatecrew.toml: worker[1].count: 0, must be greater than or equal to 1",
        "gatecrew.toml: worker[1].target: missing",
    ]


def test_what_is_bad_hides_nothing_that_is_bad_too(file: Path) -> None:
    """Kinds of values, then each value's range, then what several listeners say together: all in one run."""
    file.write_text(
        """
        listener = [{ port = 70000, max_packet = 1, unknown = 1 }, { name = "b", max_sessions = 0, max_unsent = 1 }]
        [gateway]
        heartbeat_s = "often"
        max_attempts = 0
        drain_s = -1
        suspect_after_s = 0.5
        [[route]]
        commands = "9-1"
        deadline_ms = 1
        [registry]
        listen = "zzz"
        """
    )
    assert sorted(findings(file)) == [
        "gatecrew.toml: gateway.drain_s: -1.0, must be from 0 to 3600",
        "gatecrew.toml: gateway.heartbeat_s: 'often', must be a number",
        "gatecrew.toml: gateway.max_attempts: 0, must be from 1 to 10",
        "gatecrew.toml: listener[0].max_packet: 1, must be from 8 to 1048576",
        "gatecrew.toml: listener[0].port: 70000, must be from 0 to 65535",
        "gatecrew.toml: listener[0].unknown: unknown; there are " + ", ".join(SECTIONS["listener"]),
        "gatecrew.toml: listener[1].max_sessions: 0, must be from 1 to 1000000",
        "gatecrew.toml: listener[1].max_unsent: 1, must be from 1024 to 1073741824",
        "gatecrew.toml: registry.listen: 'zzz', must be HOST:PORT, such as 127.0.0.1:8500",
        "gatecrew.toml: route[0].commands: '9-1', '9-1' must rise and stay within 0-65535",
        "gatecrew.toml: route[0].deadline_ms: 1, must be from 10 to 60000",
    ]
    file.write_text("[[listener]]\n[[listener]]\n[gateway]\nmax_attempts = 0\n")
    assert sorted(findings(file)) == [
        "gatecrew.toml: gateway.max_attempts: 0, must be from 1 to 10",
        "gatecrew.toml: listener: listeners need names of their own, got main, main",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a = @", "gatecrew.toml:1:5: not TOML: Invalid value"),
        ("[gateway]\nx = [1,\ny = 2", "gatecrew.toml:3:1: not TOML: Invalid value"),
        ("[gateway", "gatecrew.toml: not TOML: Expected ']' at the end of a table declaration (at end of document)"),
        ("x = " + "9" * 5000, "gatecrew.toml: not TOML: Exceeds the limit (4300 digits) for integer string conversion"),
        ("x = " + "[" * 5000, "gatecrew.toml: not TOML: maximum recursion depth exceeded"),
        ("gateway = 3", "gatecrew.toml: gateway: 3, must be a table"),
        ("listener = 3", "gatecrew.toml: listener: 3, must be a list"),
        ("[listener]\nport = 1", "gatecrew.toml: listener: write [[listener]], with two brackets"),
        ("[gateway]\nport = 1", "gatecrew.toml: gateway.port: unknown; port is a key of [[listener]]"),
        ("max_waiting = 5", "gatecrew.toml: max_waiting: unknown here; it is a key of [gateway]"),
        ("[[gateway.listeners]]", "gatecrew.toml: gateway.listeners: goes into tables of its own, [[listener]]"),
        ("listener = []", "gatecrew.toml: listener: no listener; give at least one [[listener]]"),
        ("[[listener]]\n[[listener]]", "gatecrew.toml: listener: listeners need names of their own, got main, main"),
        (
            "[[listener]]\nname = 'a'\n[[listener]]\nname = 'b'",
            "gatecrew.toml: listener: two listeners on 127.0.0.1:7000",
        ),
        (
            "[[listener]]\nhost = 'a..b'",
            "gatecrew.toml: listener[0].host: 'a..b', must be a host name or an address, such as 127.0.0.1",
        ),
        (
            "[[worker]]\ntarget = 'a:b'\nport = 65535\ncount = 5",
            "gatecrew.toml: worker[0].port: 65535, the ports of 5 workers end after 65535",
        ),
        (
            "[registry]\nlisten = 'zzz'",
            "gatecrew.toml: registry.listen: 'zzz', must be HOST:PORT, such as 127.0.0.1:8500",
        ),
        ("[gateway]\nlost_after_s = 1.5", "gatecrew.toml: gateway.lost_after_s: 1.5, must be from 2.0 to 600"),
        # The key that is wrong is a default, made wrong by one that was written.
        ("[gateway]\nsuspect_after_s = 5", "gatecrew.toml: gateway.lost_after_s: 2.5, must be from 5.0 to 600"),
        ("[registry]\ntoken = 5", "gatecrew.toml: registry.token: not shown, must be text"),
    ],
)
def test_what_a_file_can_not_mean(file: Path, text: str, line: str) -> None:
    file.write_text(text)
    assert findings(file) == [line]


def test_a_file_that_can_not_be_read(file: Path) -> None:
    assert findings(file) == ["gatecrew.toml: No such file or directory"]
    file.write_bytes(b"name = '\xff'")
    assert findings(file) == ["gatecrew.toml: not UTF-8 text, at byte 8"]


def test_findings_in_flags_and_environment_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert findings(None, {"listener": {0: {"port": 70000}}}) == [
        "command line: listener[0].port: 70000, must be from 0 to 65535"
    ]
    monkeypatch.setenv("GATECREW_GATEWAY__DRAIN_S", "long")
    assert findings() == ["environment: gateway.drain_s: 'long', must be a number"]
    monkeypatch.setenv("GATECREW_GATWAY__DRAIN_S", "5")
    assert findings() == [
        "environment: GATECREW_GATWAY__DRAIN_S: there is no section GATWAY;"
        " there are GATEWAY, LISTENER, ROUTE, WORKER, REGISTRY"
    ]


def test_variables_that_say_nothing_are_named() -> None:
    known = {"GATECREW_LOOP": "", "GATECREW_LISTENER": "", "GATECREW_SEED": "", "GATECREW_REQUIRE_CONSUL": ""}
    kubernetes = {"GATECREW_PORT_7000_TCP_ADDR": "", "GATECREW_SERVICE_HOST": "", "GATECREW_GATEWAY__DRAIN_S": ""}
    assert list(unknown({**known, **kubernetes, "HOME": ""}, SECTIONS)) == []
    misspelt = {"GATECREW_MAX_WAITING": "", "GATECREW_LOG_LEVL": "", "GATECREW_QQQ": ""}
    assert list(unknown(misspelt, SECTIONS)) == [
        "environment: GATECREW_LOG_LEVL: unknown; did you mean GATECREW_LOG_LEVEL?",
        "environment: GATECREW_MAX_WAITING: unknown; did you mean GATECREW_GATEWAY__MAX_WAITING?",
        "environment: GATECREW_QQQ: unknown; no setting and no option has this name",
    ]


def test_variables_of_options_are_known() -> None:
    commands = Path(gatecrew_cli.__file__).parent.rglob("*.py")
    texts = [file.read_text() for file in commands if file.name != "environment.py"]
    named = {name for text in texts for name in re.findall(r'"(GATECREW_[A-Z_]*[A-Z])"', text)}
    assert named - {"GATECREW_HEARTBEAT_FD"} == OPTIONS


def test_the_registry_of_the_environment_goes_before_that_of_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('[registry]\naddress = "from-file:8500"\ntoken = "secret"\n')
    registry = load(str(file)).settings.registry
    assert registry.environment() == {"CONSUL_HTTP_ADDR": "from-file:8500", "CONSUL_HTTP_TOKEN": "secret"}
    assert "secret" not in repr(registry)
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "from-environment:8500")
    assert load(str(file)).settings.registry.address == "from-environment:8500"


def test_gateways_beside_each_other_have_ports_of_their_own(file: Path) -> None:
    file.write_text(
        '[gateway]\nname = "g"\nservice_port = 7300\n[[listener]]\nport = 7000\n[[listener]]\nname = "b"\nport = 0\n'
    )
    first, second = load(str(file)).settings.gateways(2)
    assert (first.name, second.name) == ("g-1", "g-2")
    assert [each.port for each in second.listeners] == [7001, 0]
    assert second.service_port == 7301
