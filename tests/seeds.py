"""Chance that can be repeated: the seed of a run is printed, and GATECREW_SEED sets it."""

import os
import random

SEED = int(os.environ.get("GATECREW_SEED") or random.SystemRandom().randrange(1 << 32))
os.environ["GATECREW_SEED"] = str(SEED)  # for the processes that run tests side by side


def chance_of(test: str) -> random.Random:
    """The same for a test's name and the run's seed, whatever else runs."""
    return random.Random(f"{SEED} {test}")
