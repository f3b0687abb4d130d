"""Faults at random times that overlap. Which and when is drawn before anything runs, so that a seed repeats it."""

from __future__ import annotations

import heapq
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from survival.cluster import Cluster, Worker, eventually

BETWEEN_S = 1.2  # from one fault to the next, on average
WELL = 2  # so many workers are left alone, so that nothing has to be refused
What = Literal["kill", "freeze", "leave", "kill registry", "freeze registry", "freeze gateway"]
# How often it is drawn, and the most seconds until it is undone: started again, or woken.
KINDS: dict[What, tuple[int, float]] = {
    "kill": (4, 2.0),
    "freeze": (2, 5.0),
    "leave": (2, 2.0),
    "kill registry": (1, 4.0),
    "freeze registry": (1, 4.0),
    "freeze gateway": (1, 1.0),
}
LAST_UNDONE_S = 60.0


@dataclass(frozen=True)
class Fault:
    at_s: float  # from the beginning; later, if too few workers are well by then
    what: What
    worker: int
    lasts_s: float

    def __str__(self) -> str:
        whom = f" w{self.worker + 1}" if self.what in ("kill", "freeze", "leave") else ""
        return f"{self.at_s:.2f} {self.what}{whom} for {self.lasts_s:.2f}"


def draw(chance: random.Random, seconds: float, workers: int) -> list[Fault]:
    """Faults of so many seconds, in order of time."""
    kinds, weights = list(KINDS), [often for often, _ in KINDS.values()]
    found: list[Fault] = []
    at_s = chance.expovariate(1 / BETWEEN_S)
    while at_s < seconds:
        [what] = chance.choices(kinds, weights)
        found.append(Fault(at_s, what, chance.randrange(workers), chance.uniform(0.05, KINDS[what][1])))
        at_s += chance.expovariate(1 / BETWEEN_S)
    return found


class Nemesis:
    """Does faults to a cluster's workers, its registry and its first gateway."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._down: set[Worker] = set()  # by us
        self._registry_down = False
        self._undo: list[tuple[float, int, Callable[[], None]]] = []

    def run(self, faults: Sequence[Fault]) -> None:
        """Returns when all faults are done and undone, and every worker is linked."""
        began_at = time.monotonic()
        for number, fault in enumerate(faults):
            self._undo_until(began_at + fault.at_s)
            undo = self._commit(fault)
            if undo is not None:
                heapq.heappush(self._undo, (time.monotonic() + fault.lasts_s, number, undo))
        while self._undo:
            self._undo_until(self._undo[0][0])
        eventually(lambda: self._cluster.gateway.ready_links() >= self._ids(), "all are linked", LAST_UNDONE_S)

    def _ids(self) -> set[str]:
        return {worker.id for worker in self._cluster.workers}

    def _undo_until(self, at: float) -> None:
        while self._undo and self._undo[0][0] <= at:
            due, _, undo = heapq.heappop(self._undo)
            time.sleep(max(0.0, due - time.monotonic()))
            undo()
        time.sleep(max(0.0, at - time.monotonic()))

    def _commit(self, fault: Fault) -> Callable[[], None] | None:
        """Returns how it is undone, if it has not been already."""
        cluster = self._cluster
        if fault.what == "freeze gateway":
            cluster.gateway.process.send(signal.SIGSTOP)
            time.sleep(fault.lasts_s)
            cluster.gateway.process.send(signal.SIGCONT)
            return None
        if fault.what in ("kill registry", "freeze registry"):
            if self._registry_down:
                return None
            self._registry_down = True
            if fault.what == "freeze registry":
                cluster.registry.send(signal.SIGSTOP)
                return self._wake_registry
            cluster.registry.stop(signal.SIGKILL)
            return self._start_registry
        worker = self._victim(fault)
        self._down.add(worker)
        if fault.what == "freeze":
            worker.process.send(signal.SIGSTOP)
            return lambda: self._wake(worker)
        worker.process.send(signal.SIGKILL if fault.what == "kill" else signal.SIGTERM)
        return lambda: self._start(worker)

    def _victim(self, fault: Fault) -> Worker:
        """The one that was drawn, or the next one that is well, as soon as enough others are."""
        workers = self._cluster.workers
        drawn = workers[fault.worker :] + workers[: fault.worker]
        victims: list[Worker] = []

        def enough() -> bool:
            self._undo_until(time.monotonic())
            ready = self._cluster.gateway.ready_links()
            victims[:] = [worker for worker in drawn if worker not in self._down and worker.id in ready]
            return len(victims) > WELL

        eventually(enough, f"{WELL} workers beside the next victim are well", LAST_UNDONE_S)
        return victims[0]

    def _wake(self, worker: Worker) -> None:
        worker.process.send(signal.SIGCONT)
        self._down.discard(worker)

    def _start(self, worker: Worker) -> None:
        assert worker.process.wait() in (0, -signal.SIGKILL), worker.process.output
        worker.launch()
        self._down.discard(worker)

    def _wake_registry(self) -> None:
        self._cluster.registry.send(signal.SIGCONT)
        self._registry_down = False

    def _start_registry(self) -> None:
        self._cluster.start_registry()
        self._registry_down = False
