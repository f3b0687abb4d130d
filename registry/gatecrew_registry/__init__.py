"""Who is there: register, watch, last known good.

The embedded registry is a server of its own, `gatecrew_registry.embedded`, and is not imported here.
"""

from .entry import Entry, NoAnswer, RegistryError
from .registration import Registration
from .registry import Registry
from .settings import RegistrySettings
from .snapshot import Snapshot
from .watch import Timing

__all__ = ["Entry", "NoAnswer", "Registration", "Registry", "RegistryError", "RegistrySettings", "Snapshot", "Timing"]
