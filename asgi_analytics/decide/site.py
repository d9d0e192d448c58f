"""What is known of a site from all its visitors in this process: its pages, its routes for credentials, its headers."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ..facts import Actor, Behaviour, Caller, Claims, Traces, Window
from . import window
from .window import TEN_MINUTES

MAX_SITE_PAGES = 65_536  # that are remembered
MIN_SITE_PAGES = 20  # below, a visit of a few pages covers most of a site
MIN_WITNESSES = 20  # sessions with Fetch Metadata before its absence means something
REQUESTS_PER_PAGE = 1.2  # of a browser, at least, on a site that serves its own files and calls
HERE, ELSEWHERE = 1, 2  # Behaviour.files
# Sessions that tell what reaches this site: a proxy may come in front of it, or a CDN serve its files, at any time.
MAX_WITNESSED, MAX_LOOKED_AT = 4000, 500
MAX_TOLD_APART = 1000  # visitors whose logins are remembered: up to 16 KB each


def fetches_files(facts: Behaviour, loads: int | None = None) -> bool:
    """Tell whether somebody fetches more than pages, of which there were `loads`, as far as files come from here."""
    pages = facts.page_loads if loads is None else loads
    return facts.files == ELSEWHERE or facts.requests - facts.accepted >= REQUESTS_PER_PAGE * pages


@dataclass(slots=True)
class Route:
    """What became of the credentials sent to one route within ten minutes."""

    failed: Window = field(default_factory=Window)  # of visitors who never loaded a page, and libraries
    passed: Window = field(default_factory=Window)  # likewise
    accepted: Window = field(default_factory=Window)  # of anybody
    accepts_nobody: bool = True  # since somebody was refused here

    def is_attacked(self, now: float) -> bool:
        """Tell whether hardly any of many are right, but some: if none is, the app may be at fault."""
        failed = window.estimate(self.failed, TEN_MINUTES, now)
        if failed <= 30.0 or failed <= 9.0 * window.estimate(self.passed, TEN_MINUTES, now):
            return False
        return window.estimate(self.accepted, TEN_MINUTES, now) > 0.0

    def uses(self, now: float) -> float:
        """Return how many credentials it refused or took within ten minutes."""
        return window.estimate(self.failed, TEN_MINUTES, now) + window.estimate(self.accepted, TEN_MINUTES, now)


@dataclass(slots=True)
class Site:
    """What all visitors of this process load: the numbers of up to MAX_SITE_PAGES paths, and how many loads in all."""

    pages: set[int] = field(default_factory=set)
    loads: int = 0
    witnesses: int = 0  # sessions of browsers that sent what they are known to send
    faulty: int = 0  # and of those that did not
    inner_loads: int = 0  # page loads that came from a page of this site
    with_files: int = 0  # sessions of browsers that fetched more than pages
    without_files: int = 0  # and of those that did not
    pools: dict[int, Actor] = field(default_factory=dict)  # by a number of user agent and language
    routes: dict[int, Route] = field(default_factory=dict)  # by a number of the path
    told_apart: deque[Traces] = field(default_factory=deque)  # of visitors whose logins are remembered, in order

    def knows_headers(self) -> bool:
        """Tell whether Fetch Metadata reaches this site: a proxy may strip it, then its absence means nothing."""
        return self.witnesses >= MIN_WITNESSES and self.witnesses * 20 > self.faulty

    def tells_links(self) -> bool:
        """Tell whether following a link is visible here: a proxy may strip Referer as well, then nobody seems to."""
        if self.faulty < MIN_WITNESSES or self.knows_headers():
            return True
        return self.inner_loads * 50 > self.loads

    def witness(self, claims: Claims) -> None:
        """Count whether the first page load of a session had Fetch Metadata."""
        if claims.is_browser:
            if claims.tells_origin:
                self.witnesses += 1
            else:
                self.faulty += 1
            if self.witnesses + self.faulty > MAX_WITNESSED:
                self.witnesses, self.faulty = self.witnesses // 2, self.faulty // 2

    def look_for_files(self, facts: Behaviour) -> None:
        """Count, once in a session, whether a browser fetches more than pages; note in `facts` whether any does here.

        If another server has the files, nobody does, and it means nothing. A program that rotates addresses may feign
        that, and gains a minute of tabs.
        """
        if facts.requests - facts.accepted >= REQUESTS_PER_PAGE * facts.page_loads:
            self.with_files += 1
        else:
            self.without_files += 1
        if self.with_files + self.without_files > MAX_LOOKED_AT:
            self.with_files, self.without_files = self.with_files // 2, self.without_files // 2
        is_elsewhere = self.without_files >= max(MIN_WITNESSES, 2 * self.with_files)
        facts.files = ELSEWHERE if is_elsewhere else HERE

    def callers_of(self, traces: Traces) -> dict[int, Caller]:
        """Return what is known of a visitor's logins, to be added to; if there are too many such, one is forgotten."""
        callers = traces.callers
        if callers is None:
            callers = traces.callers = {}
            self.told_apart.append(traces)
            if len(self.told_apart) > MAX_TOLD_APART:
                self.told_apart.popleft().callers = None
        return callers

    def size(self, own_loads: int) -> int:
        """Return the number of known pages; 0 while they are few, or `own_loads` of one visitor taught most of them."""
        known = len(self.pages)
        return known if known >= MIN_SITE_PAGES and self.loads > 2 * own_loads else 0
