"""Turns what the validation found into lines for people: where it stands, what it is, what it may be."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic_core import ErrorDetails

from gatecrew_gateway.config import ConfigError

from .layers import Layers, Path

_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_NOT_A_TABLE = ("dataclass_type", "dataclass_exact_type", "model_type")
_WHAT = {"int": "a whole number", "float": "a number", "string": "text", "bool": "true or false", "tuple": "a list"}


def explain(finding: ErrorDetails, layers: Layers, sections: Mapping[str, tuple[str, ...]]) -> str:
    """One line. `sections` names the keys of each section; those of "" are the sections themselves."""
    path: Path = finding["loc"]
    kind = finding["type"]
    cause = finding.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return f"{layers.where((*path, cause.key) if cause.key else path)}: {cause.problem}"
    if kind in _UNKNOWN:
        known = sections[str(path[0]) if len(path) > 1 else ""]
        near = get_close_matches(str(path[-1]), known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        return f"{layers.where(path)}: unknown; {hint}"
    if kind in ("missing", "missing_argument"):
        return f"{layers.where(path)}: missing"
    value = "not shown" if path[-1] == "token" else _write_value(finding["input"])
    return f"{layers.where(path)}: {value}, {_must_be(finding)}"


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
