"""The worker as its author meets it: handlers are hung on it, and it speaks to clients."""

from __future__ import annotations

import asyncio
import difflib
import functools
import inspect
import secrets
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Self, TypeVar, cast

from gatecrew.v1 import gateway_pb2, worker_pb2
from gatecrew_registry import Registry, RegistrySettings

from .answer import Answer
from .importing import check_run
from .links import Counters, Links, set_body
from .program import Program, RequestHandler, SessionHandler, name_of
from .sent import Sent
from .serving import Serving, serve, serving
from .session import Session, SessionInfo, SessionName
from .tls import TLS

AnyRequestHandler = TypeVar("AnyRequestHandler", bound=RequestHandler)
AnySessionHandler = TypeVar("AnySessionHandler", bound=SessionHandler)


Method = TypeVar("Method", bound=Callable[..., object])

DEFAULT_THREADS = 32  # started one by one when there is work for them; 16 KiB each


def _without_parentheses(method: Method) -> Method:
    """A decorator that says what is meant when it is called with nothing."""

    @functools.wraps(method)
    def checked(*arguments: Any, **named: Any) -> object:
        if len(arguments) == 1 and not named:
            name = method.__name__
            raise TypeError(f"{name} takes no parentheses: write @worker.{name}")
        return method(*arguments, **named)

    return cast("Method", checked)


class Worker:
    """One program that offers one service.

    Args:
        service: the name that its workers share.
        max_in_flight: unanswered requests at once, for each gateway; what comes above is given back.
        threads: how many plain `def` handlers run at once. Those that wait for something else, a database, may be
            hundreds; those that compute share one CPU, and slow down the loop when they are many.
        one_at_a_time: never two handlers at once, and plain `def` handlers in one thread, always the same.
        version: of your program, for people.

    Example:
        worker = Worker("chat")

        @worker.on(1)
        async def say(request: Request) -> bytes:
            await worker.push_group("lobby", request.body, command=2, except_session=request.session)
            return b"ok"

        worker.run(port=7101)
    """

    def __new__(cls, *arguments: object, **options: object) -> Self:
        """Say which option a misspelt one was meant to be, and that there must be a name.

        Raises:
            TypeError: there is no such option, or no name.
        """
        known = inspect.signature(cls.__init__).parameters
        for option in options:
            if option not in known and not any(each.kind is each.VAR_KEYWORD for each in known.values()):
                close = difflib.get_close_matches(option, known, 1)
                hint = f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join([*known][1:])}"
                raise TypeError(f"{cls.__name__} has no option {option!r}{hint}")
        needs = known.get("service")
        if needs is not None and needs.default is needs.empty and not arguments and "service" not in options:
            raise TypeError(f'a {cls.__name__} needs the name of its service: {cls.__name__}("chat")')
        return super().__new__(cls)

    def __init__(
        self,
        service: str,
        *,
        max_in_flight: int = 1024,
        threads: int | None = None,
        one_at_a_time: bool = False,
        version: str = "",
    ) -> None:
        if not service:
            raise ValueError("a worker needs the name of its service")
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight must be at least 1, not {max_in_flight}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        self.service = service
        self.max_in_flight = max_in_flight
        self.threads = 1 if one_at_a_time else threads or DEFAULT_THREADS
        self.one_at_a_time = one_at_a_time
        self.version = version
        self.incarnation = secrets.token_hex(8)  # tells this life of the process from its last one
        self._program = Program()
        self._links = Links()

    # Handlers.

    def on(
        self, *commands: int | Iterable[int], concurrent: bool = False
    ) -> Callable[[AnyRequestHandler], AnyRequestHandler]:
        """Hang a handler on commands. An `async def` runs on the loop, a plain `def` in a thread.

        It returns the reply: bytes, or None for an empty one. Raise `StatusError` to answer with an error; any other
        exception, that of `sys.exit` too, is logged, and the client is told "internal error" and the request's id, as
        it is in the log.

        Args:
            commands: numbers, or ranges of them.
            concurrent: do not keep the requests of a session in order.

        Raises:
            ValueError: a command has a handler already, or is not 0 to 65535.
            TypeError: a command is no number, or the handler can't be called with a request.

        Example:
            @worker.on(1, range(10, 20))
            async def say(request: Request) -> bytes: ...
        """
        if concurrent and self.one_at_a_time:
            raise ValueError("a worker that does one thing at a time has no concurrent handlers")
        for each in commands:
            if callable(each):
                raise TypeError(f"on() needs commands: write @worker.on(1) above {name_of(each)}(), or @worker.on_any")
        numbers = [number for each in commands for number in ((each,) if isinstance(each, int) else each)]
        if not numbers:
            raise ValueError("a handler needs at least one command; on_any takes every other command")

        def hang(function: AnyRequestHandler) -> AnyRequestHandler:
            self._program.add(numbers, function, concurrent)
            return function

        return hang

    @_without_parentheses
    def on_any(self, function: AnyRequestHandler) -> AnyRequestHandler:
        """Hang a handler on every command that has none. The worker then offers every command.

        Raises:
            ValueError: there is one already.
            TypeError: the handler can't be called so.
        """
        self._program.add_any(function)
        return function

    @_without_parentheses
    def on_open(self, function: AnySessionHandler) -> AnySessionHandler:
        """Call it when a session has come, on one worker of the service, before any packet of the session.

        Raises:
            ValueError: there is one already.
            TypeError: the handler can't be called so.

        Example:
            @worker.on_open
            async def hello(session: Session) -> None:
                await session.join("lobby")
        """
        self._program.add_event(worker_pb2.KIND_OPEN, function)
        return function

    @_without_parentheses
    def on_close(self, function: AnySessionHandler) -> AnySessionHandler:
        """Call it when a session has gone, on one worker of the service, after its last packet.

        Raises:
            ValueError: there is one already.
            TypeError: the handler can't be called so.
        """
        self._program.add_event(worker_pb2.KIND_CLOSE, function)
        return function

    # Speaking first. Every call queues at once and may come from any thread.

    def push_session(self, session: Session | int, body: bytes, command: int = 0, *, receipt: bool = False) -> Sent:
        """Send a packet to one session.

        Args:
            session: the session or its id; it may be on any gateway.
            body: at most 1 MiB less 8 bytes.
            command: the command in the packet.
            receipt: have the gateway tell how many sessions it was queued for, which awaiting then returns.

        Returns:
            A `Sent`, which may be awaited: see there.

        Raises:
            StatusError: UNAVAILABLE, no link to the session's gateway, or it does not read; in a thread,
                `Sent.result` raises it.
            ValueError: too large.
        """
        return self._links.push_session(_id(session), body, command, receipt)

    def push_user(
        self,
        user: str,
        body: bytes,
        command: int = 0,
        *,
        except_session: Session | int | None = None,
        receipt: bool = False,
    ) -> Sent:
        """Send a packet to every session that was bound to a user. Arguments as in `push_group`."""
        push = worker_pb2.Push(user=_named(user, "user"))
        return self._push(push, body, command, except_session, receipt)

    def push_group(
        self,
        group: str,
        body: bytes,
        command: int = 0,
        *,
        except_session: Session | int | None = None,
        receipt: bool = False,
    ) -> Sent:
        """Send a packet to every session that has joined a group, on all gateways.

        Args:
            group: its name.
            body: at most 1 MiB less 8 bytes.
            command: the command in the packet.
            except_session: leave this one out: the session that spoke, say.
            receipt: have the gateways tell how many sessions it was queued for, which awaiting then returns.

        Returns:
            A `Sent`, which may be awaited: see there.

        Raises:
            ValueError: too large, or no name.

        Example:
            reached = await worker.push_group("lobby", b"hello", command=2, receipt=True)
        """
        push = worker_pb2.Push(group=_named(group, "group"))
        return self._push(push, body, command, except_session, receipt)

    def push_everyone(
        self,
        body: bytes,
        command: int = 0,
        *,
        except_session: Session | int | None = None,
        receipt: bool = False,
    ) -> Sent:
        """Send a packet to every session of all gateways. Arguments as in `push_group`."""
        return self._push(worker_pb2.Push(everyone=True), body, command, except_session, receipt)

    def _push(
        self,
        push: worker_pb2.Push,
        body: bytes,
        command: int,
        except_session: Session | int | None,
        receipt: bool,
    ) -> Sent:
        set_body(push, body)
        push.command = command
        if except_session is not None:
            push.except_session = _id(except_session)
        return self._links.push_many(push, receipt)

    def kick_user(self, user: str, reason: str = "", reconnect_after_ms: int = 0) -> Sent:
        """Close every session that was bound to a user, with a goaway packet first.

        Args:
            user: who.
            reason: text for the clients.
            reconnect_after_ms: how long they are asked to stay away, in milliseconds.
        """
        kick = worker_pb2.Kick(user=_named(user, "user"), reason=reason, reconnect_after_ms=reconnect_after_ms)
        return self._links.act_everywhere(worker_pb2.Action(kick=kick))

    # Who is there. Every question goes out at once, on all links, and costs what a push costs. From any thread.

    def is_online(self, user: str) -> Answer[bool]:
        """Whether a session that was bound to this user is connected to any gateway.

        Raises:
            StatusError: UNAVAILABLE, no gateway answers; where it is awaited.
            ValueError: no name.

        Example:
            if not await worker.is_online("ada"):
                await send_mail("ada", text)
        """
        query = worker_pb2.Query(user=_named(user, "user"))
        return self._links.ask(query, lambda result: result.sessions > 0)

    def count(self, *, user: str = "", group: str = "") -> Answer[int]:
        """How many sessions are connected to all gateways: a user's, a group's, or, without arguments, everybody's.

        Raises:
            StatusError: UNAVAILABLE, no gateway answers; where it is awaited.
            ValueError: a user and a group.
        """
        return self._links.ask(_query(user, group, 0), lambda result: result.sessions)

    def list_names(self, *, user: str = "", group: str = "", limit: int = 1000) -> Answer[list[SessionName]]:
        """Ids and users of the sessions that `count` counts.

        Args:
            user: of this user.
            group: in this group.
            limit: at most so many; a gateway names as many as fit into 1 MiB, ten thousand or so.

        Raises:
            StatusError: UNAVAILABLE, no gateway answers; where it is awaited.
            ValueError: a user and a group, or a limit below 1.

        Example:
            names = sorted(each.user for each in await worker.list_names(group="lobby"))
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        return self._links.ask(
            _query(user, group, limit),
            lambda result: [SessionName(name.session, name.user) for name in result.names[:limit]],
        )

    async def list_sessions(
        self, user: str = "", group: str = "", listener: str = "", limit: int = 1000
    ) -> list[SessionInfo]:
        """Who is connected, on all gateways, with all that is known of them. It asks a gateway, which asks the others,
        so it is no call for every packet: see `is_online`, `count` and `list_names`.

        Args:
            user: only those bound to this user.
            group: only those in this group.
            listener: only those that came to this listener.
            limit: at most so many.

        Raises:
            StatusError: UNAVAILABLE where no gateway answers.
        """
        request = gateway_pb2.ListSessionsRequest(user=user, group=group, listener=listener, limit=limit)
        return await self._links.list_sessions(request)

    @property
    def counters(self) -> Counters:
        """What went wrong since the start."""
        return self._links.counters

    # Running.

    def serving(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        registry: Registry | None = None,
        advertise_host: str = "",
        tls: TLS | None = None,
        drain_s: float = 10.0,
    ) -> AbstractAsyncContextManager[Serving]:
        """Serve inside an `async with`, for tests and for programs that have a loop of their own.

        Leaving it drains. Arguments and errors as in `serve`.

        Example:
            async with worker.serving() as serving:
                print(serving.address)
        """
        return serving(self, host, port, registry=registry, advertise_host=advertise_host, tls=tls, drain_s=drain_s)

    def run(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        registry: RegistrySettings | None = None,
        advertise_host: str = "",
        tls: TLS | None = None,
        drain_s: float = 10.0,
    ) -> None:
        """Serve until SIGTERM or SIGINT, then drain.

        Args:
            registry: which registry to register at, say `RegistrySettings.from_env()`; None: at none.

        The other arguments and errors are those of `serve`.
        """
        check_run()

        async def run() -> None:
            async with AsyncExitStack() as stack:
                opened = None if registry is None else await stack.enter_async_context(Registry(registry))
                await serve(self, host, port, registry=opened, advertise_host=advertise_host, tls=tls, drain_s=drain_s)

        asyncio.run(run())


def _id(session: Session | int) -> int:
    return session.id if isinstance(session, Session) else session


def _query(user: str, group: str, limit: int) -> worker_pb2.Query:
    if user and group:
        raise ValueError("a user or a group, not both")
    if user:
        return worker_pb2.Query(user=user, limit=limit)
    return worker_pb2.Query(group=group, limit=limit) if group else worker_pb2.Query(everyone=True, limit=limit)


def _named(name: str, what: str) -> str:
    if not name:
        raise ValueError(f"which {what}? An empty name is none")
    return name
