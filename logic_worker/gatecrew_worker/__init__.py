"""Write logic workers in Python: hang handlers on a Worker and run it."""

from .answer import Answer
from .dedupe import deduplicate
from .links import Counters
from .request import Request
from .sent import Sent
from .serving import Serving, serve
from .session import Session, SessionInfo, SessionName
from .status import Status, StatusError, WorkerError
from .tls import TLS
from .worker import Worker

__all__ = [
    "TLS",
    "Answer",
    "Counters",
    "Request",
    "Sent",
    "Serving",
    "Session",
    "SessionInfo",
    "SessionName",
    "Status",
    "StatusError",
    "Worker",
    "WorkerError",
    "deduplicate",
    "serve",
]
