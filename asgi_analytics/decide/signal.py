"""What a signal is: a function that measures and a row that names it.

A row may also tell for how many steps a signal cannot be raised whatever the visitor does, so that most page loads are
judged by one comparison (`signals.quiet_steps`). Without, it is measured at each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import TypeVar

from ..facts import Actor, Behaviour
from .site import Site

MAX_QUIET = 64  # steps
Found = TypeVar("Found")
Failed = Callable[[str, Exception], None]  # where, and the error

# visitor, site, the site's configured number of pages (0: learned), now → value, or None where it cannot be told
Measure = Callable[[Actor, Site, int, float], float | None]
# the same and the threshold → steps between pages for which the value cannot cross it; may be negative
Quiet = Callable[[Actor, Site, int, float, float], float]
People = Callable[[Behaviour, float], float]  # facts, now → how many a value is divided by


def at_once(visitor: Actor, site: Site, site_pages: int, now: float, threshold: float) -> float:
    """Return 0.0: of a signal that any page load may raise."""
    return 0.0


def with_a_session(visitor: Actor, site: Site, site_pages: int, now: float, threshold: float) -> float:
    """Return infinity: of a signal that no page load raises, but the beginning of a session, or other conduct."""
    return inf


def browsing(facts: Behaviour, now: float) -> float:
    """Return how many people look alike and browse at once."""
    return facts.people


@dataclass(frozen=True, slots=True)
class Signal:
    """A row of the table: raised when the value is above its threshold, or `below` it."""

    code: str
    measure: Measure
    sentence: str  # of value, limit, what, and each (" for each of about 3 people" or nothing)
    below: bool = False
    quiet: Quiet = at_once
    of_people: bool = True  # about how people browse: says nothing about a program that says it is one
    points: int = 0  # of a signal of your own; those of this package are in the settings
    threshold: float = 0.0  # likewise
    what: Callable[[Actor], str] | None = None  # fills {what}
    people: People = browsing  # fills {each}


def guarded(signal: Signal, failed: Failed) -> Signal:
    """Return a signal of the site's own so that an error in it is told to `failed` and costs nothing but its value."""

    def guard(function: Callable[..., Found], instead: Found) -> Callable[..., Found]:
        def call(*arguments: object) -> Found:
            try:
                return function(*arguments)
            except Exception as error:  # noqa: BLE001 - the other signals hold
                failed(f"signal {signal.code}", error)
                return instead

        return call

    def measure(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
        value = signal.measure(visitor, site, site_pages, now)
        return None if value is None else float(value)

    return replace(
        signal,
        measure=guard(measure, None),
        quiet=guard(signal.quiet, 0.0),
        what=None if signal.what is None else guard(signal.what, ""),
    )


@dataclass(frozen=True, slots=True)
class Rule:
    """A signal that is switched on, with its points and its threshold."""

    signal: Signal
    measure: Measure
    bit: int  # in Behaviour.raised
    points: int
    threshold: float
    below: bool
