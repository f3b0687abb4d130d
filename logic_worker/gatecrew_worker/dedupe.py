"""Run a request once although it is delivered twice."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

from .program import Reply, RequestHandler
from .request import Request
from .status import StatusError

AnyRequestHandler = TypeVar("AnyRequestHandler", bound=RequestHandler)
Outcome = TypeVar("Outcome", "asyncio.Future[Reply]", "concurrent.futures.Future[Reply]")


class Memory(Generic[Outcome]):
    """Outcomes by idempotency key: the newest `size` of the last `ttl_s` seconds."""

    def __init__(self, size: int, ttl_s: float) -> None:
        self._size = size
        self._ttl_s = ttl_s
        self._known: OrderedDict[str, tuple[float, Outcome]] = OrderedDict()  # with the time it ends

    def get(self, key: str) -> Outcome | None:
        now = time.monotonic()
        while self._known and next(iter(self._known.values()))[0] <= now:
            self._known.popitem(last=False)
        known = self._known.get(key)
        return None if known is None else known[1]

    def put(self, key: str, outcome: Outcome) -> None:
        self._known[key] = time.monotonic() + self._ttl_s, outcome
        if len(self._known) > self._size:
            self._known.popitem(last=False)

    def forget(self, key: str, outcome: Outcome) -> None:
        """Unless another one has taken its place."""
        if key in self._known and self._known[key][1] is outcome:
            del self._known[key]


def deduplicate(size: int = 10_000, ttl_s: float = 120) -> Callable[[AnyRequestHandler], AnyRequestHandler]:
    """Answer a repeated attempt with what the first one answered, and do not run the handler again.

    A repeat that comes while the first still runs waits for it. Replies and StatusErrors are remembered; after any
    other exception a repeat runs the handler. It sees what comes to this worker: a repeat that goes to another one
    needs a check in what the workers share, on `request.idempotency_key`.

    Args:
        size: outcomes to remember at most.
        ttl_s: seconds to remember them; longer than deadline times attempts.

    Example:
        @worker.on(7)
        @deduplicate()
        async def pay(request: Request) -> bytes: ...
    """

    def wrap(handler: AnyRequestHandler) -> AnyRequestHandler:
        once = _once_async if inspect.iscoroutinefunction(handler) else _once_threaded
        wrapper = functools.wraps(handler)(once(cast("Any", handler), size, ttl_s))
        return cast("AnyRequestHandler", wrapper)

    return wrap


def _once_async(handler: Any, size: int, ttl_s: float) -> Any:
    memory: Memory[asyncio.Future[Reply]] = Memory(size, ttl_s)

    async def once(request: Request) -> Reply:
        key = request.idempotency_key
        while (first := memory.get(key)) is not None:
            try:
                return await asyncio.shield(first)
            except asyncio.CancelledError:
                if not first.cancelled():
                    raise
        outcome: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        memory.put(key, outcome)
        try:
            reply = cast("Reply", await handler(request))
        except StatusError as error:
            outcome.set_exception(error)
            outcome.exception()  # nobody has to ask for it
            raise
        except BaseException:
            memory.forget(key, outcome)
            outcome.cancel()  # who waits for it runs the handler
            raise
        outcome.set_result(reply)
        return reply

    return once


def _once_threaded(handler: Any, size: int, ttl_s: float) -> Any:
    memory: Memory[concurrent.futures.Future[Reply]] = Memory(size, ttl_s)
    lock = threading.Lock()

    def once(request: Request) -> Reply:
        key = request.idempotency_key
        while True:
            with lock:
                first = memory.get(key)
                if first is None:
                    outcome: concurrent.futures.Future[Reply] = concurrent.futures.Future()
                    memory.put(key, outcome)
                    break
            try:
                return first.result()
            except concurrent.futures.CancelledError:
                pass  # the first one failed: run it
        try:
            reply = cast("Reply", handler(request))
        except StatusError as error:
            outcome.set_exception(error)
            raise
        except BaseException:
            with lock:
                memory.forget(key, outcome)
            outcome.cancel()
            raise
        outcome.set_result(reply)
        return reply

    return once
