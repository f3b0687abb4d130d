"""Which of gRPC's two I/O engines a process uses. Must be chosen before grpc is imported."""

import os
from importlib.metadata import version

NEWEST_MEASURED = (1, 85)  # a version that has dropped the older engine prints an error about it


def choose() -> None:
    """Take the older engine, whose completion thread polls by itself: one thread switch less a message. Measured
    with grpcio 1.85, one lone client's round trip falls by a quarter and 50 clients get a fifth more through.

    A GRPC_EXPERIMENTS of the user's own stays as it is.
    """
    major, minor = version("grpcio").split(".")[:2]
    if (int(major), int(minor)) <= NEWEST_MEASURED:
        os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
