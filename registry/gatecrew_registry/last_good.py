"""What is believed of the registry's answers: additions at once, losses only when they are plausible.

Pure: no clock, no I/O. The rule, for each instance that an answer no longer lists:

- It leaves after `settle_s`, so that losses of the same moment are judged together.
- It leaves only after `grace_s` if the service, or the whole registry, lost more than one instance and more than half
  of them, new instances counted against the lost ones; or if the answer is doubtful: the first one after an outage, or
  one whose index went backwards, as after a restart that forgot everything.
- An instance that is listed again meanwhile never left. The same id at a new address or incarnation is no loss.

One that leaves after `settle_s` is *deregistered*: somebody meant it. Of one that leaves after `grace_s` nobody knows.

So one orderly deregistration is seen at once, and a registry that turned empty costs nobody its service. An entry kept
too long harms little: whether a worker is alive is for its link to say.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from .entry import Entry
from .snapshot import Snapshot

MAX_DEREGISTERED = 4096  # ids that are remembered


@dataclass(slots=True)
class _Loss:
    noticed_at: float
    doubtful: bool


class LastKnownGood:
    """The believed instances by service, from answers about single services and about which services there are."""

    def __init__(self, settle_s: float, grace_s: float) -> None:
        self._settle_s = settle_s
        self._grace_s = grace_s
        self._listed: dict[str, dict[str, Entry]] = {}  # as the registry said last
        self._believed: dict[str, dict[str, Entry]] = {}  # the same and what it lost too recently
        self._losses: dict[tuple[str, str], _Loss] = {}  # (service, id) that are believed but not listed
        self._deregistered: dict[str, None] = {}  # ids, oldest first

    def hear(self, service: str, instances: Mapping[str, Entry], now: float, doubtful: bool) -> None:
        """Take in the registry's answer about one service; none at all when it no longer lists the service."""
        self._listed[service] = dict(instances)
        believed = self._believed.setdefault(service, {})
        believed.update(instances)
        for entry_id in instances:
            self._losses.pop((service, entry_id), None)
            self._deregistered.pop(entry_id, None)
        for entry_id in believed.keys() - instances.keys():
            loss = self._losses.setdefault((service, entry_id), _Loss(now, doubtful))
            loss.doubtful |= doubtful

    def judge(self, now: float) -> float | None:
        """Let go of what is lost beyond doubt; return when to judge again, None when nothing is lost."""
        gone = {service: len(known) - len(self._listed[service]) for service, known in self._believed.items()}
        everywhere = _is_panic(
            sum(max(0, lost) for lost in gone.values()), sum(len(known) for known in self._believed.values())
        )
        panic = {service for service, known in self._believed.items() if _is_panic(gone[service], len(known))}
        again_at: float | None = None
        for (service, entry_id), loss in tuple(self._losses.items()):
            held = everywhere or loss.doubtful or service in panic
            leaves_at = loss.noticed_at + (self._grace_s if held else self._settle_s)
            if leaves_at > now:
                again_at = leaves_at if again_at is None else min(again_at, leaves_at)
                continue
            del self._losses[service, entry_id]
            del self._believed[service][entry_id]
            if not held:
                self._deregistered[entry_id] = None
                if len(self._deregistered) > MAX_DEREGISTERED:
                    del self._deregistered[next(iter(self._deregistered))]
        for service in [name for name, known in self._believed.items() if not known]:
            del self._believed[service], self._listed[service]
        return again_at

    def snapshot(self) -> Snapshot:
        """The believed instances in order of their ids; services without any are left out."""
        instances = {
            service: tuple(known[entry_id] for entry_id in sorted(known))
            for service, known in sorted(self._believed.items())
            if known
        }
        return Snapshot(instances, frozenset(self._deregistered))


def _is_panic(lost: int, known: int) -> bool:
    return lost > 1 and lost * 2 > known
