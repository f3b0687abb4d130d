"""Turns what the validation found into lines for people: where it stands, what it is, what it may be."""

from collections.abc import Mapping
from copy import deepcopy
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gatecrew_gateway.config import ConfigError

from .layers import Layers, Path

_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_NOT_A_TABLE = ("dataclass_type", "dataclass_exact_type", "model_type")
_WHAT = {"int": "a whole number", "float": "a number", "string": "text", "bool": "true or false", "tuple": "a list"}
# A bad one of these makes the others look bad too.
_JUDGED_TOGETHER = ({"heartbeat_s", "suspect_after_s", "lost_after_s"}, {"worker_ca", "worker_cert", "worker_key"})
LISTS = ("listener", "route", "worker")  # sections of which there may be several
_ROUNDS = 100  # more findings in one table than anybody reads

Model = TypeVar("Model", bound=BaseModel)


def validate(model: type[Model], values: Mapping[str, Any]) -> tuple[Model | None, list[ErrorDetails]]:
    """All that is bad in it. A table's own check runs when each of its values is of the right kind, and ends with the
    first finding; so what is bad is left out and the rest is validated again.

    Returns the model with defaults for what was bad; None where that is not enough.
    """
    rest = deepcopy(dict(values))
    found: list[ErrorDetails] = []
    for _ in range(_ROUNDS):
        try:
            return model(**rest), found
        except ValidationError as error:
            left_out = False
            before = [path_of(each) for each in found]
            for each in error.errors():
                path = path_of(each)
                if not any(path == other or _together(path, other) for other in before):
                    found.append(each)
                left_out |= _leave_out(rest, path)
            if not left_out:
                return None, found
    return None, found


def path_of(finding: ErrorDetails) -> Path:
    """Of the key that it is about."""
    cause = finding.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError) and cause.key:
        return (*finding["loc"], cause.key)
    return finding["loc"]


def _together(one: Path, other: Path) -> bool:
    return one[:-1] == other[:-1] and any({one[-1], other[-1]} <= keys for keys in _JUDGED_TOGETHER)


def _leave_out(values: Any, path: Path) -> bool:
    """Whether there was something to leave out. Elements of lists stay: the numbers of the others must not change."""
    for part in path[:-1]:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return False
    if not path or not isinstance(values, dict) or path[-1] not in values:
        return False
    del values[path[-1]]
    return True


def explain(finding: ErrorDetails, layers: Layers, sections: Mapping[str, tuple[str, ...]]) -> str:
    """One line. `sections` names the keys of each section; those of "" are the sections themselves."""
    path: Path = finding["loc"]
    kind = finding["type"]
    cause = finding.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return f"{layers.where((*path, cause.key) if cause.key else path)}: {cause.problem}"
    if kind in _UNKNOWN:
        if elsewhere := _elsewhere(path, sections):
            return f"{layers.where(path)}: {elsewhere}"
        known = sections[str(path[0]) if len(path) > 1 else ""]
        near = get_close_matches(str(path[-1]), known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        return f"{layers.where(path)}: unknown; {hint}"
    if kind in ("missing", "missing_argument"):
        return f"{layers.where(path)}: missing"
    if len(path) == 1 and path[0] in LISTS and isinstance(finding["input"], dict) and layers.is_of_file(path):
        return f"{layers.where(path)}: write [[{path[0]}]], with two brackets"
    value = "not shown" if path[-1] == "token" else _write_value(finding["input"])
    return f"{layers.where(path)}: {value}, {_must_be(finding)}"


def _elsewhere(path: Path, sections: Mapping[str, tuple[str, ...]]) -> str:
    """What to say of a key that another section has; nothing if none has it."""
    key = str(path[-1])
    own = str(path[0]) if len(path) > 1 else ""
    for section, keys in sections.items():
        if section not in ("", own) and key in keys:
            table = f"[[{section}]]" if section in LISTS else f"[{section}]"
            return f"unknown; {key} is a key of {table}" if own else f"unknown here; it is a key of {table}"
    return ""


def _must_be(finding: ErrorDetails) -> str:
    kind = finding["type"]
    if kind in _NOT_A_TABLE:
        return "must be a table"
    if kind == "string_pattern_mismatch":
        return "must be module:object, such as chat:worker"
    if kind == "literal_error":
        return f"must be {finding.get('ctx', {}).get('expected')}"
    what = _WHAT.get(kind.partition("_")[0])
    if what and kind.partition("_")[2] in ("type", "parsing", "from_float"):
        return f"must be {what}"
    return finding["msg"].replace("Input should be", "must be")


def _write_value(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
