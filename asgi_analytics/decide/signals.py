"""All signals in one table, evaluated one by one and all of them; the raised ones add up to the score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..facts import Actor, Finding, Program
from .behaviour import load_page
from .conduct import CONDUCT_SIGNALS
from .pages import PAGE_SIGNALS
from .signal import MAX_QUIET, Rule, Signal, with_a_session
from .site import Site

__all__ = [
    "SIGNALS",
    "FirstLoadRules",
    "Rule",
    "Signal",
    "evaluate",
    "first_load_rules",
    "quiet_steps",
    "refresh",
    "rules",
]

SIGNALS = (*PAGE_SIGNALS, *CONDUCT_SIGNALS)


def rules(
    points: Mapping[str, int], thresholds: Mapping[str, float], further: tuple[Signal, ...] = ()
) -> tuple[Rule, ...]:
    """Return the signals that are worth points; `further`: those of the site's own."""
    known = [(signal, points[signal.code], thresholds[signal.code]) for signal in SIGNALS]
    known += [(signal, signal.points, signal.threshold) for signal in further]
    return tuple(
        Rule(signal, signal.measure, 1 << place, worth, float(threshold), signal.below)
        for place, (signal, worth, threshold) in enumerate(known)
        if worth > 0
    )


class FirstLoadRules(NamedTuple):
    """What the first page load of a session is judged by, where nothing but it has happened yet."""

    rules: tuple[Rule, ...]  # those that it can raise
    quiet: int  # `quiet_steps` of the others


def first_load_rules(active: tuple[Rule, ...], site_pages: int) -> FirstLoadRules:
    """Return what of `active` the first page load of a session can raise: nearly all visitors have one, many no other.

    The bounds of the others hold for any site: the fewer pages it has, the sooner a visitor covers it.
    """
    site, visitors = Site(), [Actor([], program=program) for program in Program]
    for visitor in visitors:
        load_page(visitor.behaviour, "/", False, site, 0.0)
    due: list[Rule] = []
    quiet = float(MAX_QUIET)
    for rule in active:
        steps = min(rule.signal.quiet(one, site, site_pages, 0.0, rule.threshold) for one in visitors)
        if rule.signal.quiet is with_a_session or steps < 1.0:
            due.append(rule)
        quiet = min(quiet, steps)
    return FirstLoadRules(tuple(due), max(0, int(quiet)))


def evaluate(visitor: Actor, active: tuple[Rule, ...], site: Site, site_pages: int, now: float) -> None:
    """Raise what is to be raised. A raised signal and its points stay until the session ends."""
    facts = visitor.behaviour
    raised = facts.raised
    for rule in active:
        if not raised & rule.bit:
            value = rule.measure(visitor, site, site_pages, now)
            if value is not None and (value < rule.threshold if rule.below else value > rule.threshold):
                facts.raised |= rule.bit
                visitor.signals += (_finding(rule, value, visitor, now),)
                visitor.score += rule.points


def quiet_steps(visitor: Actor, active: tuple[Rule, ...], site: Site, site_pages: int, now: float) -> int:
    """Return for how many steps between pages no further signal can be raised; at most MAX_QUIET."""
    raised, quiet = visitor.behaviour.raised, float(MAX_QUIET)
    for rule in active:
        if not raised & rule.bit:
            steps = rule.signal.quiet(visitor, site, site_pages, now, rule.threshold)
            if steps < quiet:
                quiet = steps
    return int(quiet) if quiet > 0.0 else 0


def refresh(visitor: Actor, active: tuple[Rule, ...], site: Site, site_pages: int, now: float) -> None:
    """Measure the raised signals again, so that reasons show the present value; a lower one keeps the old value."""
    findings = {finding.signal: finding for finding in visitor.signals}
    for rule in active:
        old = findings.get(rule.signal.code)
        value = rule.measure(visitor, site, site_pages, now) if old else None
        if old and value is not None and (value < old.value if rule.below else value > old.value):
            findings[old.signal] = _finding(rule, value, visitor, now)
    visitor.signals = tuple(findings.values())


def _finding(rule: Rule, value: float, visitor: Actor, now: float) -> Finding:
    signal = rule.signal
    people = round(signal.people(visitor.behaviour, now))
    each = f" for each of about {people} people" if people > 1 else ""
    what = signal.what(visitor) if signal.what is not None else ""
    text = signal.sentence.format(value=value, limit=rule.threshold, each=each, what=what)
    return Finding(rule.signal.code, rule.points, value, rule.threshold, text, rule.below)
