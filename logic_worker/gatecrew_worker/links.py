"""The gateways that this worker is linked to, and which of them an action is for."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import grpc

from gatecrew.v1 import gateway_pb2, gateway_pb2_grpc, worker_pb2

from .answer import Answer, AnswerForThread, Question
from .mailbox import Mailbox
from .outbox import FULL_BYTES, MAX_BODY
from .sent import Sent, SentFromThread
from .session import SessionInfo
from .status import Status, StatusError, WorkerError

if TYPE_CHECKING:
    from .link import Link

T = TypeVar("T")

PREFIX_SHIFT = 36  # a session id's gateway is above it
MAX_ACTION = MAX_BODY + 4096  # bytes; beside its body a push has only names and numbers
HARD_LIMIT = 8 * FULL_BYTES  # bytes waiting for one gateway, from a program that never awaits what it sends
LIST_WITHIN_S = 5.0
ASK_WITHIN_S = 2.0  # a gateway that says nothing for longer is about to be given up, or too old to be asked
CHANNEL_OPTIONS = (("grpc.enable_http_proxy", 0),)  # gateways are behind no proxy for web pages


@dataclass(slots=True)
class Counters:
    """What went wrong since the worker started, for people and tests."""

    failed: int = 0  # handlers that raised something else than StatusError
    expired: int = 0  # requests whose deadline passed before their handler started
    cancelled: int = 0  # requests that nobody waited for any more: stopped, never begun, or left alone in their thread
    not_started: int = 0  # requests given back: draining, or more than max_in_flight
    replies_lost: int = 0  # the link ended before they were written
    actions_lost: int = 0  # the same, and those for a gateway that does not read
    unanswered: int = 0  # questions that a gateway did not answer within 2 s


class Links:
    """All live links. Its methods may be called from any thread; everything happens on the loop, in order."""

    def __init__(self) -> None:
        self.live: list[Link] = []
        self.counters = Counters()
        self._by_prefix: dict[int, Link] = {}
        self._receipts = itertools.count(1)
        self._thread_id: int | None = None
        self._mailbox: Mailbox | None = None
        self._waiting: set[asyncio.Task[None]] = set()  # for threads that wait for room or receipts

    def attach(self, mailbox: Mailbox) -> None:
        """Serve from now on in the current thread, whose loop reads the mailbox.

        Raises:
            WorkerError: it is being served already.
        """
        if self._mailbox is not None:
            raise WorkerError("the worker is being served already")
        self._thread_id = threading.get_ident()
        self._mailbox = mailbox

    async def detach(self) -> None:
        """Let go of the loop, which is about to end."""
        self._thread_id = self._mailbox = None
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)

    def add(self, link: Link) -> None:
        self.live.append(link)
        self._by_prefix[link.session_prefix] = link

    def remove(self, link: Link) -> None:
        self.live.remove(link)
        if self._by_prefix.get(link.session_prefix) is link:  # a newer link of that gateway stays
            del self._by_prefix[link.session_prefix]

    # What programs do.

    def push_session(self, session_id: int, body: bytes, command: int, receipt: bool) -> Sent:
        push = worker_pb2.Push(session=session_id, command=command)
        set_body(push, body)
        action = _checked_push(push)
        return self._call(lambda: self._send([self._of(session_id)], action, receipt))

    def push_many(self, push: worker_pb2.Push, receipt: bool) -> Sent:
        """Push to sessions of all gateways."""
        action = _checked_push(push)
        return self._call(lambda: self._send(self._readers(), action, receipt))

    def act(self, session_id: int, action: worker_pb2.Action) -> Sent:
        """Do something to one session."""
        _check_size(action)
        return self._call(lambda: self._send([self._of(session_id)], action, False))

    def act_everywhere(self, action: worker_pb2.Action) -> Sent:
        _check_size(action)
        return self._call(lambda: self._send(self._readers(), action, False))

    def ask(self, query: worker_pb2.Query, read: Callable[[worker_pb2.QueryResult], T]) -> Answer[T]:
        """Ask all gateways who is connected; `read` makes the answer of their sum.

        Raises:
            StatusError: RESOURCE_EXHAUSTED, a gateway is behind by megabytes; in a thread, `Answer.result` raises it.
        """
        _check_size(worker_pb2.Action(query=query))
        if self._thread_id == threading.get_ident() or self._mailbox is None:
            return Answer(self._ask(query), read)
        answer = AnswerForThread(read)
        self._mailbox.post(lambda: self._ask_for_thread(query, answer))
        return answer

    async def list_sessions(self, request: gateway_pb2.ListSessionsRequest) -> list[SessionInfo]:
        """Ask one gateway; it answers for all of them.

        Raises:
            StatusError: UNAVAILABLE where no gateway answers.
        """
        reason = "no link to a gateway"
        for address in {link.service_address: None for link in self.live if link.service_address}:
            try:
                async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
                    stub = gateway_pb2_grpc.GatewayStub(channel)
                    response = await stub.ListSessions(request, timeout=LIST_WITHIN_S)
            except grpc.aio.AioRpcError as error:
                reason = f"gateway at {address}: {error.code().name} {error.details()}"
            else:
                return [SessionInfo._of(info) for info in response.sessions]
        raise StatusError(Status.UNAVAILABLE, reason)

    # On the loop.

    def _of(self, session_id: int) -> Link:
        link = self._by_prefix.get(session_id >> PREFIX_SHIFT)
        if link is None:
            raise StatusError(Status.UNAVAILABLE, "no link to the session's gateway")
        if link.outbox.is_stuck:
            self.counters.actions_lost += 1
            raise StatusError(Status.UNAVAILABLE, "the session's gateway does not read")
        return link

    def _readers(self) -> list[Link]:
        links = [link for link in self.live if not link.outbox.is_stuck]
        self.counters.actions_lost += len(self.live) - len(links)
        return links

    def _send(self, links: Sequence[Link], action: worker_pb2.Action, receipt: bool) -> Sent:
        receipts: list[asyncio.Future[int]] = []
        _check_room(links)
        if receipt:
            number = action.push.receipt = next(self._receipts)
            receipts = [link.expect(number) for link in links]
        for link in links:
            link.outbox.act(action)
        return Sent([link.outbox for link in links], receipts)

    def _ask(self, query: worker_pb2.Query) -> asyncio.Future[worker_pb2.QueryResult | None]:
        # One link of each gateway: what two of them say would be counted twice.
        links = [link for link in self._by_prefix.values() if not link.outbox.is_stuck]
        question = Question(asyncio.get_running_loop(), len(links))
        if links:
            _check_room(links)
            number = query.receipt = next(self._receipts)
            action = worker_pb2.Action(query=query)
            for link in links:
                link.asked(number, question)
                link.outbox.act(action)
            timer = question.future.get_loop().call_later(ASK_WITHIN_S, self._give_up, number, links)
            question.future.add_done_callback(lambda _: timer.cancel())
        return question.future

    def _give_up(self, number: int, links: Sequence[Link]) -> None:
        for link in links:
            if link.unanswered(number):
                self.counters.unanswered += 1

    def _ask_for_thread(self, query: worker_pb2.Query, answer: AnswerForThread[T]) -> None:
        try:
            answer.follow(self._ask(query))
        except StatusError as error:
            answer.future.set_exception(error)

    def _call(self, send: Callable[[], Sent]) -> Sent:
        if self._thread_id == threading.get_ident() or self._mailbox is None:
            return send()
        sent = SentFromThread()
        self._mailbox.post(lambda: self._send_for_thread(send, sent.future))
        return sent

    def _send_for_thread(self, send: Callable[[], Sent], future: concurrent.futures.Future[int]) -> None:
        try:
            sent = send()
        except StatusError as error:
            future.set_exception(error)
            return
        if sent.is_done:
            future.set_result(0)
        else:
            task = asyncio.get_running_loop().create_task(_settle(sent, future))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)


def _check_room(links: Sequence[Link]) -> None:
    for link in links:
        if link.outbox.bytes_waiting > HARD_LIMIT:
            raise StatusError(Status.RESOURCE_EXHAUSTED, "too much is waiting to be sent: await what you push")


async def _settle(sent: Sent, future: concurrent.futures.Future[int]) -> None:
    try:
        future.set_result(await sent)
    except asyncio.CancelledError:
        future.set_exception(StatusError(Status.UNAVAILABLE, "the worker has ended"))
        raise


def set_body(push: worker_pb2.Push, body: bytes) -> None:
    """Raises:
    TypeError: it is no bytes.
    """
    try:
        push.body = body
    except TypeError:
        hint = "; write text.encode()" if isinstance(body, str) else ""
        raise TypeError(f"body must be bytes, not {type(body).__name__}{hint}") from None


def _checked_push(push: worker_pb2.Push) -> worker_pb2.Action:
    if (size := len(push.body)) > MAX_BODY:
        raise ValueError(f"a push of {size} bytes; {MAX_BODY} at most")
    if push.command > 0xFFFF:
        raise ValueError(f"a command is 0 to 65535, not {push.command}")
    action = worker_pb2.Action(push=push)
    _check_size(action)
    return action


def _check_size(action: worker_pb2.Action) -> None:
    # A message above gRPC's limit would end the stream of all sessions.
    if (size := action.ByteSize()) > MAX_ACTION:
        raise ValueError(f"an action of {size} bytes; {MAX_ACTION} at most")
