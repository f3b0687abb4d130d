"""All that a gateway can be told, with its defaults and units. Plain data: loading it is the command line's job.

`commands` of a route are written as people write them: ``"1-20,35"``, or ``"*"`` for all.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

MAX_PACKET = 1 << 20  # bytes; no listener may allow more, so that a batch stays under gRPC's 4 MiB
LEAST_MEMORY = 1 << 20  # bytes
PACKET_OVERHEAD = 8  # bytes of a packet that `length` counts besides the body

Order = Literal["session", "none", "strict"]
Delivery = Literal["at-least-once", "at-most-once"]


class ConfigError(ValueError):
    """A setting that can't be meant; the text says which, and what it may be.

    `key` and `problem` are the same in parts, for whoever knows which file or flag the setting came from.
    """

    def __init__(self, where: str, key: str, problem: str) -> None:
        super().__init__(f"{where}: {key}: {problem}" if key else f"{where}: {problem}")
        self.key = key
        self.problem = problem


def parse_commands(text: str) -> frozenset[int] | None:
    """Read ``"1-20,35"``; None stands for ``"*"``, every command.

    Raises:
        ConfigError: not a list of numbers and ranges between 0 and 65535.
    """
    if text.strip() == "*":
        return None
    commands: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ConfigError(
                "route", "commands", f"{text!r}, {part.strip()!r} is neither a number nor a range like 1-20"
            )
        low, high = (int(each) if len(each) < 9 else 0x10000 for each in (first, last or first))
        if low > high or high > 0xFFFF:
            raise ConfigError("route", "commands", f"{text!r}, {part.strip()!r} must rise and stay within 0-65535")
        commands.update(range(low, high + 1))
    return frozenset(commands)


def parse_size(size: int | str, name: str = "memory_limit") -> int:
    """Bytes from a number, or from a text such as ``"256MiB"`` (KiB, MiB, GiB; 1024 each).

    Raises:
        ConfigError: neither.
    """
    text = str(size).strip()
    for power, unit in enumerate(("KiB", "MiB", "GiB"), start=1):
        if text.endswith(unit) and text.removesuffix(unit).strip().isdecimal():
            return int(text.removesuffix(unit)) << 10 * power
    if not text.isdecimal():
        raise ConfigError("gateway", name, f"{size!r}, must be bytes, or such as 256MiB")
    return int(text)


def _check(where: str, name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(where, name, f"{value}, must be from {low} to {high}")


def check_host(where: str, key: str, host: str) -> None:
    """Raises:
    ConfigError: no name server would be asked for it.
    """
    try:
        good = bool(host.encode("idna")) and not any(character.isspace() or character == "\0" for character in host)
    except UnicodeError:
        good = False
    if not good:
        raise ConfigError(where, key, f"{host!r}, must be a host name or an address, such as 127.0.0.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerConfig:
    """One listening port."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: str = "main"
    host: str = "127.0.0.1"
    port: int = 7000  # 0: any free one
    max_packet: int = 64 * 1024  # bytes that a packet's length field may state
    max_sessions: int = 10_000
    max_sessions_per_address: int = 0  # of one client address; an IPv6 one counts with its /64. 0: no such limit
    max_accepts_per_s: int = 5000  # new connections; those above it wait
    max_in_flight: int = 64  # unanswered packets of one session; above it the socket is not read
    max_unsent: int = 1 << 20  # bytes unread; more for too long, or 4 times this at a push, and the client is cut
    unsent_timeout_s: float = 10.0  # a client that does not catch up with its replies and pushes for so long is cut
    packet_timeout_s: float = 5.0  # from the first byte of a packet to its last
    first_packet_timeout_s: float = 10.0  # a new client is sent a ping after half of it; any packet will do. 0: off
    idle_timeout_s: float = 120.0  # silence of a client; it is sent a ping after half of it. 0: off
    max_pings_per_s: int = 100  # pings and pongs of one session; above it it is not read, after 2 s cut. 0: no limit

    def __post_init__(self) -> None:
        where = f"listener {self.name!r}"
        check_host(where, "host", self.host)
        _check(where, "port", self.port, 0, 65535)
        _check(where, "max_packet", self.max_packet, PACKET_OVERHEAD, MAX_PACKET)
        _check(where, "max_sessions", self.max_sessions, 1, 1_000_000)
        _check(where, "max_in_flight", self.max_in_flight, 1, 4096)
        _check(where, "max_unsent", self.max_unsent, 1024, 1 << 30)
        _check(where, "unsent_timeout_s", self.unsent_timeout_s, 0.05, 3600)
        _check(where, "packet_timeout_s", self.packet_timeout_s, 0.05, 3600)
        _check(where, "max_sessions_per_address", self.max_sessions_per_address, 0, 1_000_000)
        _check(where, "max_accepts_per_s", self.max_accepts_per_s, 1, 1_000_000)
        _check(where, "first_packet_timeout_s", self.first_packet_timeout_s, 0, 3600)
        _check(where, "idle_timeout_s", self.idle_timeout_s, 0, 86_400)
        _check(where, "max_pings_per_s", self.max_pings_per_s, 0, 1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteConfig:
    """How the packets of some commands travel. Without one, commands go where the workers say they serve them."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    commands: str = "*"
    service: str = ""  # empty: the service whose workers publish the command
    order: Order = "session"
    delivery: Delivery = "at-least-once"  # of requests
    notify_delivery: Delivery = "at-most-once"
    deadline_ms: int = 5000  # one deadline over all attempts

    def __post_init__(self) -> None:
        parse_commands(self.commands)
        _check(f"route {self.commands!r}", "deadline_ms", self.deadline_ms, 10, 60_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """A gateway process."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: str = "gateway"  # for people; the process gets an id of its own from it
    listeners: tuple[ListenerConfig, ...] = (ListenerConfig(),)
    routes: tuple[RouteConfig, ...] = ()
    service_host: str = "127.0.0.1"  # where the Gateway gRPC service listens
    service_port: int = 0
    advertise_host: str = ""  # what other machines reach us by; empty: service_host
    max_sessions: int = 0  # of all listeners; 0: as many as there are file descriptors for
    max_waiting: int = 1000  # packets per service that no worker has a slot for
    max_waiting_bytes: int | str = "64MiB"  # of their bodies
    max_attempts: int = 3
    heartbeat_s: float = 1.0  # at most 1: a worker takes 2 s of silence for a loss
    suspect_after_s: float = 2.0  # silence of a worker, then no new lanes
    lost_after_s: float = 2.5  # silence of a worker, then failover
    quarantine_s: float = 600.0  # so long the like of a packet that took two workers with it reaches nobody; 0: off
    deregistered_grace_s: float = 30.0  # a worker that is deregistered by hand and runs on is drained after that
    memory_limit: int | str = ""  # bytes, or such as "256MiB"; empty: half of what the machine or control group has
    drain_s: float = 10.0  # at most so long from SIGTERM until clients are cut
    # Mutual TLS with workers, paths of PEM files: all three or none.
    worker_ca: str = ""  # who signs the workers' certificates, which have the service as DNS name
    worker_cert: str = ""  # our own, with the DNS name gatecrew-gateway
    worker_key: str = ""

    def __post_init__(self) -> None:
        check_host("gateway", "service_host", self.service_host)
        _check("gateway", "service_port", self.service_port, 0, 65535)
        _check("gateway", "max_sessions", self.max_sessions, 0, 10_000_000)
        _check("gateway", "max_waiting", self.max_waiting, 0, 1_000_000)
        waiting = parse_size(self.max_waiting_bytes, "max_waiting_bytes")
        _check("gateway", "max_waiting_bytes", waiting, MAX_PACKET, 1 << 50)
        _check("gateway", "max_attempts", self.max_attempts, 1, 10)
        _check("gateway", "heartbeat_s", self.heartbeat_s, 0.05, 1)
        _check("gateway", "suspect_after_s", self.suspect_after_s, self.heartbeat_s, 600)
        _check("gateway", "lost_after_s", self.lost_after_s, self.suspect_after_s, 600)
        _check("gateway", "quarantine_s", self.quarantine_s, 0, 86_400)
        _check("gateway", "deregistered_grace_s", self.deregistered_grace_s, 0, 86_400)
        _check("gateway", "memory_limit", parse_size(self.memory_limit or LEAST_MEMORY), LEAST_MEMORY, 1 << 50)
        _check("gateway", "drain_s", self.drain_s, 0, 3600)
        if len({bool(each) for each in (self.worker_ca, self.worker_cert, self.worker_key)}) > 1:
            raise ConfigError("gateway", "worker_ca", "worker_ca, worker_cert and worker_key go together")
        if not self.listeners:
            raise ConfigError("gateway", "", "no listener; give at least one [[listener]]")
        names = [listener.name for listener in self.listeners]
        if len(set(names)) < len(names):
            raise ConfigError("gateway", "", f"listeners need names of their own, got {', '.join(names)}")
        places = [(listener.host, listener.port) for listener in self.listeners if listener.port]
        for place in places:
            if places.count(place) > 1:
                raise ConfigError("gateway", "", f"two listeners on {place[0]}:{place[1]}")
