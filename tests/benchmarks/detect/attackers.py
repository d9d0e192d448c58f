"""Those to be found: scrapers of all kinds, scanners, credential stuffing, false claims."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import cycle

from . import browsers, people, places
from .browsers import Browser
from .programs import headers_of
from .site import ORIGIN, Site
from .surfer import Surfer
from .traffic import Actor, Headers, Kind, Label, Request
from .words import PROBES, STEMS

FAST = Kind("scrapers, fast", Label.BAD, fast=True)
SLOW = Kind("scrapers, slow", Label.BAD)
ROTATING = Kind("scrapers, rotating addresses", Label.BAD)
AGENTS = Kind("scrapers, rotating user agents", Label.BAD)
HEADLESS = Kind("headless browsers, full headers", Label.BAD)
PATIENT = Kind("patient real browsers", Label.BAD)
FORGER = Kind("scrapers that forge Referers", Label.BAD)
API = Kind("scrapers of the API", Label.BAD)
CLAIM = Kind("false Googlebots", Label.BAD)
SCANNER = Kind("vulnerability scanners", Label.BAD, fast=True)
PROBE = Kind("drive-by probes of a few paths", Label.BAD)
STUFFING = Kind("credential stuffing, one address", Label.BAD, fast=True)
STUFFING_WIDE = Kind("credential stuffing, many addresses", Label.BAD)

TOOLS = (
    "python-requests/2.32.5",
    "Scrapy/2.13.4 (+https://scrapy.org)",
    "Go-http-client/2.0",
    "curl/8.16.0",
    "aiohttp/3.13.2",
)
SCANNERS = (
    "Mozilla/5.0 zgrab/0.x",
    "Nuclei - Open-source project (github.com/projectdiscovery/nuclei)",
    "Mozilla/5.0 (compatible; CensysInspect/1.1; +https://about.censys.io/)",
    "Mozilla/5.0 (Windows NT 10.0; WOW64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/78.0.3904.108 Safari/537.36",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36",
    "Go-http-client/1.1",
    "",
)


def _claimed(dice: random.Random, browser: Browser) -> Headers:
    """Return a browser's name with what a library sends beside it, or all that the browser sends."""
    if dice.random() < 0.5:
        return headers_of(browser.agent, ("accept-language", browser.language))
    return browser.page(typed=True)


def _order(dice: random.Random, site: Site) -> Iterator[str]:
    """Walk the whole site, again and again: by number, by the sitemap, or at random."""
    pages = list(site.articles())
    manner = dice.choice(("sorted", "sitemap", "random", "random"))
    if manner == "sorted":
        pages.sort()
    elif manner == "random":
        dice.shuffle(pages)
    return cycle(pages)


Pause = Callable[[], float]


def _pause(dice: random.Random, gap: float) -> Pause:
    """As regular as a clock, with a uniform delay as tools have it, or as irregular as people."""
    return dice.choice((
        lambda: gap + abs(dice.gauss(0, gap * 0.02)),
        lambda: dice.uniform(0.5, 1.5) * gap,
        lambda: dice.lognormvariate(-0.3, 0.8) * gap,
    ))  # fmt: skip


def _scrape(
    dice: random.Random,
    site: Site,
    start: float,
    pages: int,
    gap: float,
    address: Callable[[], str],
    headers: Callable[[], Headers],
) -> Iterable[Request]:
    pause, order, now = _pause(dice, gap), _order(dice, site), start
    for _ in range(pages):
        yield Request(now, address(), "GET", next(order), b"", headers())
        now += pause()


def fast(site: Site, start: float, dice: random.Random, address: str = "") -> Iterable[Request]:
    """Many pages a second or so, from one address."""
    address = address or places.hosting(dice)
    tool = (
        headers_of(dice.choice(TOOLS))
        if dice.random() < 0.5
        else _claimed(dice, browsers.draw(dice, browsers.DESKTOPS))
    )
    pages, gap = int(dice.lognormvariate(7.0, 0.6)), dice.lognormvariate(-1.2, 0.8)
    return _scrape(dice, site, start, pages, gap, lambda: address, lambda: tool)


def slow(site: Site, start: float, dice: random.Random) -> Iterable[Request]:
    """A page every half a minute or so, for hours."""
    address, headers = places.hosting(dice), _claimed(dice, browsers.draw(dice, browsers.DESKTOPS))
    pages, gap = int(dice.lognormvariate(6.0, 0.5)), dice.lognormvariate(3.3, 0.5)
    return _scrape(dice, site, start, pages, gap, lambda: address, lambda: headers)


def rotating(site: Site, start: float, dice: random.Random) -> Iterable[Request]:
    """A pool of proxies in homes; each request by another one."""
    pool = [places.home(dice) for _ in range(int(dice.lognormvariate(5.0, 1.0)) + 5)]
    shared = [browsers.draw(dice, browsers.DESKTOPS) for _ in range(dice.choice((1, 1, 5, 40)))]
    headers = [_claimed(dice, browser) for browser in shared]
    pages, gap = int(dice.lognormvariate(7.0, 0.5)), dice.lognormvariate(0.0, 0.8)
    return _scrape(dice, site, start, pages, gap, lambda: dice.choice(pool), lambda: dice.choice(headers))


def agents(site: Site, start: float, dice: random.Random) -> Iterable[Request]:
    """One address; each request by another browser's name."""
    address = places.hosting(dice)
    names = [browsers.draw(dice) for _ in range(int(dice.lognormvariate(4.5, 1.0)) + 5)]
    headers = [headers_of(browser.agent, ("accept-language", "en-US,en;q=0.9")) for browser in names]
    pages, gap = int(dice.lognormvariate(6.8, 0.5)), dice.lognormvariate(-0.5, 0.8)
    return _scrape(dice, site, start, pages, gap, lambda: address, lambda: dice.choice(headers))


def headless(site: Site, start: float, dice: random.Random) -> Iterable[Request]:
    """A real browser under a script: all headers, all files, Referers, a steady pace."""
    surfer = Surfer(dice, site, browsers.draw(dice, browsers.DESKTOPS[:3]), places.hosting(dice), start)
    pause, order = _pause(dice, dice.lognormvariate(1.3, 0.6)), _order(dice, site)
    follows = dice.random() < 0.5
    surfer.load("/", "", typed=True)
    for _ in range(min(600, int(dice.lognormvariate(5.3, 0.5)))):
        surfer.wait(pause())
        surfer.follow(next(order)) if follows else surfer.load(next(order), "", typed=True)
    return surfer.sent


def forger(site: Site, start: float, dice: random.Random) -> Iterable[Request]:
    """One program that would pass for many people: some of its pages come from a search, some from the site."""
    browser, address = browsers.draw(dice, browsers.DESKTOPS), places.hosting(dice)
    inner = [browser.page(f"{ORIGIN}{page}") for page in dice.sample(site.articles(), 20)]
    outer, share = browser.page("https://www.google.com/"), dice.uniform(0.2, 0.6)
    pages, gap = int(dice.lognormvariate(7.0, 0.5)), dice.lognormvariate(0.3, 0.8)

    def choose() -> Headers:
        return outer if dice.random() < share else dice.choice(inner)

    return _scrape(dice, site, start, pages, gap, lambda: address, choose)


def patient(site: Site, start: float, dice: random.Random) -> Iterable[Request]:
    """Real browsers at homes, a few pages at a time at a reader's pace: from here no different from a reader."""
    sent: list[Request] = []
    for _ in range(dice.randint(1, 8)):
        sent += people.reader(site, start, dice).sent
        start += dice.expovariate(1 / 3_000)
    return sent


def api(site: Site, start: float, dice: random.Random) -> Iterable[Request]:
    """All items of the API by number, as the site's own script would ask for one."""
    browser, now, address = browsers.draw(dice, browsers.DESKTOPS), start, places.hosting(dice)
    headers = browser.call("/app") if dice.random() < 0.6 else headers_of(dice.choice(TOOLS))
    pause = _pause(dice, dice.lognormvariate(-1.0, 0.8))
    for number in range(1, min(site.items, int(dice.lognormvariate(7.0, 0.5)))):
        yield Request(now, address, "GET", f"/api/items/{number}", b"", headers)
        now += pause()


def claim(site: Site, start: float, dice: random.Random) -> Iterable[Request]:
    """Says that it is Googlebot and comes from somebody's server."""
    headers = headers_of("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)")
    address, pages, gap = places.hosting(dice), int(dice.lognormvariate(6.0, 0.6)), dice.lognormvariate(0.3, 0.8)
    return _scrape(dice, site, start, pages, gap, lambda: address, lambda: headers)


def scanner(site: Site, start: float, dice: random.Random) -> Iterable[Request]:
    """Hundreds of paths that might be there."""
    headers, address, now = headers_of(dice.choice(SCANNERS)), places.hosting(dice), start
    paths = [*PROBES, *(f"/{one}{ending}" for one in STEMS for ending in (".php", ".zip", "/", ".bak", "_old", ".sql"))]
    paths += [f"/{one}/{other}.php" for one in STEMS for other in STEMS]
    dice.shuffle(paths)
    pause = _pause(dice, dice.lognormvariate(-1.5, 1.0))
    for path in paths[: int(dice.lognormvariate(6.0, 0.6)) + 60]:
        method = dice.choices(("GET", "HEAD", "POST", "PUT", "PROPFIND", "OPTIONS"), (80, 8, 8, 2, 1, 1))[0]
        yield Request(now, address, method, path, b"", headers)
        now += pause()


def probe(site: Site, start: float, dice: random.Random) -> Iterable[Request]:
    """The background noise of the net: the home page perhaps, a few paths, and gone."""
    headers, address, now = headers_of(dice.choice(SCANNERS)), places.hosting(dice), start
    for path in [*(("/",) if dice.random() < 0.4 else ()), *dice.sample(PROBES, dice.randint(1, 14))]:
        yield Request(now, address, "GET", path, b"", headers)
        now += dice.lognormvariate(-0.5, 1.0)


def stuffing(site: Site, start: float, dice: random.Random, spread: int = 1) -> Iterable[Request]:
    """Leaked passwords against the login, one after another; one in two hundred is right."""
    browser, now = browsers.draw(dice, browsers.DESKTOPS), start
    pool = [places.hosting(dice) if spread == 1 else places.home(dice) for _ in range(spread)]
    form = (b"content-type", b"application/x-www-form-urlencoded")
    headers = (*_claimed(dice, browser), form)
    pause = _pause(dice, dice.lognormvariate(-0.5, 0.7))
    tries, fetches = int(dice.lognormvariate(6.5, 0.4)) + 250, False
    if spread > 1 and dice.random() < 0.4:  # a library, which fetches the form for the token in it, or does not
        headers, fetches = (*headers_of(dice.choice(TOOLS)), form), dice.random() < 0.5
    for number in range(tries):
        address = dice.choice(pool)
        if fetches:
            yield Request(now, address, "GET", "/login", b"", headers)
        yield Request(now + 0.2 * fetches, address, "POST", "/login", b"", headers, valid=number % 200 == 150)
        now += pause()


def lone(kind: Kind, site: Site, seconds: float, dice: random.Random, address: str = "") -> Actor:
    """Return one attacker of a kind."""
    long = kind in (SLOW, PATIENT)
    start = dice.uniform(0, seconds * (0.4 if long else 0.9))
    if address:
        return Actor(kind, start, partial(fast, site, start, address=address))
    if kind is STUFFING_WIDE:
        return Actor(kind, start, partial(stuffing, site, start, spread=int(dice.lognormvariate(5.5, 0.7)) + 20))
    return Actor(kind, start, partial(LONE[kind], site, start))


LONE: dict[Kind, Callable[[Site, float, random.Random], Iterable[Request]]] = {
    FAST: fast,
    SLOW: slow,
    ROTATING: rotating,
    AGENTS: agents,
    HEADLESS: headless,
    FORGER: forger,
    PATIENT: patient,
    API: api,
    CLAIM: claim,
    SCANNER: scanner,
    PROBE: probe,
    STUFFING: stuffing,
}
