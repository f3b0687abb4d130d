"""Write logic workers in Python: hang handlers on a Worker and run it."""

from .dedupe import deduplicate
from .links import Counters
from .request import Request
from .sent import Sent
from .serving import Serving, serve
from .session import Session, SessionInfo
from .status import Status, StatusError, WorkerError
from .tls import TLS
from .worker import Worker

__all__ = [
    "TLS",
    "Counters",
    "Request",
    "Sent",
    "Serving",
    "Session",
    "SessionInfo",
    "Status",
    "StatusError",
    "Worker",
    "WorkerError",
    "deduplicate",
    "serve",
]
