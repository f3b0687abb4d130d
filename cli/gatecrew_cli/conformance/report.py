"""How it went, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..terminal import visible
from .finding import Finding
from .kit import Kit


def subject(kit: Kit) -> str:
    """One line about the worker."""
    if kit.flavour == "handle":
        return f"{kit.address}: a worker that serves Handle"
    hello = kit.hello
    commands = f"{len(hello.commands)} commands" if hello.commands else "every command"
    return visible(f"{kit.address}: {hello.service} {hello.version}".rstrip()) + f", serves Link, {commands}"


def line(finding: Finding) -> str:
    text = f"{finding.outcome:<5}{finding.check.name:<22}{finding.check.title}"
    return f"{text}\n{'':5}{'':22}-> {visible(finding.detail, keep_lines=True)}" if finding.detail else text


def summary(findings: Sequence[Finding]) -> str:
    counts = {outcome: sum(finding.outcome == outcome for finding in findings) for outcome in ("ok", "FAIL", "skip")}
    verdict = "does not keep the contract" if counts["FAIL"] else "keeps the contract"
    return f"{verdict}: {counts['ok']} checks passed, {counts['FAIL']} failed, {counts['skip']} skipped"


def as_json(kit: Kit, findings: Sequence[Finding]) -> str:
    return json.dumps(
        {
            "address": kit.address,
            "flavour": kit.flavour,
            "service": kit.hello.service,
            "passed": not any(finding.outcome == "FAIL" for finding in findings),
            "checks": [
                {
                    "name": finding.check.name,
                    "title": finding.check.title,
                    "outcome": finding.outcome.lower(),
                    "detail": finding.detail,
                    "seconds": round(finding.seconds, 3),
                }
                for finding in findings
            ],
        },
        indent=1,
    )
