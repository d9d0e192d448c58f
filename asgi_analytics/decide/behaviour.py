"""Running facts of a session, each kept in O(1) per answer.

What counts is chosen so that no human is flagged:

- A page load is an answer that delivered a page. A reload of one of the last four pages is none, so tabs that refresh
  themselves stay silent; only a rush of reloads, faster than one a second, counts for the pace that raises the level.
- Pages are told apart by path, and by the parameters that make another page (see variants.py): returning to one of
  the latter is no page load at all.
- An error is a path answered 4xx that was not seen failing before, with that token or code if its query has one,
  unless a page of this site links it, or one of another shows it: a broken deployment is not its readers' fault. 429
  (ours, or a limiter's further in) and 5xx (the app's own fault) are none.
- People: one fingerprint may be several people, such as an office of alike browsers behind one address, or the phones
  of a carrier. Each of them comes from outside, then follows links. So a session holds at most as many people as it has
  entries. They are told by the popular pages that they load again: as many as half of these, and as there are inner
  steps. Or up to five, if they fetch files, by coming in between: somebody has just come, and the next link that is
  followed is one of a page from before.
  The price: a program that forges Referers and picks its pages as people do is taken for several of them; its quotas,
  timing and order count as before.
"""

from __future__ import annotations

from bisect import bisect_right
from math import inf, log
from typing import Final, NamedTuple

from ..facts import Behaviour
from ..inputs import MAX_PATH, bounded, path_number
from ..model import Variant
from ..variants import Variants, sort_key
from . import window
from .probes import count_probe, is_hidden_file
from .site import ELSEWHERE, MAX_SITE_PAGES, Site, fetches_files
from .window import FIVE_MINUTES, HOUR, MINUTE

MAX_TABS = 60  # pages loaded at once that may be tabs
RUSH: Final = 1.0  # seconds between two loads of one page: less is a rush
HASTE: Final = 2.0  # likewise, between two forms under a browser's name; or between two pages of one reader
CROWD_PAUSE = 5.0  # seconds after which the next crowd may come
MAX_CROWDED = 3000  # reloads in a rush that are not counted within an hour; slower ones never are
MAX_PEOPLE: Final = 50  # behind one fingerprint
MAX_BETWEEN: Final = 5  # likewise, told by coming in between: several windows of a program do so, too
MAX_IN_LOOP: Final = 12  # pages
GAP_MEMORY: Final = 8  # gaps; from there on each new one weighs an eighth
PAGE_BITS = 1024  # of a session's bitmap
ERROR_BITS = 512  # likewise
MAX_ERRORS_KNOWN = ERROR_BITS // 4  # set bits: so few that paths are seldom taken for one another
LOADS_PER_PERSON = 2  # of pages loaded before: each further person makes so many
MAP_ERROR = 0.05  # of the page loads: twice the standard error of linear counting with PAGE_BITS
MAX_BACK = PAGE_BITS // 8  # known pages; with more, too many new ones would be taken for known
MAX_PAGES_REMEMBERED = 2048  # by path, of all visitors

# Linear counting (Whang and others, 1990): the number of distinct paths by the number of set bits; a full map counts
# as one with a last free bit.
DISTINCT_PAGES = tuple(round(-PAGE_BITS * log(max(PAGE_BITS - bits, 1) / PAGE_BITS)) for bits in range(PAGE_BITS + 1))


def steps_beyond(facts: Behaviour, pages: float) -> float:
    """Return the number of steps within which no more than so many different pages can have been loaded."""
    crossing = bisect_right(DISTINCT_PAGES, pages)
    return crossing - 1 - facts.distinct_pages if crossing < len(DISTINCT_PAGES) else inf


class Page(NamedTuple):
    """What a page is to the running facts, computed once."""

    number: int  # see inputs.path_number, or that of its variant
    bit: int  # in Behaviour.pages_bitmap
    key: str  # what it sorts by


_pages: Final[dict[str | Page, Page]] = {}  # by path, as far as they are short


def page_facts(path: str | Page) -> Page:
    """Return a page's number, bit and sort key, and remember them by its path."""
    if isinstance(path, Page):
        return path
    text = bounded(path)
    number = path_number(text)
    page = Page(number, 1 << number % PAGE_BITS, sort_key(text))
    if len(path) <= MAX_PATH and not is_hidden_file(text):
        if len(_pages) >= MAX_PAGES_REMEMBERED:
            _pages.clear()
        _pages[path] = page
    return page


def _unknown_page(facts: Behaviour, path: str | Page, inner: bool) -> Page:
    """Return the facts of a page that is not remembered; one in place of a hidden file counts as a probe if not linked.

    An app that answers any path with its one page would otherwise hide who looks for such files.
    """
    if isinstance(path, str) and not inner and is_hidden_file(path) and count_probe(facts, path, 1):
        facts.quiet_until = -1
    return page_facts(path)


def load_page(facts: Behaviour, path: str | Page, inner: bool, site: Site, now: float, bare: bool = False) -> bool:
    """Count a page that was delivered. Returns False for a reload of one of the last four pages.

    Reloads in a rush, as a loop makes them, count for the pace of page loads, and for nothing else. `bare`: without a
    query, so that a reload shows nothing new; with one, it may be a search.
    """
    number, bit, key = _pages.get(path) or _unknown_page(facts, path, inner)
    facts.page_loads = loads = facts.page_loads + 1
    if loads > 1:
        last, before_last = facts.last_page, facts.before_last
        if key == last:
            return _reload(facts, inner, now, bare)
        facts.before_last = (last, before_last[0], before_last[1])
        facts.last_page = key
        facts.steps += 1
        # Not by a "next" link, nor in an endless loop over few pages, as on a wall display.
        if key > last and not inner and (not facts.pages_bitmap & bit or facts.distinct_pages > MAX_IN_LOOP):
            facts.ascending += 1
        if key in before_last:
            return _reload(facts, inner, now, bare)
        # The time from the page before: Welford's mean and variance, then exponentially weighted.
        facts.gaps = gaps = facts.gaps + 1
        weight = 1.0 / gaps if gaps < GAP_MEMORY else 1.0 / GAP_MEMORY
        since = now - facts.last_page_at
        difference = since - facts.gap_mean
        correction = difference * weight
        facts.gap_mean += correction
        facts.gap_variance = (1.0 - weight) * (facts.gap_variance + difference * correction)
    else:
        since, facts.last_page = RUSH, key
    facts.paced_loads += 1
    facts.last_page_at = facts.last_answer_at = now
    bitmap = facts.pages_bitmap
    if not bitmap & bit:
        facts.pages_bitmap = bitmap | bit
        facts.distinct_pages += 1
    # window.charge, written out: a page load pays for it twice.
    minute, five_minutes = facts.minute, facts.five_minutes
    if 0.0 < minute.ends_at - now <= MINUTE:
        minute.count += 1
    else:
        window.charge(minute, MINUTE, now)
    if 0.0 < five_minutes.ends_at - now <= FIVE_MINUTES:
        five_minutes.count += 1
    else:
        window.charge(five_minutes, FIVE_MINUTES, now)
    if inner:
        facts.inner_steps += 1
        site.inner_loads += 1
    else:
        facts.entries += 1
        if since < RUSH:
            facts.at_once += 1
    if facts.people < facts.entries:
        _count_person(facts, inner, site)
    site.loads += 1
    if len(site.pages) < MAX_SITE_PAGES:
        site.pages.add(number)
    return True


def _count_person(facts: Behaviour, inner: bool, site: Site) -> None:
    """Count one more person, one at most for each page load, if enough pages were loaded again for so many."""
    if not inner:
        facts.entry_page = facts.last_page
    people, loads = facts.people, facts.page_loads
    if people >= MAX_PEOPLE or (people >= facts.inner_steps and site.tells_links()):
        return
    again = facts.returns + loads - DISTINCT_PAGES[facts.distinct_pages]
    if LOADS_PER_PERSON * people <= again - MAP_ERROR * loads:
        facts.people += 1


def comes_between(facts: Behaviour, path: str, query: str, variants: Variants, now: float) -> bool:
    """Tell whether somebody else has come to the site since the page was loaded whose link is followed now.

    `path` and `query`: of that page, which another worker may have served. "/" is all that some sites let browsers
    say: then it is told by the pace, which nobody reads at. If so, count one more person.
    """
    if facts.last_page != facts.entry_page or facts.people >= MAX_BETWEEN or not fetches_files(facts):
        return False
    if path == "/":
        between = facts.last_page != "/" and 0.0 <= now - facts.last_page_at < HASTE
    else:
        page = (variants.page(path, query, True) if query else None) or page_facts(path)
        # Where files tell nothing, who forges Referers does not know what was loaded here.
        is_known = facts.files != ELSEWHERE or facts.pages_bitmap >> page.number % PAGE_BITS & 1
        between = page.key != facts.last_page and bool(is_known)
    facts.people += between
    return between


def load_variant(facts: Behaviour, variant: Variant, inner: bool, site: Site, now: float) -> bool:
    """Count a page that its query tells from others of its path. Returns False for one of this session's pages.

    Not only for one of the last four, as `load_page`: somebody returns to an earlier view, or a display goes round.
    """
    bit, key, last = 1 << variant.number % PAGE_BITS, variant.key, facts.last_page
    ascending, steps = facts.ascending, facts.steps
    if facts.pages_bitmap & bit and facts.distinct_pages <= MAX_BACK:
        facts.page_loads += 1
        if key != last:
            if inner and key not in facts.before_last:
                facts.returns += 1
                facts.inner_steps += 1
            facts.before_last = (last, *facts.before_last[:2])
            facts.last_page = key
            facts.steps += 1
        return _reload(facts, inner, now)
    facts.variants += 1
    counted = load_page(facts, Page(variant.number, bit, key), inner, site, now)
    facts.ascending = ascending + (facts.steps > steps and variant.onward and not inner)
    return counted


def with_order(variant: Variant, facts: Behaviour) -> Variant:
    """Return the variant with `onward` filled in: rows keep that, but not the sort key."""
    is_new = not facts.pages_bitmap >> variant.number % PAGE_BITS & 1
    return variant._replace(onward=True) if is_new and variant.key > facts.last_page else variant


def count_error(facts: Behaviour, path: str, guess: Variant | None = None) -> bool:
    """Count a path that was answered 4xx, or one guess in its query. Returns False when it was already counted."""
    bit = error_bit(path, guess)
    if facts.errors_bitmap & bit:
        return False
    facts.errors += 1
    remember_error(facts, bit)
    return True


def error_bit(path: str, guess: Variant | None) -> int:
    """Return the bit of what failed in Behaviour.errors_bitmap."""
    return 1 << (path_number(bounded(path)) if guess is None else guess.number) % ERROR_BITS


def remember_error(facts: Behaviour, bit: int) -> None:
    """Remember what failed. A fuller map would take new paths for known ones; starting over costs a poll one error."""
    known = facts.errors_bitmap
    facts.errors_bitmap = known | bit if known.bit_count() < MAX_ERRORS_KNOWN else bit


def _reload(facts: Behaviour, inner: bool, now: float, bare: bool = False) -> bool:
    facts.page_loads -= 1
    if not inner:  # somebody else's way in, perhaps: a class opens one link
        facts.entries += 1
        facts.returns += 1
    since, facts.last_answer_at = now - facts.last_answer_at, now
    return 0.0 <= since < RUSH and _count_rushed(facts, now, bare)


def count_form(facts: Behaviour, shown: bool, now: float, named: bool = True) -> bool:
    """Count a form that no page sent, as a reload. Returns False for one that is not in a rush.

    `shown`: the answer is a page. Else the app failed at it, which counts among such answers only: an app that always
    fails is at fault itself. `named`: a program says that it is one.
    """
    since = now - facts.last_answer_at
    in_rush = 0.0 <= since < (RUSH if named else HASTE)
    if shown or in_rush:
        facts.last_answer_at = now
    if not in_rush or not _count_rushed(facts, now):
        return False
    facts.forms += 1
    return True


def _count_rushed(facts: Behaviour, now: float, bare: bool = False) -> bool:
    """Count for the pace what comes within a second of the answer before; not what may be somebody else's."""
    if _is_of_crowd(facts, now, bare):
        return False
    facts.paced_loads += 1
    facts.quiet_until = -1
    window.charge(facts.minute, MINUTE, now)
    return True


def _is_of_crowd(facts: Behaviour, now: float, bare: bool) -> bool:
    """Tell whether a reload in a rush may be that of another person who looks the same.

    Such as of a class that opens one page at once, or of a crowd that waits for tickets.
    """
    if now - facts.crowd_at >= CROWD_PAUSE:
        facts.crowd = 0
    if now >= facts.crowded_until:
        facts.crowded, facts.crowded_until = 0, now + HOUR
    facts.crowd, facts.crowd_at = facts.crowd + 1, now
    if (facts.crowd > MAX_PEOPLE and not bare) or facts.crowded >= MAX_CROWDED:
        return False
    facts.crowded += 1
    return True
