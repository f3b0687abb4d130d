"""How a request can end badly, and how a worker can."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """The status codes of gRPC, which clients see in an error packet."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class StatusError(Exception):
    """Raise it in a handler to answer with an error; the client is shown status and message.

    Pushes raise it too, where they have nowhere to go.

    Args:
        status: any code but OK.
        message: text for the client.

    Example:
        raise StatusError(Status.NOT_FOUND, "no such room")
    """

    def __init__(self, status: Status | int, message: str = "") -> None:
        if not isinstance(status, int):
            text = f"the status is such as Status.NOT_FOUND, not {status!r}"
            raise TypeError(f"{type(self).__name__}(status, text): {text}")
        if not 0 < status <= 0xFFFF:
            raise ValueError(f"status must be 1 to 65535, not {int(status)}")
        super().__init__(status, message)
        self.status = int(status)
        self.message = str(message)

    def __str__(self) -> str:
        name = Status(self.status).name if self.status in Status._value2member_map_ else str(self.status)
        return f"{name}: {self.message}"


class WorkerError(Exception):
    """The worker cannot run; the text is one line for its operator."""
