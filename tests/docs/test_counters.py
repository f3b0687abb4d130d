"""docs/counters.md names every counter, and no other."""

import re
from pathlib import Path

import pytest

from gatecrew_gateway.counters import Counters

pytestmark = pytest.mark.quick

PAGE = Path(__file__).parents[2] / "docs" / "counters.md"


def test_the_page_names_the_counters_that_there_are() -> None:
    assert re.findall(r"^\| `(\w+)`", PAGE.read_text(), re.MULTILINE) == list(Counters().as_dict())
