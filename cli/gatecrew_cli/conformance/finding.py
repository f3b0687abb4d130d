"""What a check can come to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .kit import Kit

Outcome = Literal["ok", "FAIL", "skip"]


class Broken(Exception):
    """The worker does not keep the contract; the text is one line that says in what."""


class Skipped(Exception):
    """The check can't be made with this worker; the text says why."""


@dataclass(frozen=True)
class Check:
    """`needs` are commands of the reference worker, which is what the check talks to. One that is `timed` may fail with
    a good worker on a busy machine, so it is made again before it counts.
    """

    name: str
    title: str
    run: Callable[[Kit], Awaitable[None]]
    needs: tuple[int, ...] = ()
    timed: bool = False


@dataclass(frozen=True)
class Finding:
    check: Check
    outcome: Outcome
    detail: str
    seconds: float


class Checks:
    """A list of checks that grows by decorating them."""

    def __init__(self) -> None:
        self.all: list[Check] = []

    def check(
        self, *needs: int, timed: bool = False
    ) -> Callable[[Callable[[Kit], Awaitable[None]]], Callable[[Kit], Awaitable[None]]]:
        """Its name is the function's, its title the first line of the docstring."""

        def add(run: Callable[[Kit], Awaitable[None]]) -> Callable[[Kit], Awaitable[None]]:
            assert run.__doc__ is not None
            title = run.__doc__.strip().splitlines()[0].rstrip(".")
            self.all.append(Check(run.__name__.replace("_", "-"), title, run, needs, timed))
            return run

        return add


def expect(true: bool, broken: str) -> None:
    """Raises:
    Broken: with this text, if it is not true.
    """
    if not true:
        raise Broken(broken)
