"""The instances that the embedded registry knows, their checks, and the index that blocking queries wait for.

There is one index; every change adds one. For each service it remembers the index of the last change, so that a query
about one service sleeps through the changes of others. Nothing is written to disk.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ..entry import Status
from ..payload import worst_status
from .checks import Check
from .definition import CheckDefinition, Refused, ServiceDefinition

MAX_INSTANCES = 4096
MAX_WAITING = 1024


@dataclass(slots=True)
class Instance:
    definition: ServiceDefinition
    created_at: int  # index
    changed_at: int  # index
    checks: dict[str, Check] = field(default_factory=dict)

    @property
    def status(self) -> Status:
        return worst_status(check.status for check in self.checks.values())


class Catalog:
    """All instances by id. To be used on one event loop; it runs the checks of its instances."""

    def __init__(self) -> None:
        self.instances: dict[str, Instance] = {}
        self._index = 1
        self._services_at = 1  # the last change of names or tags
        self._changed_at: dict[str, int] = {}  # by service that has instances
        self._emptied_at = 1  # the last change of any service that has none any more
        self._changed = asyncio.Event()
        self._waiting = 0
        self._released = False
        self._ending: set[asyncio.Task[None]] = set()  # tasks of stopped checks

    def release(self) -> None:
        """Let all waiting queries go, and those that come later not wait."""
        self._released = True
        self._changed.set()

    async def aclose(self) -> None:
        """Stop all checks."""
        for instance in self.instances.values():
            for check in instance.checks.values():
                self._stop(check)
        await asyncio.gather(*self._ending, return_exceptions=True)

    # What changes it.

    def register(self, definition: ServiceDefinition, checks: Iterable[CheckDefinition], replace_checks: bool) -> None:
        """Add an instance or replace the one with the same id; checks that it had keep their status.

        Raises:
            Refused: there is no room.
        """
        old = self.instances.get(definition.id)
        if old is None and len(self.instances) >= MAX_INSTANCES:
            raise Refused(500, f"the embedded registry holds {MAX_INSTANCES} instances at most")
        if old is not None and old.definition.name != definition.name:
            self.deregister(definition.id)
            old = None
        instance = old or Instance(definition, self._index + 1, self._index + 1)
        self.instances[definition.id] = instance
        if old is None or old.definition != definition:
            instance.definition = definition
            self._services_at = self._touch(instance)
        wanted = {check.check_id: check for check in checks}
        for check_id in tuple(instance.checks):
            if replace_checks and check_id not in wanted:
                self.remove_check(instance, check_id)
        for check in wanted.values():
            self.add_check(instance, check)

    def add_check(self, instance: Instance, definition: CheckDefinition) -> None:
        entry_id = instance.definition.id
        old = instance.checks.get(definition.check_id)
        if old is not None and old.definition == definition and not definition.ttl_s:
            return
        new = Check(definition, lambda: self._on_status(entry_id), lambda: self.deregister(entry_id))
        instance.checks[definition.check_id] = new
        if old is not None:
            self._stop(old)
            new.adopt(old)
        if old is None or old.definition != definition:
            self._touch(instance)

    def remove_check(self, instance: Instance, check_id: str) -> None:
        if check_id in instance.checks:
            self._stop(instance.checks.pop(check_id))
            self._touch(instance)

    def deregister(self, entry_id: str) -> bool:
        """Remove an instance; False if there is none."""
        instance = self.instances.pop(entry_id, None)
        if instance is None:
            return False
        for check in instance.checks.values():
            self._stop(check)
        name = instance.definition.name
        self._services_at = self._touch(instance)
        if all(other.definition.name != name for other in self.instances.values()):
            self._emptied_at = self._changed_at.pop(name)
        return True

    def find_check(self, check_id: str) -> Check | None:
        return next(
            (instance.checks[check_id] for instance in self.instances.values() if check_id in instance.checks), None
        )

    def _stop(self, check: Check) -> None:
        task = check.stop()
        if task is not None:
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def _on_status(self, entry_id: str) -> None:
        self._touch(self.instances[entry_id])

    def _touch(self, instance: Instance) -> int:
        self._index += 1
        instance.changed_at = self._changed_at[instance.definition.name] = self._index
        self._changed.set()
        self._changed = asyncio.Event()
        return self._index

    # What asks it.

    def of_service(self, name: str) -> list[Instance]:
        return [instance for instance in self.instances.values() if instance.definition.name == name]

    def services(self) -> dict[str, list[str]]:
        """Names of services and all their instances' tags."""
        found: dict[str, dict[str, None]] = {}
        for instance in self.instances.values():
            found.setdefault(instance.definition.name, {}).update(dict.fromkeys(instance.definition.tags))
        return {name: list(tags) for name, tags in found.items()}

    def index(self) -> int:
        return self._index

    def services_index(self) -> int:
        return self._services_at

    def service_index(self, name: str) -> int:
        return self._changed_at.get(name, self._emptied_at)

    async def wait(self, index_now: Callable[[], int], index: int, wait_s: float) -> None:
        """Return when `index_now` is beyond `index`, or after `wait_s`.

        Raises:
            Refused: too many are waiting.
        """
        if index > self._index:
            return  # it was given in an earlier life, which this catalog remembers nothing of
        if self._waiting >= MAX_WAITING:
            raise Refused(429, f"the embedded registry holds {MAX_WAITING} blocking queries at most")
        self._waiting += 1
        try:
            async with asyncio.timeout(wait_s):
                while index_now() <= index and not self._released:
                    await self._changed.wait()
        except TimeoutError:
            pass
        finally:
            self._waiting -= 1
