"""Variables that look like ours and say nothing: a setting written without its section, a misspelt option."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches

from .heartbeat import VARIABLE as HEARTBEAT

PREFIX = "GATECREW_"

# Of click's options, all commands together; a test keeps them equal.
OPTIONS = frozenset(
    f"{PREFIX}{name}"
    for name in (
        "GATEWAY",
        "LOG_FORMAT",
        "LOG_JSON",
        "LOG_LEVEL",
        "LOOP",
        "TLS_CA",
        "TLS_CERT",
        "TLS_KEY",
        "UNRESPONSIVE_AFTER",
    )
)
# Kubernetes sets the last two kinds for a service `gatecrew`. The others are of the compose file, the client in the
# docs, and the tests.
_NOT_FOR_US = re.compile(
    PREFIX + r"(CONSUL_PORT|ADDRESS|SEED|SCREENSHOT|REQUIRE_\w+|(\w+_)?PORT(_\w+)?|(\w+_)?SERVICE_(HOST|PORT)(_\w+)?)"
)


def unknown(environment: Mapping[str, str], sections: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """A line for each variable that is no setting and no option. Those with a section are the settings' own to judge.

    Args:
        sections: keys of each section; those of "" are the sections.
    """
    options = {name.removeprefix(PREFIX): name for name in OPTIONS}
    # A list's tables are JSON as a whole, so only these have variables for their keys.
    settings = {
        key.upper(): f"{PREFIX}{section}__{key}".upper()
        for section in ("registry", "gateway")
        for key in sections[section]
    }
    known = OPTIONS | {f"{PREFIX}{section}".upper() for section in sections[""]} | {HEARTBEAT}
    meant = {**settings, **options}
    for name in sorted(environment):
        if not name.startswith(PREFIX) or "__" in name or name in known or _NOT_FOR_US.fullmatch(name):
            continue
        near = get_close_matches(name.removeprefix(PREFIX), meant, 1)
        hint = f"did you mean {meant[near[0]]}?" if near else "no setting and no option has this name"
        yield f"environment: {name}: unknown; {hint}"
