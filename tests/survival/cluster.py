"""A cluster of real processes, started by the command line as its users do, and the load that runs against it."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import grpc
from processes import PATIENCE_S, Process, gatecrew

from gatecrew.v1 import gateway_pb2, gateway_pb2_grpc
from gatecrew_cli.ready import parse
from survival.commands import NORMAL, ROUTES
from survival.history import Executed, Finished, History, Record, read
from survival.load import Load

TESTS = Path(__file__).parent.parent
LOOK_AGAIN_S = 0.02


def eventually(condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Look until it is so.

    Raises:
        AssertionError: it took too long.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(LOOK_AGAIN_S)


class Worker:
    """A place for a worker: whoever starts there has the same name and port as the one before. `target` is a package
    of the tests, which has the name of the service, and its worker: ``"survival.worker:worker"``.
    """

    def __init__(self, name: str, environment: dict[str, str | None], target: str) -> None:
        self.name = name
        self.target = target
        self.address = "127.0.0.1:0"
        self.ready_at = 0.0
        self._environment = {**environment, "SURVIVAL_WORKER": name}
        self.process = self.launch()

    def launch(self) -> Process:
        self.process = Process(gatecrew("worker", self.target, "--listen", self.address), self._environment, TESTS)
        return self.process

    def wait_ready(self) -> None:
        self.address = facts(self.process, "worker")["address"]
        self.ready_at = time.monotonic()

    def restart(self) -> None:
        """Start the next one; returns when it is ready."""
        self.launch()
        self.wait_ready()

    @property
    def is_alive(self) -> bool:
        return self.process.exit_code is None

    @property
    def id(self) -> str:
        """As the registry names it."""
        host, _, port = self.address.rpartition(":")
        return f"{self.target.partition('.')[0]}-{host}-{port}"

    def kill(self) -> float:
        """kill -9; returns when that was."""
        killed_at = time.monotonic()
        assert self.process.stop(signal.SIGKILL) == -signal.SIGKILL
        return killed_at


class Gateway:
    def __init__(self, process: Process) -> None:
        self.process = process
        self._facts = facts(process, "gateway")
        self._channel = grpc.insecure_channel(self._facts["service"])
        self.stub = gateway_pb2_grpc.GatewayStub(self._channel)

    @property
    def address(self) -> str:
        return self.listener("main")

    def listener(self, name: str) -> str:
        return self._facts[f"listener-{name}"]

    def status(self) -> gateway_pb2.StatusResponse:
        answer: gateway_pb2.StatusResponse = self.stub.Status(gateway_pb2.StatusRequest(), timeout=10)
        return answer

    def counter(self, name: str) -> int:
        return self.status().counters[name]

    def ready_links(self) -> set[str]:
        """The ids of the workers that may take packets."""
        return {link.worker_id for link in self.status().links if link.state == "ready"}

    def memory(self, what: str = "VmRSS") -> int:
        """Bytes; VmHWM is the most since the last `forget_peak`."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{what}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {what}")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def close(self) -> None:
        self._channel.close()
        self.process.close()


def facts(process: Process, what: str) -> dict[str, str]:
    """What a process says of itself when it is ready."""
    found = parse(process.wait_line(f"^gatecrew ready: {what} ").string)
    assert found is not None
    return found


class RunningLoad:
    def __init__(self, process: Process) -> None:
        self.process = process
        process.wait_line("^connected$")

    def wait_answers(self, count: int) -> None:
        """Until so many more requests have been answered."""
        so_far = self.process.lines.count("answered")
        self.process.wait_line("^answered$", count=so_far + max(1, count // 100))


class Cluster:
    """Embedded registry, gateways and workers, each its own process. `directory` gets the histories. `by_way_of` makes
    of the registry's address the one at which the others find it. `environment` is for gateways and workers, `settings`
    come first in the gateways' file.
    """

    def __init__(
        self,
        directory: Path,
        *,
        workers: int = 3,
        gateways: int = 1,
        by_way_of: Callable[[str], str] = lambda address: address,
        target: str = "survival.worker:worker",
        environment: Mapping[str, str] | None = None,
        settings: str = "",
    ) -> None:
        self.directory = directory
        self.chance: random.Random | None = None  # of the test that runs
        self._target = target
        self._settings = settings
        self.workers: list[Worker] = []
        self.gateways: list[Gateway] = []
        self._owned: list[Process] = []
        self._loads = 0
        try:
            self.registry = self._own(gatecrew("registry", "--listen", "127.0.0.1:0", "--log-level", "warning"))
            self.registry_address = facts(self.registry, "registry")["address"]
            self._environment: dict[str, str | None] = {
                "CONSUL_HTTP_ADDR": by_way_of(self.registry_address),
                "SURVIVAL_DIRECTORY": str(directory),
                **(environment or {}),
            }
            for number in range(workers):
                self.add_worker(f"w{number + 1}")
            starting = [self._launch_gateway() for _ in range(gateways)]
            for worker in self.workers:
                worker.wait_ready()
            self.gateways = [Gateway(process) for process in starting]
            self.wait_links()
        except BaseException:
            self.close()
            raise

    def _own(self, command: Sequence[str]) -> Process:
        process = Process(command, getattr(self, "_environment", None), TESTS)
        self._owned.append(process)
        return process

    @property
    def gateway(self) -> Gateway:
        return self.gateways[0]

    def _launch_gateway(self) -> Process:
        settings = self.directory / "gatecrew.toml"
        if not settings.exists():
            settings.write_text(
                self._settings + '[[listener]]\nname = "main"\nport = 0\n'
                '[[listener]]\nname = "hasty"\nport = 0\npacket_timeout_s = 0.5\n' + ROUTES
            )
        return self._own(gatecrew("gateway", "--config", str(settings)))

    def start_gateway(self, number: int) -> None:
        """Another one in the place of one that has ended."""
        self.gateways[number].close()
        self.gateways[number] = Gateway(self._launch_gateway())
        self.wait_links()

    def start_registry(self) -> None:
        """A new one where the one that has ended was; it knows nothing."""
        assert self.registry.exit_code is not None
        self.registry = self._own(gatecrew("registry", "--listen", self.registry_address, "--log-level", "warning"))
        facts(self.registry, "registry")

    def add_worker(self, name: str) -> Worker:
        worker = Worker(name, self._environment, self._target)
        self.workers.append(worker)
        return worker

    def wait_links(self) -> None:
        """Until every gateway has a link to every worker and to nobody else."""
        for gateway in self.gateways:
            eventually(
                lambda gateway=gateway: gateway.ready_links() == {worker.id for worker in self.workers},  # type: ignore[misc]
                f"links to {[worker.id for worker in self.workers]}",
            )

    def restore(self) -> None:
        """All workers run again, whatever a test has done to them."""
        dead = [worker for worker in self.workers if not worker.is_alive]
        for worker in dead:
            worker.launch()
        for worker in dead:
            worker.wait_ready()
        self.wait_links()

    @contextlib.contextmanager
    def load(
        self,
        *,
        commands: list[list[int]] = NORMAL,
        sessions: int = 50,
        rate: float = 2000.0,
        burst: int = 4,
        warm_up: int = 1000,
        only: Gateway | None = None,
        last_answers_s: float = 15.0,
    ) -> Iterator[tuple[RunningLoad, History]]:
        """Run a load, on one gateway or on all, for as long as the `with` lasts. That begins at a random time: after
        `warm_up` answers or up to twice as many. The history is filled in after it, when every request has been
        answered or is lost.
        """
        self._loads += 1
        file = self.directory / f"load-{self._loads}.jsonl"
        load = Load(
            name=f"load{self._loads}",
            gateways=[gateway.address for gateway in ([only] if only else self.gateways)],
            history=str(file),
            commands=commands,
            sessions=sessions,
            rate=rate,
            burst=burst,
            last_answers_s=last_answers_s,
        )
        process = Process([sys.executable, "-m", "survival.load", json.dumps(asdict(load))], {}, TESTS)
        history = History()
        try:
            running = RunningLoad(process)
            running.wait_answers(warm_up + self.chance.randrange(warm_up) if self.chance else warm_up)
            yield running, history
            code = process.stop(signal.SIGTERM, last_answers_s + PATIENCE_S)
            assert code == 0, process.output
        finally:
            process.close()
        history.take(History.of([*read(file), *self._executions_of(load.name)]))

    def _executions_of(self, load: str) -> Iterator[Record]:
        for file in self.directory.glob("worker-*.jsonl"):
            for record in read(file):
                if isinstance(record, Executed | Finished) and record.session.startswith(f"{load}-"):
                    yield record

    def processes(self) -> set[Process]:
        """All that run now."""
        return {self.registry, *(each.process for each in (*self.workers, *self.gateways))}

    def close(self) -> None:
        for worker in self.workers:
            worker.process.close()
        for gateway in self.gateways:
            gateway.close()
        for process in reversed(self._owned):
            process.close()
