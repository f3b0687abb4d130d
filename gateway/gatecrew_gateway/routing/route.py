"""Command to service, and how its packets travel."""

from collections.abc import Callable, Iterable

from ..config import RouteConfig, parse_commands
from .pool import Pool

FAST_S = 0.002  # from writing to answer: then messages are what costs
BATCH_S = 0.1  # that a batch of fast requests may take, were they run one after the other
TICK_S = 1e-6  # of a clock: nothing takes less
SLOW_S = 0.02  # handlers that take longer are slow: a gRPC message is nothing against them
AGING = 0.001  # share by which the least time of a command follows what it takes now


class Route:
    """How the packets of one command travel, and how long its handlers take as far as the pool has seen."""

    __slots__ = (
        "alone",
        "batch",
        "crowded",
        "free",
        "joins",
        "least_s",
        "notify_resend",
        "pool",
        "resend",
        "slow",
        "timeout_s",
    )

    def __init__(self, pool: Pool, config: RouteConfig) -> None:
        self.pool = pool
        self.alone = config.order == "strict"  # one in flight in its lane
        self.free = config.order == "none"  # every packet a lane of its own
        self.resend = config.delivery == "at-least-once"
        self.notify_resend = config.notify_delivery == "at-least-once"
        self.least_s: float | None = None  # from writing to answer
        self.crowded = False  # many of its requests take long, whatever the quickest took
        self.batch = 0  # lanes that may go to one worker at once although others are idle: a message costs more
        self.slow = True  # its handlers are, or may be: nobody has seen one yet
        self.joins = False  # a packet may always go where its lane has others open
        self.timeout_s = config.deadline_ms / 1000
        pool.longest_s = max(pool.longest_s, self.timeout_s)

    def took(self, seconds: float) -> None:
        """From writing to answer, of one request. The least counts: the rest is time in queues."""
        if self.least_s is None or seconds < self.least_s:
            self.least_s = seconds
        elif self.least_s < self.timeout_s / 4:
            # It may have become slower for good. Above a quarter of the deadline we would follow our own queue.
            self.least_s += (seconds - self.least_s) * AGING
        self._classify()

    def crowd(self, crowded: bool) -> None:
        """Whether many of its requests have been with workers for long: how long may depend on the body."""
        if crowded is not self.crowded:
            self.crowded = crowded
            self._classify()

    def _classify(self) -> None:
        least_s = self.least_s
        self.slow = self.crowded or least_s is None or least_s > SLOW_S
        self.joins = not (self.alone or self.slow)
        self.batch = 0 if self.crowded or least_s is None or least_s > FAST_S else int(BATCH_S / max(least_s, TICK_S))


class RouteTable:
    """Finds the route of a command: the first [[route]] that names it, else the service whose workers publish it, else
    the service whose workers take every command. Answers are kept until `forget`, which whoever changes a pool's
    commands must call.
    """

    def __init__(self, configs: Iterable[RouteConfig], pools: dict[str, Pool], pool_for: Callable[[str], Pool]) -> None:
        self._configs = [(parse_commands(config.commands), config) for config in configs]
        self._pools = pools
        self._pool_for = pool_for
        self._default = RouteConfig()
        self.known: dict[int, Route] = {}

    def forget(self) -> None:
        self.known.clear()

    def resolve(self, command: int) -> Route | None:
        """None: nobody serves it."""
        config = next((c for commands, c in self._configs if commands is None or command in commands), self._default)
        pool = self._pool_for(config.service) if config.service else self._published(command)
        if pool is None:
            return None
        route = self.known[command] = Route(pool, config)
        return route

    def _published(self, command: int) -> Pool | None:
        takes_all = None
        for name in sorted(self._pools):
            pool = self._pools[name]
            if pool.commands is None:
                takes_all = takes_all or pool
            elif command in pool.commands:
                return pool
        return takes_all
