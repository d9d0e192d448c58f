"""The seven signals: a function that measures and a row that names it, each. A further signal is one of both.

A row may also tell for how many steps a signal cannot be raised whatever the visitor does, so that most page loads are
judged by one comparison (`quiet_steps`). Without, it is measured at each.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf, sqrt

from ..model import Actor, Behaviour, Finding
from .behaviour import DISTINCT_PAGES, FIVE_MINUTES, GAP_MEMORY, MIN_SITE_PAGES, Site
from .window import estimate

HOUR = 3600.0  # seconds
MIN_STEPS = 12
MIN_GAPS = 5
MOST_QUIET = 64  # steps

# visitor, site, the site's configured number of pages (0: learned), now → value, or None where it cannot be told
Measure = Callable[[Actor, Site, int, float], float | None]
# the same and the threshold → steps between pages for which the value cannot cross it; may be negative
Quiet = Callable[[Actor, Site, int, float, float], float]


def _at_once(visitor: Actor, site: Site, site_pages: int, now: float, threshold: float) -> float:
    return 0.0


def _with_a_session(visitor: Actor, site: Site, site_pages: int, now: float, threshold: float) -> float:
    return inf


@dataclass(frozen=True, slots=True)
class Signal:
    """A row of the table: raised when the value is above its threshold, or `below` it."""

    code: str
    measure: Measure
    sentence: str  # of value, limit and each (" for each of about 3 people" or nothing)
    below: bool = False
    quiet: Quiet = _at_once


@dataclass(frozen=True, slots=True)
class Rule:
    """A signal that is switched on, with its points and its threshold."""

    signal: Signal
    measure: Measure
    bit: int  # in Behaviour.raised
    points: int
    threshold: float
    below: bool


def request_count(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
    """Return the page loads of this session per person."""
    facts = visitor.behaviour
    return facts.page_loads / facts.people


def page_coverage(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
    """Return the per cent of the site's pages that a person loaded; None while the site's size is unknown."""
    facts = visitor.behaviour
    pages = site_pages or site.size(facts.page_loads)
    if not pages:
        return None
    share = DISTINCT_PAGES[facts.distinct_pages] / pages
    return 100.0 * (share if share < 1.0 else 1.0) / facts.people


def sequential_navigation(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
    """Return the per cent of steps that lead to a path sorting after the page before; None below MIN_STEPS."""
    facts = visitor.behaviour
    return 100.0 * facts.ascending / facts.steps if facts.steps >= MIN_STEPS else None


def fingerprint_sessions(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
    """Return the sessions begun within the last hour, whole ones."""
    return estimate(visitor.hour, HOUR, now) // 1.0


def timing_variation(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
    """Return the coefficient of variation of the gaps between page loads; None below MIN_GAPS."""
    facts = visitor.behaviour
    if facts.gaps < MIN_GAPS or facts.gap_mean <= 0.0:
        return None
    return sqrt(facts.gap_variance) / facts.gap_mean


def pages_per_minute(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
    """Return the page loads per minute and person over the last five minutes: a burst of tabs is no pace."""
    facts = visitor.behaviour
    return estimate(facts.five_minutes, FIVE_MINUTES, now) / 5.0 / facts.people


def outdated_browser(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
    """Return 1.0 for a browser below the documented floor."""
    return 1.0 if visitor.outdated else None


def _quiet_count(visitor: Actor, site: Site, site_pages: int, now: float, threshold: float) -> float:
    facts = visitor.behaviour
    return threshold * facts.people - facts.page_loads


def _quiet_coverage(visitor: Actor, site: Site, site_pages: int, now: float, threshold: float) -> float:
    facts = visitor.behaviour
    pages = site_pages or max(len(site.pages), MIN_SITE_PAGES)
    crossing = bisect_right(DISTINCT_PAGES, threshold / 100.0 * pages * facts.people)
    return crossing - 1 - facts.distinct_pages if crossing < len(DISTINCT_PAGES) else inf


def _quiet_order(visitor: Actor, site: Site, site_pages: int, now: float, threshold: float) -> float:
    facts = visitor.behaviour
    if threshold >= 100.0:
        return inf
    return max(
        MIN_STEPS - 1 - facts.steps, (threshold * facts.steps - 100.0 * facts.ascending) / (100.0 - threshold) - 1e-9
    )


def _quiet_timing(visitor: Actor, site: Site, site_pages: int, now: float, threshold: float) -> float:
    """The least that a gap of weight w leaves of the squared coefficient of variation x is (1 - w)x / (1 + wx).

    That is where the gap is (1 + x) times the mean; for y = 1/x it reads (y + w) / (1 - w).
    """
    facts = visitor.behaviour
    gaps = facts.gaps
    if gaps < 2:
        return MIN_GAPS - 1 - gaps
    limit, steps = 1.0 / max(threshold, 1e-9) ** 2, 0
    inverse = facts.gap_mean**2 / facts.gap_variance if facts.gap_variance > 0.0 else inf
    while inverse <= limit * 0.999 and steps < MOST_QUIET:
        gaps, steps = gaps + 1, steps + 1
        weight = 1.0 / min(gaps, GAP_MEMORY)
        inverse = (inverse + weight) / (1.0 - weight)
    return max(MIN_GAPS - 1 - facts.gaps, steps - 1)


def _quiet_pace(visitor: Actor, site: Site, site_pages: int, now: float, threshold: float) -> float:
    facts = visitor.behaviour
    return 5.0 * threshold * facts.people - estimate(facts.five_minutes, FIVE_MINUTES, now) - 1e-9


SIGNALS = (
    Signal(
        "high_request_count",
        request_count,
        "{value:.10g} page loads{each} in this session (limit {limit:g})",
        quiet=_quiet_count,
    ),
    Signal(
        "high_page_coverage",
        page_coverage,
        "{value:.1f} % of the site's pages loaded{each} (limit {limit:g} %)",
        quiet=_quiet_coverage,
    ),
    Signal(
        "sequential_navigation",
        sequential_navigation,
        "{value:.0f} % of the steps between pages lead on in alphabetical or numerical order (limit {limit:g} %)",
        quiet=_quiet_order,
    ),
    Signal(
        "multiple_fingerprint_sessions",
        fingerprint_sessions,
        "{value:.0f} sessions of one fingerprint within an hour (limit {limit:g})",
        quiet=_with_a_session,
    ),
    Signal(
        "regular_timing",
        timing_variation,
        "page loads as regular as a clock's: coefficient of variation {value:.3f} (limit {limit:g})",
        below=True,
        quiet=_quiet_timing,
    ),
    Signal(
        "high_pages_per_minute",
        pages_per_minute,
        "{value:.2f} page loads per minute{each} over five minutes (limit {limit:g})",
        quiet=_quiet_pace,
    ),
    Signal(
        "outdated_browser",
        outdated_browser,
        "an outdated browser (Chrome before 90 or Firefox before 88)",
        quiet=_with_a_session,
    ),
)


def rules(points: Mapping[str, int], thresholds: Mapping[str, float]) -> tuple[Rule, ...]:
    """Return the signals that are worth points."""
    return tuple(
        Rule(signal, signal.measure, 1 << place, points[signal.code], float(thresholds[signal.code]), signal.below)
        for place, signal in enumerate(SIGNALS)
        if points[signal.code] > 0
    )


def evaluate(visitor: Actor, active: tuple[Rule, ...], site: Site, site_pages: int, now: float) -> None:
    """Raise what is to be raised. A raised signal and its points stay until the session ends."""
    facts = visitor.behaviour
    raised = facts.raised
    for rule in active:
        if not raised & rule.bit:
            value = rule.measure(visitor, site, site_pages, now)
            if value is not None and (value < rule.threshold if rule.below else value > rule.threshold):
                facts.raised |= rule.bit
                visitor.signals += (_finding(rule, value, facts),)
                visitor.score += rule.points


def quiet_steps(visitor: Actor, active: tuple[Rule, ...], site: Site, site_pages: int, now: float) -> int:
    """Return for how many steps between pages no further signal can be raised; at most MOST_QUIET."""
    raised, quiet = visitor.behaviour.raised, float(MOST_QUIET)
    for rule in active:
        if not raised & rule.bit:
            steps = rule.signal.quiet(visitor, site, site_pages, now, rule.threshold)
            if steps < quiet:
                quiet = steps
    return int(quiet) if quiet > 0.0 else 0


def refresh(visitor: Actor, active: tuple[Rule, ...], site: Site, site_pages: int, now: float) -> None:
    """Measure the raised signals again, so that reasons tell today's value; one that went back keeps its old one."""
    findings = {finding.signal: finding for finding in visitor.signals}
    for rule in active:
        old = findings.get(rule.signal.code)
        value = rule.measure(visitor, site, site_pages, now) if old else None
        if old and value is not None and (value < old.value if rule.below else value > old.value):
            findings[old.signal] = _finding(rule, value, visitor.behaviour)
    visitor.signals = tuple(findings.values())


def _finding(rule: Rule, value: float, facts: Behaviour) -> Finding:
    each = f" for each of about {facts.people} people" if facts.people > 1 else ""
    text = rule.signal.sentence.format(value=value, limit=rule.threshold, each=each)
    return Finding(rule.signal.code, rule.points, value, rule.threshold, text)
