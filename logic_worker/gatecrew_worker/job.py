"""A request on its way through the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .inplace import Carrier

if TYPE_CHECKING:
    from .dispatch import Dispatcher
    from .lane import Lane
    from .program import Handler
    from .request import Request


class NotStarted(Exception):
    """In a thread: nobody waits for the reply any more, or that is in doubt."""


class Job:
    """A request from its admission to its reply, unless it ended in place.

    Attributes:
        holds_lane: the lane is busy because of it.
        in_thread: it has been given to the threads: it waits for one, or runs.
        carrier: the task of its handler, which has been suspended.
        cancelled: the gateway waits for its reply no more.
    """

    __slots__ = ("cancelled", "carrier", "dispatcher", "handler", "holds_lane", "in_thread", "lane", "request")

    def __init__(self, dispatcher: Dispatcher, request: Request, handler: Handler, lane: Lane) -> None:
        self.dispatcher = dispatcher
        self.request = request
        self.handler = handler
        self.lane = lane
        self.holds_lane = False
        self.in_thread = False
        self.carrier: Carrier | None = None
        self.cancelled = False

    @property
    def has_begun(self) -> bool:
        """Whether its handler runs, or may run, if it waits for a thread."""
        return self.in_thread or self.carrier is not None

    def take_lane(self) -> None:
        """From now on the requests behind it wait for it, if its handler keeps the order."""
        if not self.handler.concurrent:
            self.holds_lane = self.lane.busy = True

    def leave_lane(self) -> bool:
        """Returns whether the lane's next request may begin."""
        held = self.holds_lane
        if held:
            self.holds_lane = self.lane.busy = False
        return held

    def call(self) -> Any:
        """Run the handler; in a thread.

        Raises:
            NotStarted: it should not begin now.
        """
        return self.dispatcher.call_in_thread(self)

    def settle(self, result: Any, error: BaseException | None) -> None:
        """The handler has ended that did not end in place; on the loop."""
        self.dispatcher.finish(self, result, error)

    def __str__(self) -> str:
        return f"{self.handler.name}(), {self.request.what}"
