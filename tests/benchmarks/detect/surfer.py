"""One person's browser at work on the site: pages with their files, calls, polls and beacons."""

from __future__ import annotations

import random
from collections.abc import Callable

from .browsers import Browser
from .site import ORIGIN, Site
from .traffic import Headers, Request

ELSEWHERE = (
    "https://www.google.com/",
    "https://www.google.com/",
    "https://www.google.com/",
    "https://www.bing.com/",
    "https://duckduckgo.com/",
    "https://news.ycombinator.com/",
    "https://www.reddit.com/",
    "https://chatgpt.com/",
    "https://t.co/",
    "",
    "",
)
# What iPhones ask for unasked, and what open developer tools do.
TOUCH_ICONS = (
    "/apple-touch-icon-120x120-precomposed.png",
    "/apple-touch-icon-precomposed.png",
    "/apple-touch-icon.png",
)
DEVTOOLS = "/.well-known/appspecific/com.chrome.devtools.json"
JSON_BODY = (("content-type", "application/json"), ("origin", ORIGIN))


class Surfer:
    """Collects what a browser sends. `now` in seconds; `address` is asked at each request, as phones move."""

    def __init__(
        self, dice: random.Random, site: Site, browser: Browser, address: str | Callable[[float], str], now: float
    ) -> None:
        self.dice = dice
        self.site = site
        self.browser = browser
        self.now = now
        self.sent: list[Request] = []
        self.page = ""
        self._address = address
        self._cached: set[str] = set()
        self._beacons = dice.random() < 0.7  # the others block them
        self._develops = browser.family == "chromium" and dice.random() < 0.01
        self._pace = dice.lognormvariate(0.0, 0.4)  # some read faster than others

    def enter(self, path: str, query: bytes = b"") -> None:
        """Come from elsewhere: a search engine, a link, a bookmark."""
        referer = self.dice.choice(ELSEWHERE)
        self.load(path, referer, typed=not referer, query=query)

    def follow(self, path: str, query: bytes = b"") -> None:
        """Follow a link of the page that is shown."""
        self.load(path, f"{ORIGIN}{self.page}", query=query)

    def load(self, path: str, referer: str, *, typed: bool = False, reload: bool = False, query: bytes = b"") -> None:
        """Load a page with its files, now."""
        tagged = reload or (path in self._cached and self.dice.random() < 0.5)
        headers = self.browser.page(referer, typed=typed, reload=reload, tagged=tagged)
        self.send("GET", path, headers, query=query, conditional=tagged)
        if path in self.site.moved:
            path = self.site.moved[path]
            self.send("GET", path, headers, after=0.08)
        self.page = path
        self._cached.add(path)
        self._files(path, reload)

    def _files(self, path: str, reload: bool) -> None:
        delay = self.dice.uniform(0.1, 0.4)
        for file in self.site.files.get(path, ()):
            if file in self._cached and not (reload and self.dice.random() < 0.5):
                continue
            delay += self.dice.expovariate(12)
            tagged = file in self._cached
            self.send("GET", file, self.browser.file(file, path, tagged=tagged), after=delay, conditional=tagged)
            self._cached.add(file)
        if "/favicon.ico" not in self._cached:
            self._cached.add("/favicon.ico")
            for icon in TOUCH_ICONS if "iPhone" in self.browser.agent else ("/favicon.ico",):
                self.send("GET", icon, self.browser.file(icon, path), after=delay + 0.2)
        if self._develops:
            self.send("GET", DEVTOOLS, self.browser.call(path), after=delay)
        if self._beacons:
            self.beacon(delay + 0.3)

    def reload(self) -> None:
        """Press the button."""
        self.load(self.page, "", typed=True, reload=True)

    def beacon(self, after: float = 0.0) -> None:
        """Send what a script measured."""
        self.send("POST", "/api/beacon", self.browser.call(self.page, JSON_BODY), after=after)

    def call(self, path: str, query: bytes = b"", after: float = 0.0, valid: bool = True, method: str = "GET") -> None:
        """Call the API from the page's script."""
        extra = JSON_BODY if method == "POST" else ()
        headers = self.browser.call(self.page, extra)
        self.send(method, path, headers, query=query, after=after, valid=valid)

    def poll(self, seconds: float, every: float, path: str = "/api/status") -> None:
        """Keep a page open that polls; browsers slow the timers of hidden tabs to one a minute."""
        headers, until = self.browser.call(self.page), self.now + seconds
        hidden = 0.0
        while self.now < until:
            if hidden <= 0.0 and self.dice.random() < 0.002:
                hidden = self.dice.expovariate(1 / 300)
            step = (60.0 if hidden > 0.0 else every) + self.dice.expovariate(40)
            hidden -= step
            self.wait(step)
            self.send("GET", path, headers)

    def log_in(self, mistakes: int) -> None:
        """Fill in the form; the last attempt is right."""
        self.follow("/login")
        for attempt in range(mistakes + 1):
            self.wait(self.dice.lognormvariate(2.3, 0.5))
            right = attempt == mistakes
            headers = self.browser.page(f"{ORIGIN}/login")
            form = (b"content-type", b"application/x-www-form-urlencoded")
            self.send("POST", "/login", (*headers, form), valid=right)
        self.send("GET", "/dashboard", self.browser.page(f"{ORIGIN}/login"), after=0.1, valid=True)
        self.page = "/dashboard"

    def send(
        self,
        method: str,
        path: str,
        headers: Headers,
        *,
        query: bytes = b"",
        after: float = 0.0,
        conditional: bool = False,
        valid: bool = False,
    ) -> None:
        """Put down one request, `after` seconds from now."""
        at = self.now + after
        address = self._address if isinstance(self._address, str) else self._address(at)
        self.sent.append(Request(at, address, method, path, query, headers, conditional, valid))

    def wait(self, seconds: float) -> None:
        """Let time go by."""
        self.now += seconds

    def think(self, median: float = 20.0, spread: float = 1.1) -> None:
        """Read: log-normal, as reading times are."""
        self.wait(min(1_500.0, self.dice.lognormvariate(0.0, spread) * median * self._pace))

    def glance(self) -> None:
        """Look for a link on a list: Weibull with a long tail."""
        self.wait(self.dice.weibullvariate(7.0, 0.8) * self._pace + 0.5)

    def link(self) -> str:
        """Choose a link of the page that is shown; those higher up are taken more often."""
        links = self.site.links.get(self.page) or self.site.articles()
        if self.dice.random() < 0.004:
            return self.dice.choice((*self.site.dead, *self.site.moved))
        return links[min(len(links) - 1, int(self.dice.expovariate(1 / (1 + len(links) / 4))))]
