"""What a watch tells: the instances of each service, and who has left for good."""

from collections.abc import Iterator, Mapping

from .entry import Entry


class Snapshot(Mapping[str, tuple[Entry, ...]]):
    """The instances by service, as believed; read only.

    Attributes:
        deregistered: ids that the registry no longer lists, beyond doubt: it answered well and lost few. One that
            left while its answers were doubtful is neither listed nor here. Only the latest few thousand are kept.
    """

    __slots__ = ("_instances", "deregistered")

    def __init__(self, instances: Mapping[str, tuple[Entry, ...]], deregistered: frozenset[str] = frozenset()) -> None:
        self._instances = dict(instances)
        self.deregistered = deregistered

    def __getitem__(self, service: str) -> tuple[Entry, ...]:
        return self._instances[service]

    def __iter__(self) -> Iterator[str]:
        return iter(self._instances)

    def __len__(self) -> int:
        return len(self._instances)
