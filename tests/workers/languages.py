"""The reference workers of all languages, as `examples/workers/build.sh` has built them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LANGUAGES = ("python", "go", "java", "node", "rust", "cpp")


def program(language: str, flavour: str = "tour") -> str:
    """The path of the built program. Python's is built on the spot, since that compiles nothing.

    Raises:
        pytest.skip.Exception: it is not built; a failure where GATECREW_REQUIRE_WORKERS is set, as in CI.
    """
    path = ROOT / ".build" / "workers" / language / flavour
    if language == "python":
        build = [str(ROOT / "examples" / "workers" / "python" / "build.sh"), str(path.parent)]
        subprocess.run(build, env={**os.environ, "PYTHON": sys.executable}, check=True, capture_output=True)
    if not path.exists():
        text = f"NOT TESTED: the {language} worker is not built; `make workers` builds it where its toolchain is"
        if os.environ.get("GATECREW_REQUIRE_WORKERS"):
            pytest.fail(text)
        pytest.skip(text)
    return str(path)
