"""Hosts on one machine: network namespaces at a switch, and the arrows between them, which can be cut one by one.

The switch is a bridge in a namespace of its own, so that no firewall of the machine has a say. The tests themselves are
at it too, as one more host whose arrows nobody cuts.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence

import pytest

Arrow = tuple["Host", "Host"]  # packets from the first to the second


def require_hosts() -> None:
    """Skips the test where no hosts can be made, or fails it where GATECREW_REQUIRE_NETNS=1 says so."""
    reason = _missing()
    if not reason:
        return
    line = f"NO HOSTS, so no network is cut: {reason}"
    if os.environ.get("GATECREW_REQUIRE_NETNS") == "1":
        pytest.fail(line, pytrace=False)
    pytest.skip(line)


def _missing() -> str:
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    if not (shutil.which("ip") and shutil.which("iptables")):
        return "it takes ip and iptables, Debian's packages iproute2 and iptables"
    try:
        network = Network()
        try:
            with cut((network.add("a"), network.add("b")), proved=False):
                pass
        finally:
            network.close()
    except CommandError as error:
        return str(error)
    return ""


class CommandError(Exception):
    pass


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise CommandError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Host:
    """Has one address, and its own loopback."""

    def __init__(self, name: str, namespace: str, address: str) -> None:
        self.name = name
        self.namespace = namespace
        self.address = address

    def command(self, command: Sequence[str]) -> list[str]:
        """The same command, run on this host."""
        return ["ip", "netns", "exec", self.namespace, *command]

    def firewall(self, *arguments: str) -> str:
        return run(*self.command(("iptables", "-w", *arguments)))

    def __repr__(self) -> str:
        return self.name


class Network:
    """All hosts of one test run; no name and no address is another run's."""

    def __init__(self) -> None:
        self._tag = secrets.token_hex(3)
        self._subnet = _free_subnet()
        self._count = 1
        self._namespaces: list[str] = []
        self._switch = self._named("switch")
        self._own_link = f"gc{self._tag}"
        try:
            self._make("switch")
            run("ip", "-n", self._switch, "link", "add", "switch", "type", "bridge")
            run("ip", "-n", self._switch, "link", "set", "switch", "up")
            self._plug("tests", self._own_link, str(os.getpid()))
            run("ip", "address", "add", f"{self._subnet}.1/24", "dev", self._own_link)
            run("ip", "link", "set", self._own_link, "up")
        except BaseException:
            self.close()
            raise

    def add(self, name: str) -> Host:
        """One more host."""
        self._count += 1
        host = Host(name, self._make(name), f"{self._subnet}.{self._count}")
        self._plug(name, "eth0", host.namespace)
        run("ip", "-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
        run("ip", "-n", host.namespace, "link", "set", "eth0", "up")
        return host

    def _named(self, name: str) -> str:
        return f"gatecrew-{self._tag}-{name}"

    def _make(self, name: str) -> str:
        namespace = self._named(name)
        run("ip", "netns", "add", namespace)
        self._namespaces.append(namespace)
        run("ip", "-n", namespace, "link", "set", "lo", "up")
        return namespace

    def _plug(self, port: str, link: str, where: str) -> None:
        run("ip", "-n", self._switch, "link", "add", "name", port, "type", "veth", "peer", "name", link, "netns", where)
        run("ip", "-n", self._switch, "link", "set", "dev", port, "master", "switch", "up")

    def close(self) -> None:
        """Everything goes, and whatever still runs on a host."""
        for namespace in reversed(self._namespaces):
            with contextlib.suppress(CommandError):
                for pid in run("ip", "netns", "pids", namespace).split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
        with contextlib.suppress(CommandError):  # a namespace, and so its links, may outlive its name by a moment
            run("ip", "-n", self._switch, "link", "del", "tests")
        for namespace in reversed(self._namespaces):
            run("ip", "netns", "del", namespace)
        self._namespaces.clear()


def _free_subnet() -> str:
    """The first three numbers of one that this machine has no address in, of those that are for tests (RFC 2544)."""
    taken = run("ip", "-4", "-o", "address")
    subnets = [f"198.{second}.{third}" for second in (18, 19) for third in range(256)]
    return random.SystemRandom().choice([each for each in subnets if f" {each}." not in taken])


def both(one: Host, other: Host) -> tuple[Arrow, Arrow]:
    """Both directions."""
    return (one, other), (other, one)


@contextlib.contextmanager
def cut(*arrows: Arrow, proved: bool = True) -> Iterator[None]:
    """Nothing arrives along these arrows, and nobody is told, as when a cable is pulled; healed at the end.

    Raises:
        AssertionError: nothing was lost along one of them, so the test has proved nothing.
    """
    done: list[Arrow] = []
    try:
        for arrow in arrows:
            source, target = arrow
            target.firewall("-A", "INPUT", "-s", source.address, "-j", "DROP")
            done.append(arrow)
        yield
        for source, target in arrows if proved else ():
            assert _lost(source, target), f"nothing was sent from {source} to {target} while that was cut"
    finally:
        for source, target in done:
            target.firewall("-D", "INPUT", "-s", source.address, "-j", "DROP")


def _lost(source: Host, target: Host) -> int:
    """Packets so far."""
    rows = [line.split() for line in target.firewall("-nvxL", "INPUT").splitlines()]
    return sum(int(row[0]) for row in rows if len(row) > 7 and row[7] == source.address)
