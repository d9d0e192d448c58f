"""Which test shows which case."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A fault, what must hold, and the tests that show it."""

    id: str
    promise: str
    what: str
    tests: tuple[str, ...] = ()
    reason: str = ""
    long: bool = False


CASES: tuple[Case, ...] = ()
