"""A cluster on many hosts: Consul, gateways, workers and clients, each on its own, started as their users do."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from processes import Process, gatecrew
from survival.cluster import TESTS, Gateway, RunningLoad, eventually, facts
from survival.commands import ROUTES
from survival.history import Executed, Finished, History, Record, read
from survival.load import Load

from hosts.commands import EVERY_KIND
from hosts.network import Host, Network

WORKER = "hosts.worker:worker"
SESSIONS = 120  # of a load
READY_WITHIN_S = 60.0  # a dozen processes start at once


class Worker:
    """Listens on its host's address, or on every one; `supervised`: by `gatecrew run`, which registers it."""

    def __init__(
        self, host: Host, environment: dict[str, str | None], *, everywhere: bool = False, supervised: bool = False
    ) -> None:
        self.host = host
        self._supervised = supervised
        listen = ("--listen", "0.0.0.0:0" if everywhere else f"{host.address}:0")
        command = gatecrew("worker", WORKER, *listen)
        if supervised:
            program = gatecrew("worker", WORKER, "--no-register")
            command = gatecrew("run", "--service", "survival", *listen, "--", *program)
        self.process = Process(host.command(command), {**environment, "SURVIVAL_WORKER": host.name}, TESTS)
        self.address = ""

    def wait_ready(self) -> None:
        if self._supervised:
            self.address = self.process.wait_line(r"serves on (\S+), pid", timeout_s=READY_WITHIN_S)[1]
        else:
            self.process.wait_line("^gatecrew ready: ", timeout_s=READY_WITHIN_S)
            self.address = facts(self.process, "worker")["address"]

    @property
    def id(self) -> str:
        """As the registry names it."""
        host, _, port = self.address.rpartition(":")
        return f"survival-{host}-{port}"


class HostGateway(Gateway):
    def __init__(self, host: Host, process: Process) -> None:
        process.wait_line("^gatecrew ready: ", timeout_s=READY_WITHIN_S)
        super().__init__(process)
        self.host = host


class HostCluster:
    """Two gateways and three workers, and Consul. `directory` gets the histories."""

    def __init__(self, directory: Path, consul: Path) -> None:
        self.workers: list[Worker] = []
        self.gateways: list[HostGateway] = []
        self._directory = directory
        self._processes: list[Process] = []
        self._loads = 0
        self.network = Network()
        try:
            self.consul = self.network.add("consul")
            self.clients = self.network.add("clients")
            self._start_consul(consul)
            self.environment: dict[str, str | None] = {
                "CONSUL_HTTP_ADDR": f"{self.consul.address}:8500",
                "SURVIVAL_DIRECTORY": str(directory),
                # As many hosts have one, for web pages. Nobody is there, so whoever asks it gets nowhere.
                "http_proxy": "http://127.0.0.1:9",
                "https_proxy": "http://127.0.0.1:9",
            }
            self.add_worker("w1")
            self.add_worker("w2", everywhere=True)
            self.add_worker("w3", supervised=True)
            hosts = [self.network.add(name) for name in ("g1", "g2")]
            starting = [self._launch_gateway(host, everywhere=host is hosts[1]) for host in hosts]
            for worker in self.workers:
                worker.wait_ready()
            for host, process in zip(hosts, starting, strict=True):
                self.gateways.append(HostGateway(host, process))
            self.wait_links()
        except BaseException:
            self.close()
            raise

    def _start(self, host: Host, command: list[str]) -> Process:
        process = Process(host.command(command), getattr(self, "environment", None), TESTS)
        self._processes.append(process)
        return process

    def _start_consul(self, binary: Path) -> None:
        """It has its host for itself, and so its usual ports."""
        address = self.consul.address
        command = [str(binary), "agent", "-dev", f"-bind={address}", f"-client={address}", "-log-level=warn"]
        self._start(self.consul, command)
        eventually(lambda: self._has_consul(), "Consul is ready")

    def _has_consul(self) -> bool:
        try:
            return bool(self.ask_consul("/v1/health/service/consul"))
        except OSError:
            return False

    def ask_consul(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self.consul.address}:8500{path}", timeout=5) as answer:
            return json.load(answer)

    def checks(self, worker: Worker) -> set[str]:
        """The states of the worker's checks, as Consul sees them."""
        return {
            check["Status"]
            for row in self.ask_consul("/v1/health/service/survival")
            if row["Service"]["ID"] == worker.id
            for check in row["Checks"]
            if check["ServiceID"] == worker.id
        }

    def _launch_gateway(self, host: Host, everywhere: bool) -> Process:
        settings = self._directory / f"{host.name}.toml"
        service_host = "0.0.0.0" if everywhere else host.address
        settings.write_text(
            f'[gateway]\nname = "{host.name}"\nservice_host = "{service_host}"\n'
            f'[[listener]]\nname = "main"\nhost = "{host.address}"\nport = 7000\n{ROUTES}'
        )
        return self._start(host, gatecrew("gateway", "--config", str(settings)))

    def add_worker(self, name: str, *, everywhere: bool = False, supervised: bool = False) -> Worker:
        """On a new host."""
        worker = Worker(self.network.add(name), self.environment, everywhere=everywhere, supervised=supervised)
        self.workers.append(worker)
        self._processes.append(worker.process)
        return worker

    def remove_worker(self, worker: Worker) -> None:
        """It drains and leaves, as when one scales down."""
        self.workers.remove(worker)
        assert worker.process.stop(signal.SIGTERM) == 0, worker.process.output

    def wait_links(self) -> None:
        """Until every gateway has a link to every worker and to nobody else."""
        for gateway in self.gateways:
            eventually(
                lambda gateway=gateway: gateway.ready_links() == {worker.id for worker in self.workers},  # type: ignore[misc]
                f"{gateway.host} has links to {[worker.id for worker in self.workers]}",
            )

    def on_clients(self, command: list[str]) -> Process:
        """Run it where the clients are."""
        return self._start(self.clients, command)

    @contextlib.contextmanager
    def load(self, gateway: HostGateway) -> Iterator[tuple[RunningLoad, History]]:
        """Packets of every kind from clients of this gateway, for as long as the `with` lasts. The history is filled in
        after it, when every request has been answered or is lost.
        """
        self._loads += 1
        file = self._directory / f"load-{self._loads}.jsonl"
        load = Load(
            name=f"load{self._loads}",
            gateways=[gateway.address],
            history=str(file),
            commands=EVERY_KIND,
            sessions=SESSIONS,
            rate=480.0,
            burst=2,  # a short and a long one, every half a second: most sessions have packets open at any time
        )
        command = [sys.executable, "-m", "survival.load", json.dumps(asdict(load))]
        process = Process(self.clients.command(command), {}, TESTS)
        history = History()
        try:
            running = RunningLoad(process)
            running.wait_answers(200)
            yield running, history
            code = process.stop(signal.SIGTERM)
            assert code == 0, process.output
        finally:
            process.close()
        history.take(History.of([*read(file), *self._executions_of(load.name)]))

    @contextlib.contextmanager
    def loads(self) -> Iterator[tuple[list[RunningLoad], list[History]]]:
        """One on each gateway."""
        with contextlib.ExitStack() as stack:
            entered = [stack.enter_context(self.load(gateway)) for gateway in self.gateways]
            yield [load for load, _ in entered], [history for _, history in entered]

    def _executions_of(self, load: str) -> Iterator[Record]:
        for file in self._directory.glob("worker-*.jsonl"):
            for record in read(file):
                if isinstance(record, Executed | Finished) and record.session.startswith(f"{load}-"):
                    yield record

    def complaints(self) -> list[str]:
        """What no fault of the network is an excuse for, and who of the cluster said it."""
        return [
            f"{process.command}: {line}"
            for process in self._processes
            for line in process.lines
            if "Traceback" in line or "never retrieved" in line
        ]

    def close(self) -> None:
        try:
            for gateway in self.gateways:
                gateway.close()
            for process in reversed(self._processes):
                process.close()
        finally:
            self.network.close()
