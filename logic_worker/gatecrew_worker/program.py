"""Which handler a request is for."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from gatecrew.v1 import worker_pb2

from .request import Request
from .session import Session

Reply = bytes | None
RequestHandler = Callable[[Request], Awaitable[Reply]] | Callable[[Request], Reply]
SessionHandler = Callable[[Session], Awaitable[None]] | Callable[[Session], None]

MAX_COMMAND = 0xFFFF


class Handler:
    """A user's function as the dispatcher calls it: always with a Request.

    `threaded` is a plain def; others are coroutine functions. `concurrent` does not keep a session's order. `name` is
    the function's, for people.
    """

    __slots__ = ("call", "concurrent", "name", "threaded")

    def __init__(
        self, function: RequestHandler | SessionHandler, call: Callable[[Request], Any], concurrent: bool
    ) -> None:
        self.call = call
        self.name = name_of(function)
        self.threaded = not _is_coroutine_function(function)
        self.concurrent = concurrent


class Program:
    """The handlers of one worker, by command and by kind of session event."""

    def __init__(self) -> None:
        self.by_command: dict[int, Handler] = {}
        self.any: Handler | None = None
        self.events: dict[int, Handler] = {}

    def add(self, commands: Iterable[int], function: RequestHandler, concurrent: bool) -> None:
        _check_call(function, "request")
        handler = Handler(function, function, concurrent)
        for command in commands:
            if not isinstance(command, int):
                raise TypeError(f"a command is a number, not {command!r}")
            if not 0 <= command <= MAX_COMMAND:
                raise ValueError(f"a command is 0 to {MAX_COMMAND}, not {command}")
            if command in self.by_command:
                raise ValueError(f"command {command} has a handler already")
            self.by_command[command] = handler

    def add_any(self, function: RequestHandler) -> None:
        if self.any is not None:
            raise ValueError("there is a handler for every other command already")
        _check_call(function, "request")
        self.any = Handler(function, function, False)

    def add_event(self, kind: worker_pb2.Kind.ValueType, function: SessionHandler) -> None:
        if kind in self.events:
            raise ValueError(f"{worker_pb2.Kind.Name(kind)} has a handler already")
        _check_call(function, "session")
        self.events[kind] = Handler(function, lambda request: function(request.session), False)

    @property
    def commands(self) -> list[int]:
        """As a hello says it: empty for every command."""
        return [] if self.any is not None else sorted(self.by_command)

    @property
    def threaded(self) -> bool:
        """Whether every request's handler runs in a thread."""
        handlers = [*self.by_command.values(), *([self.any] if self.any is not None else [])]
        return bool(handlers) and all(handler.threaded for handler in handlers)

    @property
    def serves_nothing(self) -> bool:
        """It only pushes, or only hears of sessions."""
        return self.any is None and not self.by_command


def commands_text(commands: list[int], limit: int) -> str:
    """The commands for the registry's metadata, as in "1-20,35"; "*" for every command or if it is too long."""
    runs: list[list[int]] = []
    for command in commands:
        if runs and command == runs[-1][1] + 1:
            runs[-1][1] = command
        else:
            runs.append([command, command])
    text = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
    return text if text and len(text) <= limit else "*"


def name_of(function: object) -> str:
    """Of a handler, for people."""
    name: str = getattr(function, "__name__", type(function).__name__)
    return name


def _check_call(function: Any, argument: str) -> None:
    """Find out now, not when the first client comes, that it can't be called with one argument, or yields.

    Raises:
        TypeError: so it is.
    """
    if not callable(function):
        raise TypeError(f"a handler is a function, not {function!r}")
    if _is_generator_function(function):
        raise TypeError(f"{name_of(function)}() has a `yield`: a handler returns its one reply, and pushes what else")
    try:
        signature = inspect.signature(function)
    except ValueError:  # of some that are written in C
        return
    try:
        signature.bind(None)
    except TypeError:
        name = name_of(function)
        text = f"{name}{signature} can't be called with the {argument}: write {name}({argument})"
        raise TypeError(text) from None


def _is_coroutine_function(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _is_generator_function(function: Any) -> bool:
    is_any = (inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    return any(test(function) or test(type(function).__call__) for test in is_any)
