"""The signals about how people browse, the seven documented ones first: for each a measuring function and a row."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise
from math import inf, sqrt

from ..facts import Actor, Behaviour
from .behaviour import DISTINCT_PAGES, GAP_MEMORY, MAX_IN_LOOP, MAX_PAGES_REMEMBERED, MAX_TABS, steps_beyond
from .signal import MAX_QUIET, Signal, with_a_session
from .site import MIN_SITE_PAGES, Site, fetches_files
from .window import FIVE_MINUTES, HOUR, estimate

MIN_STEPS = 12  # between pages, before their order tells anything
MIN_GAPS = 5  # between page loads, before their regularity does
MIN_LOADS = 100  # of pages, before it tells anything that none came twice
NEW_SHARE = 0.9  # least part of the steps, ways back included, to pages not loaded before, when a site is walked
DAY = 86_400.0  # seconds
MIN_STARTS = 5  # of sessions, before their regularity tells anything
SHORTEST_CADENCE = 1800.0  # seconds
RESTORED = 30.0  # seconds that a starting browser may take to reopen its last tabs
TURNS = 4  # page loads per page of a loop, more than
# The last number of a sort key without a query: with one, it is a list, or a thing looked up.
_NUMBERED = re.compile(r"([^?]*[^?\d\x01-\x09]|)[\x01-\x09](\d{1,9})([^?\d]*)", re.ASCII)
NOW_AND_THEN = 60.0  # seconds from page to page, on average: about what reading takes


def request_count(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
    """Return the page loads of this session per person; None in a loop over few pages, as on a wall display."""
    facts = visitor.behaviour
    if _goes_round(facts):
        return None
    return facts.page_loads / facts.people


def _goes_round(facts: Behaviour) -> bool:
    """Tell whether few pages come again and again."""
    return 0 < facts.distinct_pages <= MAX_IN_LOOP and facts.page_loads > TURNS * facts.distinct_pages


def page_coverage(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
    """Return the percentage of the site's pages that each person loaded.

    None while the site's size is unknown; for visitors who mostly return to pages, as people at work in a tool of few
    pages do; and for those whom links lead from one to the next, as through a gallery, which may be most of a site.
    A configured size may count /item?id=… as one page: once such were loaded, the learned size counts if larger.
    """
    facts = visitor.behaviour
    pages = site_pages or site.size(facts.page_loads)
    if site_pages and facts.variants:
        learned = site.size(facts.page_loads)
        pages = max(site_pages, learned) if learned else 0
    different = DISTINCT_PAGES[facts.distinct_pages] - facts.led_on
    if not pages or different < NEW_SHARE * (facts.steps + 1 - facts.led_on) or is_led_on(facts):
        return None
    share = different / pages
    return 100.0 * (share if share < 1.0 else 1.0) / facts.people


def sequential_navigation(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
    """Return the percentage of steps that lead to a path sorting after the page before.

    None below MIN_STEPS, and for those who follow links of another site, such as a spreadsheet's. Tabs that are
    reopened at once are left out, because they stand in order.
    """
    facts = visitor.behaviour
    steps, ascending = facts.steps, facts.ascending
    if facts.at_once and fetches_files(facts):
        tabs = min(facts.at_once, MAX_TABS)
        steps, ascending = steps - tabs, max(0, ascending - tabs)
    return 100.0 * ascending / steps if steps >= MIN_STEPS and not _is_led_here(facts) else None


def fingerprint_sessions(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
    """Return the sessions begun within the last hour, rounded down."""
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


def entries_only(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
    """Return the different pages of a visitor who never follows a link of this site.

    None for browsers that do not tell, for those who come by the links of another site, and for those who come for a
    page now and then all day, from a search engine or a feed reader. Pages are counted once, for a display whose tabs
    are reloaded all day follows no link either; tabs that are reopened at once are left out.
    """
    facts = visitor.behaviour
    if facts.inner_steps or not visitor.claims.tells_origin or _is_led_here(facts):
        return None
    tabs = min(facts.at_once, MAX_TABS)
    if not RESTORED < now - visitor.started_at <= NOW_AND_THEN * (facts.steps - tabs):
        return None
    return DISTINCT_PAGES[facts.distinct_pages] - tabs


def _is_led_here(facts: Behaviour) -> bool:
    """Tell whether links of another site are followed, by a browser that fetches files too."""
    return facts.led_here > 0 and fetches_files(facts)


def pages_once(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
    """Return the percentage of steps, ways back included, that led to a page not loaded before.

    None below MIN_LOADS, and for a browser that is led from one page to the next, as through the photos of a gallery.
    """
    facts = visitor.behaviour
    if facts.page_loads - facts.led_on < MIN_LOADS or facts.people > 1 or is_led_on(facts):
        return None
    return 100.0 * min(1.0, (DISTINCT_PAGES[facts.distinct_pages] - facts.led_on) / (facts.steps + 1 - facts.led_on))


def note_gallery(facts: Behaviour) -> bool:
    """Tell whether somebody is led through a gallery; if so, add the pages since the last judgement to `led_on`.

    These do not count after the gallery is left, either.
    """
    loads, facts.judged_loads = facts.page_loads - facts.judged_loads, facts.page_loads
    if facts.page_loads <= MIN_STEPS or not is_led_on(facts):
        return False
    facts.led_on += max(0, loads)
    return True


def is_led_on(facts: Behaviour) -> bool:
    """Tell whether links are followed, files fetched too, and some of the last four pages numbered in a row."""
    if facts.inner_steps < NEW_SHARE * facts.steps or not fetches_files(facts):
        return False
    numbered = [_number_in(key or "") for key in (facts.last_page, *facts.before_last)]
    return any(
        one is not None and other is not None and one[0] == other[0] and abs(one[1] - other[1]) == 1
        for one, other in pairwise(numbered)
    )


@lru_cache(MAX_PAGES_REMEMBERED)
def _number_in(key: str) -> tuple[tuple[str, str], int] | None:
    """Return what stands around the last number of a sort key, and that number; None without one."""
    found = _NUMBERED.fullmatch(key)
    return None if found is None else ((found[1], found[3]), int(found[2]))


def periodic_cadence(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
    """Return the coefficient of variation of the gaps between the beginnings of sessions; None below MIN_STARTS."""
    if visitor.starts < MIN_STARTS or visitor.start_gap_mean < SHORTEST_CADENCE:
        return None
    return sqrt(visitor.start_gap_variance) / visitor.start_gap_mean


def home_tab_watcher(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
    """Return 1.0 for somebody who loads the home page once a day (every 20 to 28 hours), and nothing else."""
    facts = visitor.behaviour
    if visitor.starts < MIN_STARTS or facts.distinct_pages != 1 or facts.page_loads > 2 or facts.last_page != "/":
        return None
    return 1.0 if abs(visitor.start_gap_mean / DAY - 1.0) <= 1 / 6 else None


def _quiet_entries(visitor: Actor, site: Site, site_pages: int, now: float, threshold: float) -> float:
    facts = visitor.behaviour
    return inf if facts.inner_steps else steps_beyond(facts, threshold)


def _quiet_once(visitor: Actor, site: Site, site_pages: int, now: float, threshold: float) -> float:
    facts, share = visitor.behaviour, threshold / 100.0
    return max(MIN_LOADS - 1 - facts.page_loads, _steps_to_share(facts, share)) if share < 1.0 else inf


def _steps_to_share(facts: Behaviour, share: float) -> float:
    """Return the least number of steps after which such a part of all can have led to pages not loaded before."""
    bits = min(facts.distinct_pages + MAX_QUIET, len(DISTINCT_PAGES) - 1)
    step = DISTINCT_PAGES[bits] - DISTINCT_PAGES[bits - 1] + 1.0
    return (share * (facts.steps + 1) - DISTINCT_PAGES[facts.distinct_pages]) / (step - share) - 1e-9


def _quiet_count(visitor: Actor, site: Site, site_pages: int, now: float, threshold: float) -> float:
    facts = visitor.behaviour
    steps = threshold * facts.people - facts.page_loads
    if not _goes_round(facts):
        return steps
    further = (facts.page_loads - TURNS * facts.distinct_pages) / TURNS - 1e-9
    return max(steps, min(further, MAX_IN_LOOP - facts.distinct_pages))


def _quiet_coverage(visitor: Actor, site: Site, site_pages: int, now: float, threshold: float) -> float:
    facts = visitor.behaviour
    pages = site_pages or max(len(site.pages), MIN_SITE_PAGES)
    steps = steps_beyond(facts, threshold / 100.0 * pages * facts.people)
    return steps if steps >= 1.0 else max(steps, _steps_to_share(facts, NEW_SHARE))


def _quiet_order(visitor: Actor, site: Site, site_pages: int, now: float, threshold: float) -> float:
    facts = visitor.behaviour
    if threshold >= 100.0:
        return inf
    return max(
        MIN_STEPS - 1 - facts.steps, (threshold * facts.steps - 100.0 * facts.ascending) / (100.0 - threshold) - 1e-9
    )


def _quiet_timing(visitor: Actor, site: Site, site_pages: int, now: float, threshold: float) -> float:
    """A gap of weight w lowers the squared coefficient of variation x to no less than (1 - w)x / (1 + wx).

    A gap of (1 + x) times the mean reaches that; in terms of y = 1/x it is (y + w) / (1 - w).
    """
    facts = visitor.behaviour
    gaps = facts.gaps
    if gaps < 2:
        return MIN_GAPS - 1 - gaps
    limit, steps = 1.0 / max(threshold, 1e-9) ** 2, 0
    inverse = facts.gap_mean**2 / facts.gap_variance if facts.gap_variance > 0.0 else inf
    while inverse <= limit * 0.999 and steps < MAX_QUIET:
        gaps, steps = gaps + 1, steps + 1
        weight = 1.0 / min(gaps, GAP_MEMORY)
        inverse = (inverse + weight) / (1.0 - weight)
    return max(MIN_GAPS - 1 - facts.gaps, steps - 1)


def _quiet_pace(visitor: Actor, site: Site, site_pages: int, now: float, threshold: float) -> float:
    facts = visitor.behaviour
    return 5.0 * threshold * facts.people - estimate(facts.five_minutes, FIVE_MINUTES, now) - 1e-9


PAGE_SIGNALS = (
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
        "{value:.1f} % of the steps between pages lead on in alphabetical or numerical order (limit {limit:g} %)",
        quiet=_quiet_order,
    ),
    Signal(
        "multiple_fingerprint_sessions",
        fingerprint_sessions,
        "{value:.0f} sessions of one fingerprint within an hour (limit {limit:g})",
        quiet=with_a_session,
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
        "an outdated browser: releases of five years ago, Chrome before 90 or Firefox before 88",
        quiet=with_a_session,
    ),
    Signal(
        "links_never_followed",
        entries_only,
        "{value:.0f} different pages loaded without following a link of this site (limit {limit:g})",
        quiet=_quiet_entries,
    ),
    Signal(
        "every_page_once",
        pages_once,
        "{value:.1f} % of the steps led to pages not loaded before (limit {limit:g} %)",
        quiet=_quiet_once,
    ),
    Signal(
        "periodic_cadence",
        periodic_cadence,
        "sessions begin as regularly as a clock: coefficient of variation {value:.3f} (limit {limit:g})",
        below=True,
        quiet=with_a_session,
    ),
    Signal(
        "home_tab_watcher",
        home_tab_watcher,
        "the home page once a day, and nothing else",
        quiet=with_a_session,
    ),
)
