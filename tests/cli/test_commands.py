"""Each command against a running cluster, and each kind of bad input: one line and exit code 2."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import ALONE, WORKER, Cluster, describe, run
from processes import Process, gatecrew

Start = Callable[..., Process]


def test_call_prints_the_reply(cluster: Cluster) -> None:
    assert run("call", "1", "héllo", "--gateway", cluster.gateway) == (0, "héllo", "")
    assert run("call", "1", "--gateway", cluster.gateway) == (0, "", "")
    assert run("call", "1", "00ff17", "--hex", "--gateway", cluster.gateway) == (0, "00ff17", "")


def test_call_reads_the_body_from_standard_input(cluster: Cluster) -> None:
    body = os.urandom(1000)
    ended = subprocess.run(gatecrew("call", "1", "-", "--gateway", cluster.gateway), input=body, capture_output=True)
    assert (ended.returncode, ended.stdout) == (0, body + b"\n")


def test_call_shows_pushes(cluster: Cluster) -> None:
    code, out, _ = run("call", "3", "second", "--listen-pushes", "0.5", "--gateway", cluster.gateway)
    assert (code, out.splitlines()) == (0, ["pushed", "push 30: first", "push 31: second"])


def test_call_notify_waits_for_nothing(cluster: Cluster) -> None:
    assert run("call", "4", "0", "--notify", "--gateway", cluster.gateway) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["2"], "gatecrew: NOT_FOUND: no such room"),
        (["77"], "gatecrew: UNIMPLEMENTED: "),
        (["4", "3", "--timeout", "1"], "gatecrew: gateway {gateway}: no reply within 1 s"),
    ],
)
def test_call_an_answer_that_is_no(cluster: Cluster, arguments: list[str], line: str) -> None:
    code, out, error = run("call", *arguments, "--gateway", cluster.gateway)
    assert (code, out) == (1, "")
    assert error.startswith(line.format(gateway=cluster.gateway))
    assert len(error.splitlines()) == 1


def test_call_finds_its_gateway_through_the_registry(cluster: Cluster) -> None:
    """Not on port 7000, where another cluster may be."""
    assert run("call", "1", "hello", env=cluster.environment) == (0, "hello", "")


def test_call_takes_a_gateway_from_its_variable(cluster: Cluster, port: int) -> None:
    """Then no registry is needed. The same variable in the environment of other commands is no section of settings."""
    nobody: dict[str, str | None] = {"CONSUL_HTTP_ADDR": f"127.0.0.1:{port}"}
    assert run("call", "1", "hello", env={**nobody, "GATECREW_GATEWAY": cluster.gateway}) == (0, "hello", "")
    assert run("config", "show", env={"GATECREW_GATEWAY": cluster.gateway})[::2] == (0, "")
    code, _, error = run("call", "1", env={"GATECREW_GATEWAY": "here"})
    assert (code, "'here' is not HOST:PORT" in error) == (2, True)


def test_call_without_registry_or_gateway_is_one_line(start: Start, port: int) -> None:
    code, out, error = run("call", "1", env={"CONSUL_HTTP_ADDR": f"127.0.0.1:{port}"})
    assert (code, out, len(error.splitlines())) == (2, "", 1)
    assert error.startswith(f"gatecrew: registry http://127.0.0.1:{port} does not answer (connection refused); ")
    assert error.endswith("; or name a gateway with --gateway")
    registry = start(gatecrew("registry", "--listen", f"127.0.0.1:{port}"), ALONE)
    registry.wait_line("^gatecrew ready")
    code, out, error = run("call", "1", env={"CONSUL_HTTP_ADDR": f"127.0.0.1:{port}"})
    assert (code, out) == (1, "")
    assert error == f"gatecrew: no gateway is registered at http://127.0.0.1:{port}; name one with --gateway"


def test_call_says_which_of_several_gateways_it_took(start: Start, project: Path) -> None:
    """The first that answers; one that listens on every address is found where the registry says it is."""
    listen = '[{"host": "0.0.0.0", "port": 0}]'
    up = start(gatecrew("up", "chat:worker", "--gateways", "2"), {**ALONE, "GATECREW_LISTENER": listen}, project)
    two = describe(up)
    code, out, error = run("call", "1", "hello", env=two.environment)
    assert (code, out) == (0, "hello")
    port = re.fullmatch(
        r"gatecrew: 2 gateways: this is gateway-\S+ on 127\.0\.0\.1:(\d+); --gateway names another", error
    )
    assert port
    assert up.wait_line(rf"^gateway-[12]: main on 0\.0\.0\.0:{port[1]},")


def test_call_writes_control_characters_out_on_a_terminal_only(cluster: Cluster) -> None:
    body = "\x1b[2J\x1b]0;yours\x07\u009b2Jhéllo\ttab\r\nline"
    assert run("call", "1", body, "--gateway", cluster.gateway)[1] == body.replace("\r\n", "\n")
    terminal, end = os.openpty()
    try:
        subprocess.run(gatecrew("call", "1", body, "--gateway", cluster.gateway), stdout=end, check=True)
        shown = os.read(terminal, 4096).decode()
    finally:
        os.close(terminal)
        os.close(end)
    assert shown.split() == ["\\x1b[2J\\x1b]0;yours\\x07\\x9b2Jhéllo", "tab\\r", "line"]


def test_status_writes_control_characters_of_the_registry_out(start: Start) -> None:
    registry = start(gatecrew("registry", "--listen", "127.0.0.1:0"), ALONE)
    address = registry.wait_line("^gatecrew ready: registry address=([^ ]+)")[1]
    gateway = start(gatecrew("gateway", "--listen", "127.0.0.1:0"), {**ALONE, "CONSUL_HTTP_ADDR": address})
    gateway.wait_line("^gatecrew ready: gateway")
    for tag in ("gatecrew-worker", "gatecrew-gateway"):
        entry = {"ID": f"{tag}\x1b[2J\u202e", "Name": "evil", "Tags": [tag], "Address": "\x1b]0;yours\x07", "Port": 1}
        request = urllib.request.Request(
            f"http://{address}/v1/agent/service/register", json.dumps(entry).encode(), method="PUT"
        )
        urllib.request.urlopen(request).close()
    code, out, error = run("status", env={"CONSUL_HTTP_ADDR": address})
    assert code == 1
    assert "not linked: worker gatecrew-worker\\x1b[2J\\u202e  \\x1b]0;yours\\x07:1" in out
    assert "gateway service \\x1b]0;yours\\x07:1" in error
    assert all(line.isprintable() for line in [*out.splitlines(), *error.splitlines()])


def test_status_says_why_there_is_no_link(start: Start) -> None:
    registry = start(gatecrew("registry", "--listen", "127.0.0.1:0"), ALONE)
    address = registry.wait_line("^gatecrew ready: registry address=([^ ]+)")[1]
    gateway = start(gatecrew("gateway", "--listen", "127.0.0.1:0"), {**ALONE, "CONSUL_HTTP_ADDR": address})
    port = gateway.wait_line(r"^gatecrew ready: gateway .*service=127\.0\.0\.1:(\d+)")[1]
    entry = {"ID": "wrong", "Name": "echo", "Tags": ["gatecrew-worker"], "Address": "127.0.0.1", "Port": int(port)}
    request = urllib.request.Request(
        f"http://{address}/v1/agent/service/register", json.dumps(entry).encode(), method="PUT"
    )
    urllib.request.urlopen(request).close()
    gateway.wait_line("worker wrong at .* refused: it is no worker")
    _, out, _ = run("status", env={"CONSUL_HTTP_ADDR": address})
    assert re.search(r"^  worker wrong  .*  connecting  .*  \(it is no worker, .*\)$", out, re.MULTILINE)
    _, out, _ = run("status", "--json", env={"CONSUL_HTTP_ADDR": address})
    [link] = json.loads(out)["gateways"][0]["links"]
    assert link["status_text"].startswith("it is no worker")


def test_call_nobody_there(port: int) -> None:
    code, _, error = run("call", "1", "--gateway", f"127.0.0.1:{port}")
    assert code == 1
    assert error == f"gatecrew: gateway 127.0.0.1:{port}: Connection refused; is it running? say where with --gateway"


def test_status_shows_gateways_listeners_links(cluster: Cluster) -> None:
    code, out, error = run("status", env=cluster.environment)
    assert (code, error) == (0, "")
    assert re.search(rf"^gateway gateway-\w+  service {cluster.service}  up for \d+ s  pid \d+$", out, re.MULTILINE)
    assert re.search(rf"^  listener main  {cluster.gateway}  \d+ sessions$", out, re.MULTILINE)
    assert (
        len(re.findall(r"^  worker chat-\S+  \S+  ready  \d+ in flight  \d+ sent  \d+ answered$", out, re.MULTILINE))
        == 2
    )


def test_status_as_json(cluster: Cluster) -> None:
    code, out, _ = run("status", "--json", env=cluster.environment)
    picture = json.loads(out)
    [gateway] = picture["gateways"]
    assert code == 0
    assert gateway["service_address"] == cluster.service
    assert gateway["process_id"] == cluster.pid("gateway")
    assert [(each["name"], each["address"]) for each in gateway["listeners"]] == [("main", cluster.gateway)]
    assert [(each["service"], each["state"]) for each in gateway["links"]] == [("chat", "ready")] * 2
    assert (picture["silent_gateways"], picture["workers_not_linked"]) == ([], [])


def test_status_of_one_gateway_needs_no_registry(cluster: Cluster, port: int) -> None:
    code, out, _ = run("status", "--gateway-service", cluster.service, env={"CONSUL_HTTP_ADDR": f"127.0.0.1:{port}"})
    assert code == 0
    assert f"service {cluster.service}" in out
    code, _, error = run("status", "--gateway-service", f"127.0.0.1:{port}")
    assert code == 1
    assert error.startswith(f"gatecrew: gateway service 127.0.0.1:{port}: UNAVAILABLE: ")
    assert len(error.splitlines()) == 1


def test_status_tells_of_workers_that_nobody_is_linked_to(start: Start, project: Path) -> None:
    registry = start(gatecrew("registry", "--listen", "127.0.0.1:0"), ALONE)
    environment = {"CONSUL_HTTP_ADDR": registry.wait_line("^gatecrew ready: registry address=([^ ]+)")[1]}
    code, _, error = run("status", env=environment)
    assert (code, error) == (
        1,
        f"gatecrew: no gateway is registered at http://{environment['CONSUL_HTTP_ADDR']};"
        " is CONSUL_HTTP_ADDR the right one?",
    )
    gateway = start(gatecrew("gateway", "--listen", "127.0.0.1:0"), {**ALONE, **environment})
    gateway.wait_line("^gatecrew ready: gateway")
    worker = start(gatecrew("worker", "chat:worker"), {**ALONE, **environment}, project)
    address = worker.wait_line("^gatecrew ready: worker service=chat address=([^ ]+)")[1]
    deadline = time.monotonic() + 60
    while f"  worker chat-127.0.0.1-{address.rpartition(':')[2]}  {address}  ready" not in (
        out := run("status", env=environment)[1]
    ):
        assert time.monotonic() < deadline, out
    maintain = f"http://{environment['CONSUL_HTTP_ADDR']}/v1/agent/service/maintenance/chat-127.0.0.1-{address[10:]}"
    for enable, state in (("true", "draining  .*  \\(in maintenance\\)"), ("false", "ready  .* answered")):
        request = urllib.request.Request(f"{maintain}?enable={enable}", method="PUT")
        urllib.request.urlopen(request).close()
        deadline = time.monotonic() + 60
        while not re.search(
            rf"^  worker \S+  {address}  {state}$", out := run("status", env=environment)[1], re.MULTILINE
        ):
            assert time.monotonic() < deadline, out
    worker.send(signal.SIGSTOP)
    deadline = time.monotonic() + 60
    while f"not linked: worker chat-127.0.0.1-{address.rpartition(':')[2]}  {address}" not in (
        out := run("status", env=environment)[1]
    ):
        assert time.monotonic() < deadline, out
    worker.send(signal.SIGCONT)
    assert [worker.stop(), gateway.stop(), registry.stop()] == [0, 0, 0]


def test_a_gateway_and_a_worker_start_without_their_registry(start: Start, project: Path, port: int) -> None:
    environment = {**ALONE, "CONSUL_HTTP_ADDR": f"127.0.0.1:{port}"}
    gateway = start(gatecrew("gateway", "--listen", "127.0.0.1:0"), environment)
    worker = start(gatecrew("worker", "chat:worker"), environment, project)
    listener = gateway.wait_line("^gatecrew ready: gateway listener-main=([^ ]+)")[1]
    worker.wait_line("^gatecrew ready: worker")
    registry = start(gatecrew("registry", "--listen", f"127.0.0.1:{port}"), ALONE)
    deadline = time.monotonic() + 30
    while run("call", "1", "x", "--gateway", listener)[:2] != (0, "x"):
        assert time.monotonic() < deadline
    assert [gateway.stop(), worker.stop(), registry.stop()] == [0, 0, 0]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "auto"])
def test_a_worker_alone(start: Start, project: Path, port: int, loop: str) -> None:
    worker = start(
        gatecrew("worker", "chat:worker", "--no-register", "--loop", loop),
        {**ALONE, "CONSUL_HTTP_ADDR": f"127.0.0.1:{port}"},
        project,
    )
    address = worker.wait_line("^gatecrew ready: worker service=chat address=([^ ]+)")[1]
    assert run("health", address) == (0, "SERVING", "")
    assert worker.stop() == 0
    code, _, error = run("health", address)
    assert code == 1
    assert error.startswith(f"gatecrew: {address}: UNAVAILABLE: ")


def test_a_worker_on_every_address_advertises_the_way_to_the_registry(
    start: Start, project: Path, cluster: Cluster
) -> None:
    worker = start(
        gatecrew("worker", "chat:worker", "--listen", "0.0.0.0:0"), {**ALONE, **cluster.environment}, project
    )
    worker.wait_line(r"^gatecrew ready: worker service=chat address=127\.0\.0\.1:\d+")
    assert worker.stop() == 0


def test_health_of_a_gateway(cluster: Cluster) -> None:
    assert run("health", cluster.service) == (0, "SERVING", "")


def test_bench_prints_rates_and_latencies(cluster: Cluster) -> None:
    arguments = ("bench", cluster.gateway, "--clients", "5", "--open", "2", "--seconds", "0.5")
    code, out, error = run(*arguments)
    assert (code, error) == (0, "")
    assert re.search(r"^\d+ requests/s$", out, re.MULTILINE)
    code, out, _ = run(*arguments, "--json")
    figures = json.loads(out)
    assert code == 0
    assert figures["requests"] > 0
    assert 0 < figures["p50_ms"] <= figures["p99_ms"] <= figures["max_ms"]


def test_bench_with_errors_says_which(cluster: Cluster) -> None:
    code, _, error = run("bench", cluster.gateway, "--clients", "1", "--seconds", "2", "--command", "2")
    assert code == 1
    assert re.fullmatch(r"gatecrew: bench: \d+ × NOT_FOUND", error)


def test_config_check_and_show(tmp_path: Path) -> None:
    file = tmp_path / "gatecrew.toml"
    file.write_text(
        '[gateway]\nmax_waiting = 7\n[registry]\ntoken = "secret"\n[[worker]]\ntarget = "chat:worker"\ncount = 3\n'
    )
    (tmp_path / "chat.py").write_text(WORKER)
    good = (0, f"{file}: good: 1 listener, 0 routes, 3 workers", "")
    assert run("config", "check", str(file), cwd=tmp_path) == good
    assert run("config", "check", "--import", str(file), cwd=tmp_path) == good
    code, out, _ = run("config", "show", str(file), env={"GATECREW_GATEWAY__MAX_ATTEMPTS": "2"})
    assert code == 0
    assert f"max_waiting = 7  # {file}" in out.splitlines()
    assert "max_attempts = 2  # environment" in out.splitlines()
    assert "heartbeat_s = 1.0  # default" in out.splitlines()
    assert "secret" not in out
    code, out, _ = run("config", "show", str(file), "--json")
    assert json.loads(out)["gateway"]["max_waiting"] == 7
    assert json.loads(out)["worker"] == [{"target": "chat:worker", "count": 3, "host": "127.0.0.1", "port": 0}]
    assert "secret" not in out


def test_what_config_show_prints_is_a_good_file(tmp_path: Path) -> None:
    (tmp_path / "gatecrew.toml").write_text(run("config", "show")[1])
    assert run("config", "check", "gatecrew.toml", cwd=tmp_path)[0] == 0


def test_config_check_without_a_file_checks_what_runs_without_one(tmp_path: Path) -> None:
    """As `config show` and `up` do; that a file lies there is said."""
    assert run("config", "check", cwd=tmp_path) == (
        0,
        "environment and defaults: good: 1 listener, 0 routes, 0 workers",
        "",
    )
    (tmp_path / "gatecrew.toml").write_text("nonsense")
    for command in ("check", "show"):
        code, _, error = run("config", command, cwd=tmp_path)
        assert (code, error) == (0, "gatecrew: gatecrew.toml is here and was not read: it is read where it is named")
    code, _, error = run("config", "check", cwd=tmp_path, env={"GATECREW_GATEWAY__MAX_ATTEMPTS": "0"})
    assert (code, error.splitlines()[-1]) == (2, "gatecrew: environment: gateway.max_attempts: 0, must be from 1 to 10")


def test_config_check_looks_for_targets_and_for_routes_that_are_never_reached(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    routes = ("1-20", "5,7", "*", "30", "*")
    targets = (
        "nofile:worker",
        "package.none:worker",
        "chat.deeper:worker",
        "chat:worker",
        "broken:worker",
        "chat:other",
    )
    file.write_text(
        "".join(f'[[route]]\ncommands = "{each}"\n' for each in routes)
        + "".join(f'[[worker]]\ntarget = "{each}"\n' for each in targets)
    )
    (tmp_path / "chat.py").write_text(WORKER)
    (tmp_path / "broken.py").write_text("open('has run', 'w')\n1 / 0\n")
    (tmp_path / "package").mkdir()
    looked_for = [
        f"gatecrew: {file}: {line}"
        for line in (
            "route[1].commands: '5,7', never reached: earlier routes take all of it",
            """route[3].commands: '30', never reached: route[2] takes "*"; put it last""",
            """route[4].commands: '*', never reached: route[2] takes "*"; put it last""",
            f"worker[0].target: nofile:worker: no module 'nofile' in {tmp_path}, and none installed",
            f"worker[1].target: package.none:worker: no module 'package.none' in {tmp_path}, and none installed",
            "worker[2].target: chat.deeper:worker: 'chat' is no package; an object of it is written chat:worker",
        )
    ]
    code, out, error = run("config", "check", str(file), cwd=tmp_path)
    assert (code, out, error.splitlines()) == (2, "", looked_for)
    assert not (tmp_path / "has run").exists()
    code, _, error = run("config", "check", str(file), "--import", cwd=tmp_path)
    imported = [line.partition("target: ")[2] for line in error.splitlines()[3:]]
    assert code == 2
    assert imported[3:] == [
        "broken:worker: does not import: broken.py:2: ZeroDivisionError: division by zero",
        "chat:other: module 'chat' has no 'other'; its Worker objects are: worker",
    ]
    assert (tmp_path / "has run").exists()


BAD = {
    "upp": "no command 'upp': did you mean up?",
    "--verison": "No such option '--verison'. Did you mean '--version'? (see gatecrew --help)",
    "up chat:worker --worker 3": "No such option '--worker'. Did you mean '--workers'? (see gatecrew up --help)",
    "up": "up: no workers; name a Worker object, such as chat:worker for `worker` in chat.py",
    "up chat": "command line: worker[0].target: 'chat', must be module:object, such as chat:worker",
    "up --workers 3": "--workers: needs to know of what; name a MODULE:OBJECT, or write `count` into the file",
    "up chat:worker --workers 0": "Invalid value for '--workers': 0 is not in the range 1<=x<=256 (see ",
    "up chat:worker --listen 7000": (
        "Invalid value for '--listen': '7000' is not HOST:PORT, such as 127.0.0.1:7000 (see gatecrew up --help)"
    ),
    "up chat:worker --config nowhere.toml": "nowhere.toml: No such file or directory",
    "up chat:worker --listen 192.0.2.1:0": (
        "listener main: 192.0.2.1:0: Cannot assign requested address; choose another with --listen"
    ),
    "gateway --config nowhere.toml": "nowhere.toml: No such file or directory",
    "gateway --listen nowhere.invalid:7000": "listener main: nowhere.invalid:7000: ",
    "gateway --loop fast": "Invalid value for '--loop' (env var: 'GATECREW_LOOP'): 'fast' is not one of ",
    "worker": "Missing argument 'MODULE:OBJECT' (see gatecrew worker --help)",
    "worker chat": "'chat' is not module:object, such as chat:worker for `worker` in chat.py",
    "worker nowhere:worker": "nowhere:worker: no module 'nowhere' in ",
    "worker nowhere.deeper:worker": "nowhere.deeper:worker: no module 'nowhere' in ",
    "worker chat.py:worker": "chat.py:worker: give the module, not its file: did you mean chat:worker?",
    "worker ./a/chat.py:worker": "./a/chat.py:worker: give the module, not its file: did you mean a.chat:worker?",
    "worker json:worker": "json:worker: module 'json' has no 'worker'",
    "worker chat:echo": "chat:echo is a function; the Worker objects of chat are: worker",
    "worker chat:worker --listen 192.0.2.1:1": "cannot listen on 192.0.2.1:1: ",
    "registry --listen 192.0.2.1:1": "registry: 192.0.2.1:1: Cannot assign requested address; choose ",
    "call": "Missing argument 'COMMAND' (see gatecrew call --help)",
    "call 70000": "Invalid value for 'COMMAND': 70000 is not in the range 0<=x<=65535 (see gatecrew call --help)",
    "call 1 xyz --hex": "call: 'xyz' is not hex, such as 00ff17",
    "status --gateway-service here": "Invalid value for '--gateway-service': 'here' is not HOST:PORT, ",
    "config check nowhere.toml": "nowhere.toml: No such file or directory",
    "config chekc": "No such command 'chekc'. Did you mean 'check'? (see gatecrew config --help)",
}


@pytest.mark.parametrize("arguments", BAD)
def test_bad_input_is_one_line(project: Path, arguments: str) -> None:
    code, out, error = run(*arguments.split(), cwd=project)
    assert (code, out, len(error.splitlines())) == (2, "", 1), error
    assert error.startswith(f"gatecrew: {BAD[arguments]}")


def test_a_variable_that_says_nothing_is_a_finding_or_a_warning(tmp_path: Path) -> None:
    misspelt = {"GATECREW_MAX_WAITING": "5"}
    line = "environment: GATECREW_MAX_WAITING: unknown; did you mean GATECREW_GATEWAY__MAX_WAITING?"
    assert run("config", "check", cwd=tmp_path, env=misspelt) == (2, "", f"gatecrew: {line}")
    code, _, error = run("config", "show", cwd=tmp_path, env=misspelt)
    assert (code, error.count(line)) == (0, 1)


@pytest.mark.parametrize("arguments", ["worker m:worker", "up m:worker --listen 127.0.0.1:0"])
def test_run_in_a_module_that_is_imported(tmp_path: Path, arguments: str) -> None:
    (tmp_path / "m.py").write_text('from gatecrew_worker import Worker\n\nworker = Worker("m")\nworker.run()\n')
    code, _, error = run(*arguments.split(), cwd=tmp_path)
    assert code == 2
    guard = 'put it under `if __name__ == "__main__":`'
    assert f"gatecrew: m:worker: m.py:4 calls worker.run() while it is imported; {guard}" in error


@pytest.mark.parametrize(
    ("variable", "value"), [("CONSUL_HTTP_ADDR", "ftp://x"), ("CONSUL_CACERT", "/nowhere"), ("GATECREW_LOOP", "fast")]
)
@pytest.mark.parametrize(
    "arguments", ["gateway --listen 127.0.0.1:0", "worker chat:worker", "up chat:worker --listen 127.0.0.1:0"]
)
def test_bad_environment_is_one_line(project: Path, arguments: str, variable: str, value: str) -> None:
    code, _, error = run(*arguments.split(), cwd=project, env={variable: value})
    [line] = error.splitlines()
    assert code == 2
    assert value in line


@pytest.mark.parametrize(
    "arguments",
    ["registry --listen {}", "worker chat:worker --listen {}", "gateway --listen {}", "up chat:worker --listen {}"],
)
def test_a_port_in_use_is_one_line(project: Path, arguments: str, cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        code, _, error = run(*arguments.format(where).split(), cwd=project, env=cluster.environment)
    line = error.splitlines()[-1]
    assert code == 2
    assert line.startswith("gatecrew: ")
    assert where in line
    assert "in use" in line
    assert "Traceback" not in error


def test_a_status_without_registry_is_one_line(port: int) -> None:
    code, _, error = run("status", env={"CONSUL_HTTP_ADDR": f"127.0.0.1:{port}"})
    assert code == 2
    assert error.startswith(f"gatecrew: registry http://127.0.0.1:{port} does not answer (connection refused)")
    assert len(error.splitlines()) == 1


def test_help_is_light() -> None:
    """The overview loads none of the libraries that only some commands need."""
    probe = (
        "import sys, gatecrew_cli.main as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'grpc', 'aiohttp', 'pydantic', 'consul'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"
    assert "worker" in ended.stdout


@pytest.mark.parametrize("name", ["up", "gateway", "worker", "registry", "call", "status", "health", "bench", "config"])
def test_every_command_has_help(name: str) -> None:
    code, out, error = run(name, "--help")
    assert (code, error) == (0, "")
    assert out.startswith(f"Usage: gatecrew {name}")


def test_a_reader_that_leaves_is_no_traceback() -> None:
    shell = f"{' '.join(gatecrew('config', 'show'))} | true"
    ended = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert ended.stderr == ""
