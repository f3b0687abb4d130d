"""The reference worker of every language keeps the contract, both flavours."""

import json
from collections.abc import Callable

import pytest
from processes import Process, gatecrew

from workers.languages import LANGUAGES, program


@pytest.mark.timeout(300)
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(("name", "flavour"), [("tour", "link"), ("handle", "handle")])
def test_it_passes_the_kit(start: Callable[..., Process], language: str, name: str, flavour: str) -> None:
    process = start(gatecrew("conformance", "--json", "--", program(language, name)))
    code = process.wait(250)
    report = json.loads("\n".join(process.stdout))
    failed = {check["name"]: check["detail"] for check in report["checks"] if check["outcome"] == "fail"}
    assert failed == {}
    assert code == 0
    assert report["flavour"] == flavour
    assert {check["name"] for check in report["checks"] if check["outcome"] == "skip"} == set()  # all are made
