"""The Gateway service's part by which gateways tell each other of packets with which workers were lost."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from gatecrew.v1 import gateway_pb2

from ..dispatcher import Dispatcher
from ..routing.suspicion import Finding, Lost, Suspicion
from .peers import Peers

log = logging.getLogger("gatecrew.gateway")

MOST_TOLD = 5000  # packets in one call: 100 kB
MOST_UNTOLD = 20_000  # packets; the oldest suspicions go
GATHER_S = 0.1  # a call that takes longer delays the next no longer: the others wait for it
HELD_S = 1.0  # a client's outcome waits no longer for the others to be told
_FINDINGS = frozenset(map(int, Finding))


class Suspicions:
    """Tells the others in one call what has gathered during the last one; who gives no answer is not told again.
    Takes the dispatcher's `quarantine.tell` and `after_told`.
    """

    def __init__(self, dispatcher: Dispatcher, peers: Peers) -> None:
        self._dispatcher = dispatcher
        self._peers = peers
        self._untold: deque[Suspicion] = deque()
        self._size = 0  # packets of those
        self._held: list[Callable[[], None]] = []  # until all of those are told
        self._wanted = asyncio.Event()
        self._calls: set[asyncio.Task[None]] = set()  # each has a deadline, so there are few
        dispatcher.quarantine.tell = self._tell
        dispatcher.after_told = self._after_told

    def _tell(self, suspicion: Suspicion) -> None:
        if not self._peers.known:
            return
        self._untold.append(suspicion)
        self._size += len(suspicion.packets)
        while self._size > MOST_UNTOLD:
            self._size -= len(self._untold.popleft().packets)
        self._wanted.set()

    def _after_told(self, act: Callable[[], None]) -> None:
        if self._untold:
            self._held.append(act)
        else:
            act()

    async def run(self) -> None:
        """Tell the others, until cancelled."""
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                while self._untold:
                    call = asyncio.create_task(self._call(), name="tell suspicions")
                    self._calls.add(call)
                    call.add_done_callback(self._calls.discard)
                    await asyncio.wait({call}, timeout=GATHER_S)
        finally:
            calls = tuple(self._calls)
            for call in calls:
                call.cancel()
            if calls:
                await asyncio.wait(calls)

    async def _call(self) -> None:
        request = gateway_pb2.SuspicionsRequest()
        count = 0
        while self._untold and count < MOST_TOLD:
            suspicion = self._untold.popleft()
            count += len(suspicion.packets)
            _add(request, suspicion)
        self._size -= count
        held, self._held = self._held, []
        timer = asyncio.get_running_loop().call_later(HELD_S, self._release, held)
        try:
            await self._peers.ask("Suspicions", request)
        finally:
            timer.cancel()
            self._release(held)

    def _release(self, held: list[Callable[[], None]]) -> None:
        acts = tuple(held)
        held.clear()
        for act in acts:
            self._do(act)

    @staticmethod
    def _do(act: Callable[[], None]) -> None:
        try:
            act()
        except Exception:
            log.exception("after telling the other gateways")  # a bug of ours; other outcomes must not be lost for it

    def hear(self, request: gateway_pb2.SuspicionsRequest) -> None:
        """Another gateway tells; what it says is not told on."""
        for each in request.suspicions[:MOST_TOLD]:
            kind = int(each.kind)
            if kind in _FINDINGS:
                packets = tuple((packet.command, packet.digest) for packet in each.packets)
                lost = Lost(each.worker_id, each.incarnation)
                self._dispatcher.hear(Suspicion(Finding(kind), each.service, lost, packets))


def _add(request: gateway_pb2.SuspicionsRequest, suspicion: Suspicion) -> None:
    """To what is told."""
    told = request.suspicions.add(
        kind=gateway_pb2.SuspicionKind.ValueType(suspicion.finding),
        service=suspicion.service,
        worker_id=suspicion.lost.worker_id,
        incarnation=suspicion.lost.incarnation,
    )
    for command, digest in suspicion.packets:
        told.packets.add(command=command, digest=digest)
