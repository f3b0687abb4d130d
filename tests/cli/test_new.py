"""`gatecrew new worker`: what it writes is complete, and is the user's. That it builds and keeps the contract is shown
by the README's worker in Go (tests/test_docs.py) and the reference workers, of which it is a copy (tests/workers)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from command_line import run

from gatecrew_cli.scaffold import BUILT, LANGUAGES

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("language", LANGUAGES)
def test_it_is_a_copy_under_another_name(tmp_path: Path, language: str) -> None:
    code, printed, error = run("new", "worker", "my-game2", "--lang", language, cwd=tmp_path)
    assert code == 0, error
    assert "my-game2/build.sh" in printed
    folder = tmp_path / "my-game2"
    files = [path for path in folder.rglob("*") if path.is_file()]
    text = {path: path.read_text("utf-8") for path in files}
    assert os.access(folder / "build.sh", os.X_OK)
    assert not [path for path in files if re.search(r"\btour\b", text[path]) or "tour" in path.name]
    assert not [path for path in files if "../../../protos" in text[path]]
    assert not [path for path in files if BUILT & set(path.relative_to(folder).parts)]
    assert sum("my-game2" in each for each in text.values()) >= 2  # README and program
    needs_protos = language != "python"
    assert (folder / "protos" / "gatecrew" / "v1" / "worker.proto").exists() == needs_protos


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["My_Game"], "'My_Game': give lower-case letters, digits and dashes"),
        (["handle"], "'handle': programs and packages get this name"),
        (["2048"], "'2048': programs and packages get this name"),
        (["x", "--lang", "cobol"], "Invalid value for '--lang': 'cobol' is not one of"),
        (["there"], "there is there already; choose another name, or another place with --directory"),
        (["x", "--directory", "/proc/x"], "/proc/x: "),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    (tmp_path / "there").mkdir()
    code, _, error = run("new", "worker", *arguments, cwd=tmp_path)
    assert code == 2
    assert error.startswith(f"gatecrew: {complaint}")
    assert "\n" not in error


def test_an_installed_gatecrew_has_the_templates(tmp_path: Path) -> None:
    """In the wheel, without what builds have left in the examples."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=110)
    [wheel] = tmp_path.glob("*.whl")
    names = [Path(name) for name in zipfile.ZipFile(wheel).namelist()]
    templates = [name.relative_to("gatecrew_cli/templates") for name in names if "templates" in name.parts]
    assert {name.parts[0] for name in templates if len(name.parts) > 1} == set(LANGUAGES)
    assert not [name for name in templates if BUILT & set(name.parts)]
    assert {Path("gatecrew/v1/worker.proto"), Path("gatecrew/v1/gateway.proto")} <= set(names)
