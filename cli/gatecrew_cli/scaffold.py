"""A new worker's folder: a copy of a reference worker under another name, with the protos beside it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import gatecrew

from .errors import UserError

LANGUAGES = ("python", "go", "java", "node", "rust", "cpp")
# Left by builds in the examples, or made anew by them.
BUILT = frozenset({"build", "target", "node_modules", "dist", "gen", "pb", "__pycache__"})
REFERENCE_NAME = re.compile(r"\btour\b")
REFERENCE_PROTOS = "../../../protos"
OWN_PROTOS = "protos"


def make_worker(name: str, language: str, folder: Path) -> None:
    """Write the folder, which must not be there yet.

    Raises:
        UserError: it is, or it cannot be written.
    """
    if folder.exists():
        raise UserError(f"{folder} is there already; choose another name, or another place with --directory")
    try:
        folder.mkdir(parents=True)
        needs_protos = [_copy(path, root, folder, name) for root in [_reference(language)] for path in _files(root)]
        if any(needs_protos):
            _copy_protos(folder / OWN_PROTOS)
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}") from None


def _reference(language: str) -> Path:
    """Where an installed Gatecrew has the reference workers, or a checkout of it."""
    installed = Path(__file__).parent / "templates"
    root = installed if installed.is_dir() else Path(__file__).parents[2] / "examples" / "workers"
    return root / language


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name not in BUILT:
                yield from _files(path)
        else:
            yield path


def _copy(source: Path, root: Path, folder: Path, name: str) -> bool:
    """Returns whether the file says where the protos are."""
    target = folder / REFERENCE_NAME.sub(name, source.relative_to(root).as_posix())
    target.parent.mkdir(parents=True, exist_ok=True)
    content = source.read_text("utf-8")
    target.write_text(REFERENCE_NAME.sub(name, content).replace(REFERENCE_PROTOS, OWN_PROTOS), "utf-8")
    shutil.copymode(source, target)
    return REFERENCE_PROTOS in content


def _copy_protos(target: Path) -> None:
    for package in gatecrew.__path__:
        for proto in sorted(Path(package).rglob("*.proto")):
            copy = target / "gatecrew" / proto.relative_to(package)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(proto, copy)
