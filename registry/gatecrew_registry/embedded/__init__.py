"""The embedded registry: one process that answers the part of Consul's HTTP API that Gatecrew and most clients use.

For one machine, for tests and for a first try. What it does not have: a cluster, access control, a key-value store,
filter expressions, checks other than gRPC and TTL, and a memory that outlives the process.
"""

from .server import EmbeddedRegistry

__all__ = ["EmbeddedRegistry"]
