"""Logging of every Gatecrew process: to stderr, a record a line, as text for people or as JSON for machines.

In JSON every line is one object, with `time` (RFC 3339, UTC), `level`, `logger`, `process`, `pid`, `message`, and what
is known besides: whatever a record was given as `extra`, such as `session`, `worker`, `command`.
"""

import json
import logging
import os
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")
COMMAND_LINE = "gatecrew.cli"  # logger of what is wrong with the input

_PLAIN = frozenset({*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName"})


def now() -> str:
    return _stamp(datetime.now(UTC))


def record(process: str, message: str, level: str, logger: str, **fields: Any) -> str:
    """One line of JSON, without the line's end. `fields` may say another `time` or `pid` than now and ours."""
    entry = {"time": "", "level": level, "logger": logger, "process": process, "pid": os.getpid(), "message": message}
    entry.update(fields)
    entry["time"] = entry["time"] or now()
    return json.dumps(entry, ensure_ascii=False, default=str)


def wrap(process: str, pid: int, line: str, level: str) -> str:
    """A line of another process as a record. One that is an object keeps what it says; any other is the message."""
    fields: dict[str, Any] = {"message": line, "level": level, "logger": "output", "pid": pid, "process": process}
    try:
        return record(**{**fields, **_object(line), "process": process})
    except RecursionError:  # thousands of brackets
        return record(**fields)


def read(line: str, logger: str) -> str | None:
    """The message of such a line, if it is a record of that logger."""
    said = _object(line)
    return str(said["message"]) if said.get("logger") == logger and "message" in said else None


class JsonFormatter(logging.Formatter):
    """`process` is what this process is: gateway, worker, up."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self.process = process

    def format(self, record_: logging.LogRecord) -> str:
        fields = {key: value for key, value in record_.__dict__.items() if key not in _PLAIN}
        if record_.exc_info:
            fields["exception"] = self.formatException(record_.exc_info)
        return record(
            **{
                **fields,
                "process": self.process,
                "message": record_.getMessage(),
                "level": record_.levelname.lower(),
                "logger": record_.name,
                "time": _stamp(datetime.fromtimestamp(record_.created, UTC)),
            }
        )


class _TextFormatter(logging.Formatter):
    default_msec_format = "%s.%03d"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")


def set_up(level: str, format: str, process: str) -> None:
    """Send this process's log to stderr, with the exceptions that nobody catches if it is for machines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(process) if format == "json" else _TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if format == "json":
        sys.excepthook = _uncaught
        threading.excepthook = _uncaught_in_thread
        logging.captureWarnings(True)


def process() -> str | None:
    """What this process is called in its records; None: it logs as text."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, JsonFormatter):
            return handler.formatter.process
    return None


def _object(line: str) -> dict[str, Any]:
    """What a line says that is a JSON object; nothing for any other."""
    if not line.startswith("{"):
        return {}
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _stamp(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("gatecrew").critical("uncaught: %s", error, exc_info=(kind, error, trace))


def _uncaught_in_thread(each: threading.ExceptHookArgs) -> None:
    _uncaught(each.exc_type, each.exc_value or each.exc_type(), each.exc_traceback)
