"""The reference worker of every language keeps the contract, both flavours."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Process, gatecrew

from workers.languages import LANGUAGES, program

FLAVOURS = {"tour": "link", "handle": "handle"}


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module", params=FLAVOURS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def kits(name: str, logs: Path) -> Iterator[dict[str, Process]]:
    """All languages at once, since most of the kit's time is waiting; those that are not built are left out."""
    started = {}
    try:
        for language in LANGUAGES:
            try:
                path = program(language, name)
            except pytest.skip.Exception:
                continue
            started[language] = Process(gatecrew("conformance", "--json", "--", path), {"TMPDIR": str(logs)})
        yield started
    finally:
        for process in started.values():
            process.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("language", LANGUAGES)
def test_it_passes_the_kit(kits: dict[str, Process], language: str, name: str) -> None:
    program(language, name)  # skips what is not built
    process = kits[language]
    code = process.wait(250)
    assert process.stdout, process.output
    report: dict[str, Any] = json.loads("\n".join(process.stdout))
    failed = {check["name"]: check["detail"] for check in report["checks"] if check["outcome"] == "fail"}
    assert failed == {}
    assert code == 0
    assert report["flavour"] == FLAVOURS[name]
    assert {check["name"] for check in report["checks"] if check["outcome"] == "skip"} == set()  # all are made


def test_nothing_is_left_of_programs_that_passed(kits: dict[str, Process], logs: Path) -> None:
    for process in kits.values():
        process.wait(250)
    assert list(logs.glob("gatecrew-conformance-*")) == []
