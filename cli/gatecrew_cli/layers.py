"""Sources of settings over each other, the strongest first, and the answer to "where does this one come from?".

A layer is what a TOML file or the environment gives: tables, lists, plain values. A table whose keys are numbers lies
over a list and changes single elements of it: `{"listener": {0: {"port": 7001}}}` is what --listen says.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import UserError

Layer = Mapping[Any, Any]
Path = tuple[str | int, ...]

DEFAULT = "default"


def read_toml(file: str) -> dict[str, Any]:
    """Read a settings file.

    Raises:
        UserError: it can't be read or is not TOML; says the line and column.
    """
    try:
        with open(file, "rb") as opened:
            return tomllib.load(opened)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text, at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        place = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", str(error), re.DOTALL)
        if place is None or place[2] is None:
            raise UserError(f"{file}: not TOML: {error}") from None
        raise UserError(f"{file}:{place[2]}:{place[3]}: not TOML: {place[1]}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, a thousand brackets
        raise UserError(f"{file}: not TOML: {str(error).partition(':')[0]}") from None


def write_path(path: Path) -> str:
    """`listener[0].port`, as people write it."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


class Layers:
    """Named layers, the strongest first."""

    def __init__(self, layers: Sequence[tuple[str, Layer]]) -> None:
        self._layers = layers

    def merged(self) -> dict[str, Any]:
        whole: Any = {}
        for _, layer in reversed(self._layers):
            whole = _lay_over(whole, layer)
        assert isinstance(whole, dict)
        return whole

    def origin(self, path: Path) -> str:
        """Name of the strongest layer that says something of it."""
        return next((name for name, layer in self._layers if _holds(layer, path)), DEFAULT)

    def is_of_file(self, path: Path) -> bool:
        return self.origin(path) not in ("command line", "environment", DEFAULT)

    def where(self, path: Path) -> str:
        """Origin and key in one: `gatecrew.toml: listener[0].port`.

        A finding may be about a key that nobody wrote (one that is missing, or a default that clashes with a written
        one); then the table that it belongs to says where.
        """
        written = path
        while len(written) > 1 and self.origin(written) == DEFAULT:
            written = written[:-1]
        return f"{self.origin(written)}: {write_path(path)}"


def _holds(layer: Any, path: Path) -> bool:
    for part in path:
        if isinstance(layer, Mapping):
            if part not in layer:
                return False
        elif not (isinstance(layer, list) and isinstance(part, int) and part < len(layer)):
            return False
        layer = layer[part]
    return True


def _lay_over(low: Any, high: Any) -> Any:
    if not isinstance(high, Mapping):
        return high
    if high and all(isinstance(key, int) for key in high):
        elements = list(low) if isinstance(low, list) else []
        for index, value in sorted(high.items()):
            elements.extend({} for _ in range(len(elements), index + 1))
            elements[index] = _lay_over(elements[index], value)
        return elements
    below = low if isinstance(low, dict) else {}
    return {**below, **{key: _lay_over(below.get(key), value) for key, value in high.items()}}
