"""Questions to all gateways at once: who is connected. They travel as pushes do, and are answered as receipts are."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from gatecrew.v1 import worker_pb2

from .status import Status, StatusError

T = TypeVar("T")


class Question:
    """Adds up what the gateways answer. `future` has the sum when none is missing; None if no gateway has answered."""

    def __init__(self, loop: asyncio.AbstractEventLoop, gateways: int) -> None:
        self.future: asyncio.Future[worker_pb2.QueryResult | None] = loop.create_future()
        self._missing = gateways
        self._sum: worker_pb2.QueryResult | None = None
        if not gateways:
            self.future.set_result(None)

    def answered(self, result: worker_pb2.QueryResult | None) -> None:
        """By one gateway. None: it never will."""
        if result is not None:
            if self._sum is None:
                self._sum = result
            else:
                self._sum.sessions += result.sessions
                self._sum.names.extend(result.names)
        self._missing -= 1
        if not self._missing and not self.future.done():
            self.future.set_result(self._sum)


class Answer(Generic[T]):
    """What the gateways will say. The question is on its way already.

    Await it, or call `result` in a handler that runs in a thread. A gateway that does not answer within 2 s counts as
    if it had no sessions.

    Raises:
        StatusError: UNAVAILABLE, no gateway has answered; where it is awaited.

    Example:
        if await worker.is_online("ada"): ...
    """

    __slots__ = ("_future", "_read")

    def __init__(
        self,
        future: asyncio.Future[worker_pb2.QueryResult | None],
        read: Callable[[worker_pb2.QueryResult], T],
    ) -> None:
        self._future = future
        self._read = read

    def __await__(self) -> Generator[Any, None, T]:
        # Whoever stops waiting for it leaves it to others who do.
        result = yield from asyncio.shield(self._future).__await__()
        return self._understood(result)

    def _understood(self, result: worker_pb2.QueryResult | None) -> T:
        if result is None:
            raise StatusError(Status.UNAVAILABLE, "no gateway answered")
        return self._read(result)

    def result(self, timeout_s: float | None = None) -> T:
        """The same as awaiting, for handlers that run in a thread.

        Args:
            timeout_s: seconds to wait at most.

        Raises:
            StatusError: UNAVAILABLE, no gateway has answered.
            TimeoutError: it took longer.
            RuntimeError: called on the loop's thread, which would wait for itself.
        """
        raise RuntimeError("on the event loop's thread, await it instead")


class AnswerForThread(Answer[T]):
    """The answer to a question that another thread has posted to the loop."""

    __slots__ = ("future",)

    def __init__(self, read: Callable[[worker_pb2.QueryResult], T]) -> None:
        self.future: concurrent.futures.Future[worker_pb2.QueryResult | None] = concurrent.futures.Future()
        self._read = read

    def __await__(self) -> Generator[Any, None, T]:
        result = yield from asyncio.shield(asyncio.wrap_future(self.future)).__await__()
        return self._understood(result)

    def result(self, timeout_s: float | None = None) -> T:
        return self._understood(self.future.result(timeout_s))

    def follow(self, future: asyncio.Future[worker_pb2.QueryResult | None]) -> None:
        """It will say what this says."""
        future.add_done_callback(self._answered)

    def _answered(self, done: asyncio.Future[worker_pb2.QueryResult | None]) -> None:
        if not self.future.done():
            self.future.set_result(None if done.cancelled() else done.result())
