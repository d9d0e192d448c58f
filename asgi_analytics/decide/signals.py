"""The seven signals: a function that measures and a row that names it, each. A further signal is one of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt

from ..model import Actor, Behaviour, Finding
from .behaviour import DISTINCT_PAGES, FIVE_MINUTES, Site
from .window import estimate

HOUR = 3600.0  # seconds
MIN_STEPS = 12
MIN_GAPS = 5
MIN_COVERED = 5  # page loads: a visit of fewer is none that covers a site

# visitor, site, the site's configured number of pages (0: learned), now → value, or None where it cannot be told
Measure = Callable[[Actor, Site, int, float], float | None]


@dataclass(frozen=True, slots=True)
class Signal:
    """A row of the table: raised when the value is above its threshold, or `below` it."""

    code: str
    measure: Measure
    sentence: str  # of value, limit and each (" for each of about 3 people" or nothing)
    below: bool = False
    least: Callable[[float], float] = lambda threshold: 0  # of the threshold: see Rule.least


@dataclass(frozen=True, slots=True)
class Rule:
    """A signal that is switched on, with its points and its threshold."""

    signal: Signal
    measure: Measure
    bit: int  # in Behaviour.raised
    points: int
    threshold: float
    below: bool
    least: int  # page loads below which it cannot be raised: most visits end before most rules are due


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


SIGNALS = (
    Signal(
        "high_request_count",
        request_count,
        "{value:.10g} page loads{each} in this session (limit {limit:g})",
        least=lambda threshold: threshold,
    ),
    Signal(
        "high_page_coverage",
        page_coverage,
        "{value:.1f} % of the site's pages loaded{each} (limit {limit:g} %)",
        least=lambda threshold: MIN_COVERED,
    ),
    Signal(
        "sequential_navigation",
        sequential_navigation,
        "{value:.0f} % of the steps between pages lead on in alphabetical or numerical order (limit {limit:g} %)",
        least=lambda threshold: MIN_STEPS + 1,
    ),
    Signal(
        "multiple_fingerprint_sessions",
        fingerprint_sessions,
        "{value:.0f} sessions of one fingerprint within an hour (limit {limit:g})",
    ),
    Signal(
        "regular_timing",
        timing_variation,
        "page loads as regular as a clock's: coefficient of variation {value:.3f} (limit {limit:g})",
        below=True,
        least=lambda threshold: MIN_GAPS + 1,
    ),
    Signal(
        "high_pages_per_minute",
        pages_per_minute,
        "{value:.2f} page loads per minute{each} over five minutes (limit {limit:g})",
        least=lambda threshold: 5.0 * threshold,
    ),
    Signal("outdated_browser", outdated_browser, "an outdated browser (Chrome before 90 or Firefox before 88)"),
)


def rules(points: Mapping[str, int], thresholds: Mapping[str, float]) -> tuple[Rule, ...]:
    """Return the signals that are worth points, those that can be raised earliest first."""
    active = [
        Rule(
            signal,
            signal.measure,
            1 << place,
            points[signal.code],
            float(thresholds[signal.code]),
            signal.below,
            int(signal.least(float(thresholds[signal.code]))),
        )
        for place, signal in enumerate(SIGNALS)
        if points[signal.code] > 0
    ]
    return tuple(sorted(active, key=lambda rule: rule.least))


def evaluate(visitor: Actor, active: tuple[Rule, ...], site: Site, site_pages: int, now: float) -> None:
    """Raise what is to be raised. A raised signal and its points stay until the session ends."""
    facts = visitor.behaviour
    raised, loads = facts.raised, facts.page_loads
    for rule in active:
        if rule.least > loads:
            break
        if not raised & rule.bit:
            value = rule.measure(visitor, site, site_pages, now)
            if value is not None and (value < rule.threshold if rule.below else value > rule.threshold):
                facts.raised |= rule.bit
                visitor.signals += (_finding(rule, value, facts),)
                visitor.score += rule.points


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
