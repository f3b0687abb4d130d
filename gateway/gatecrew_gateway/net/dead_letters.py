"""The Gateway service's part that shows dead letters and replays them, those of all gateways."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Sequence

from gatecrew.v1 import gateway_pb2

from ..replay import Outcome, Replays
from ..routing.quarantine import DeadLetter, Quarantine
from ..session import COUNTER_BITS
from .peers import Peers

MOST_LISTED_BYTES = 3 << 20  # a message of more than 4 MiB is refused by the other side
REPLAY_WITHIN_S = 75.0  # the longest deadline of a route, and what it takes to give a worker up


class DeadLetters:
    """`prefix`: of this gateway's sessions. `clock`: that of the dispatcher, seconds."""

    def __init__(
        self,
        gateway_id: str,
        prefix: int,
        quarantine: Quarantine,
        replays: Replays,
        peers: Peers,
        clock: Callable[[], float],
    ) -> None:
        self._gateway_id = gateway_id
        self._prefix = prefix
        self._quarantine = quarantine
        self._replays = replays
        self._peers = peers
        self._clock = clock

    async def list(
        self, request: gateway_pb2.ListDeadLettersRequest, ask_others: bool
    ) -> gateway_pb2.ListDeadLettersResponse:
        """As many as fit into a message, the newest first."""
        found = [self._describe(letter, request.with_bodies) for letter in self._matching(request)]
        if ask_others:
            answers, _ = await self._peers.ask("ListDeadLetters", request)
            for answer in answers:
                assert isinstance(answer, gateway_pb2.ListDeadLettersResponse)
                found += answer.dead_letters
            found.sort(key=lambda letter: letter.age_ms)
        sizes = itertools.accumulate(letter.ByteSize() + 8 for letter in found)
        fitting = sum(1 for size in sizes if size <= MOST_LISTED_BYTES)
        return gateway_pb2.ListDeadLettersResponse(dead_letters=found[:fitting])

    def _matching(self, request: gateway_pb2.ListDeadLettersRequest) -> Iterable[DeadLetter]:
        ids = set(request.ids)
        for letter in reversed(self._quarantine.letters.values()):
            if (not ids or letter.id in ids) and request.service in ("", letter.service):
                yield letter

    def _describe(self, letter: DeadLetter, with_body: bool) -> gateway_pb2.DeadLetter:
        return gateway_pb2.DeadLetter(
            id=letter.id,
            gateway_id=self._gateway_id,
            service=letter.service,
            command=letter.command,
            kind=letter.kind,  # type: ignore[arg-type]  # the contract's Kind by value
            session=letter.session,
            user=letter.user,
            peer=letter.peer,
            size=len(letter.body),
            body=letter.body if with_body else b"",
            age_ms=max(0, int((self._clock() - letter.at) * 1000)),
            refused=letter.refused,
            workers=letter.workers,
        )

    async def replay(
        self, request: gateway_pb2.ReplayDeadLettersRequest, ask_others: bool
    ) -> gateway_pb2.ReplayDeadLettersResponse:
        """One after the other, so that they take no more workers with them than must be."""
        replayed: list[gateway_pb2.ReplayedDeadLetter] = []
        for id in request.ids:
            letter = self._quarantine.letters.get(id)
            if letter is not None:
                outcome = await self._replay(letter)
                replayed.append(
                    gateway_pb2.ReplayedDeadLetter(
                        id=id, status=outcome.status, message=outcome.message, body=outcome.body
                    )
                )
            elif ask_others:
                replayed += await self._replay_elsewhere(id)
        return gateway_pb2.ReplayDeadLettersResponse(replayed=replayed)

    async def _replay(self, letter: DeadLetter) -> Outcome:
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def done(found: Outcome) -> None:
            if not outcome.done():  # the operator may have gone
                outcome.set_result(found)

        self._replays.begin(letter, done)
        return await outcome

    async def _replay_elsewhere(self, id: str) -> Sequence[gateway_pb2.ReplayedDeadLetter]:
        """At the gateway whose session it was of."""
        try:
            prefix = int(id.partition("-")[0], 16) >> COUNTER_BITS
        except ValueError:
            return ()
        if prefix == self._prefix:
            return ()
        request = gateway_pb2.ReplayDeadLettersRequest(ids=[id])
        found: list[gateway_pb2.ReplayedDeadLetter] = []
        answers, _ = await self._peers.ask("ReplayDeadLetters", request, prefix, within_s=REPLAY_WITHIN_S)
        for answer in answers:
            assert isinstance(answer, gateway_pb2.ReplayDeadLettersResponse)
            found += answer.replayed
        return found
