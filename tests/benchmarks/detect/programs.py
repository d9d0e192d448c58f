"""Programs that say what they are: feed readers, monitors, API clients, apps, crawlers polite and rude, AI agents."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from . import browsers, places
from .site import HOST, Site
from .surfer import Surfer
from .traffic import Actor, Headers, Kind, Label, Request

FEED_READER = Kind("feed readers", Label.GOOD)
MONITOR = Kind("monitors", Label.GOOD)
API_CLIENT = Kind("API clients", Label.GOOD)
APP = Kind("mobile apps", Label.GOOD)
PREVIEW = Kind("link previews", Label.GOOD)
POLITE = Kind("crawlers, declared, polite", Label.GOOD)
FETCHER = Kind("AI fetchers for a person, declared", Label.GOOD)
RUDE = Kind("crawlers, declared, rude", Label.EITHER)
AGENT = Kind("AI agents in a real browser", Label.EITHER)

_GECKO = "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible;"
# User agent, classes that are right for it, where it comes from. Written down by hand, not taken from any list.
SEARCH, AI, SEO = frozenset(["search-engine"]), frozenset(["ai-crawler", "search-engine"]), frozenset(["seo"])
Declared = tuple[str, frozenset[str], str]
CRAWLERS: tuple[Declared, ...] = (
    ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", SEARCH, "66.249.64"),
    (f"{_GECKO} Googlebot/2.1; +http://www.google.com/bot.html) Chrome/157.0.0.0 Safari/537.36", SEARCH, "66.249.66"),
    (f"{_GECKO} bingbot/2.0; +http://www.bing.com/bingbot.htm) Chrome/136.0.0.0 Safari/537.36", SEARCH, "40.77.167"),
    ("DuckDuckBot/1.1; (+http://duckduckgo.com/duckduckbot.html)", SEARCH, "20.191.45"),
    ("Mozilla/5.0 (compatible; YandexBot/3.0; +http://yandex.com/bots)", SEARCH, "5.255.253"),
    ("Mozilla/5.0 (compatible; Baiduspider/2.0; +http://www.baidu.com/search/spider.html)", SEARCH, "116.179.32"),
    (
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_5) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/13.1.1 "
        "Safari/605.1.15 (Applebot/0.1; +http://www.apple.com/go/applebot)",
        SEARCH,
        "17.241.75",
    ),
    (f"{_GECKO} GPTBot/1.3; +https://openai.com/gptbot)", AI, "20.171.207"),
    (f"{_GECKO} ClaudeBot/1.0; +claudebot@anthropic.com)", AI, "216.73.216"),
    (f"{_GECKO} PerplexityBot/1.0; +https://perplexity.ai/perplexitybot)", AI, "44.208.221"),
    (f"{_GECKO} OAI-SearchBot/1.3; robots.txt; +https://openai.com/searchbot)", AI, "51.8.102"),
    ("CCBot/2.0 (https://commoncrawl.org/faq/)", AI, "18.97.9"),
    ("Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)", SEO, "54.36.148"),
    ("Mozilla/5.0 (compatible; SemrushBot/7~bl; +http://www.semrush.com/bot.html)", SEO, "185.191.171"),
    ("Mozilla/5.0 (compatible; MJ12bot/v1.4.8; http://mj12bot.com/)", SEO, "144.76.30"),
    (
        "Mozilla/5.0 (compatible; archive.org_bot +http://archive.org/details/archive.org_bot)",
        frozenset(["archiver"]),
        "207.241.229",
    ),
)
RUDE_ONES: tuple[Declared, ...] = (
    (
        "Mozilla/5.0 (Linux; Android 5.0) AppleWebKit/537.36 (KHTML, like Gecko) Mobile Safari/537.36 "
        "(compatible; Bytespider; spider-feedback@bytedance.com)",
        AI,
        "110.249.201",
    ),
    ("Mozilla/5.0 (compatible; Amazonbot/0.1; +https://developer.amazon.com/support/amazonbot)", AI, "54.164.120"),
    ("Mozilla/5.0 (compatible; DataForSeoBot/1.0; +https://dataforseo.com/dataforseo-bot)", SEO, "136.243.220"),
    ("Mozilla/5.0 (compatible; Barkrowler/0.9; +https://babbar.tech/crawler)", SEO, "154.54.249"),
    ("meta-externalagent/1.1 (+https://developers.facebook.com/docs/sharing/webmasters/crawler)",
     AI | {"social-preview"}, "57.141.4"),
)  # fmt: skip
PREVIEWS: tuple[Declared, ...] = tuple(
    (agent, frozenset(["social-preview"]), prefix)
    for agent, prefix in (
        ("facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)", "31.13.115"),
        ("Twitterbot/1.0", "199.16.157"),
        ("Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)", "3.94.180"),
        ("LinkedInBot/1.0 (compatible; Mozilla/5.0; Apache-HttpClient +http://www.linkedin.com)", "108.174.5"),
        ("Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)", "35.237.4"),
        ("WhatsApp/2.24.20.0", "80.187.81"),
    )
)
FETCHERS: tuple[Declared, ...] = (
    (f"{_GECKO[:-13]}); compatible; ChatGPT-User/1.0; +https://openai.com/bot", AI, "23.98.142"),
    (f"{_GECKO} Claude-User/1.0; +Claude-User@anthropic.com)", AI, "160.79.104"),
    (f"{_GECKO} Perplexity-User/1.0; +https://perplexity.ai/perplexity-user)", AI, "44.221.181"),
)
FEED = frozenset(["feed-reader"])
FEED_READERS: tuple[Declared, ...] = (
    ("Feedly/1.0 (+http://www.feedly.com/fetcher.html; 12 subscribers; like FeedFetcher-Google)", FEED, "8.29.198"),
    ("Mozilla/5.0 (compatible; Miniflux/2.2.3; +https://miniflux.app)", FEED, ""),
    ("FreshRSS/1.27.1 (Linux; https://freshrss.org)", FEED, ""),
    ("Tiny Tiny RSS/25.10 (https://tt-rss.org/)", FEED, ""),
    ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Thunderbird/140.5.0", frozenset(), ""),
    ("Inoreader/1.0 (+http://www.inoreader.com/feed-fetcher; 3 subscribers; )", FEED, "216.218.223"),
    ("gofeed-reader/0.3 (self-hosted)", frozenset(), ""),
)
WATCH = frozenset(["monitoring"])
MONITORS: tuple[Declared, ...] = (
    ("Mozilla/5.0+(compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)", WATCH, "216.144.248"),
    ("Pingdom.com_bot_version_1.4_(http://www.pingdom.com/)", WATCH, "178.255.155"),
    ("Uptime-Kuma/2.0.2", WATCH, ""),
    ("Blackbox Exporter/0.27.0", WATCH, ""),
    ("health-check/1.2", frozenset(), ""),
)
LIBRARIES = ("python-requests/2.32.5", "okhttp/5.1.0", "axios/1.13.2", "Go-http-client/2.0", "AcmeSync/4.1 (build 812)")


def headers_of(agent: str, *more: tuple[str, str]) -> Headers:
    """Return what a program sends: little."""
    lines = (("host", HOST), ("user-agent", agent), ("accept", "*/*"), ("accept-encoding", "gzip, deflate, br"), *more)
    return tuple((name.encode(), value.encode()) for name, value in lines)


@dataclass(slots=True)
class Program:
    """Sends requests one after another, each from the next of its addresses at random."""

    dice: random.Random
    addresses: Sequence[str]
    headers: Headers
    now: float

    def get(self, path: str, method: str = "GET", query: bytes = b"", **flags: bool) -> Request:
        """Return a request now."""
        address = self.dice.choice(self.addresses)
        return Request(self.now, address, method, path, query, self.headers, **flags)


def _addresses(dice: random.Random, prefix: str, most: int) -> list[str]:
    if not prefix:
        return [places.hosting(dice)]
    return [f"{prefix}.{dice.randrange(1, 255)}" for _ in range(dice.randint(1, most))]


def feed_reader(site: Site, program: Program, until: float) -> Iterable[Request]:
    """The feed by a timer, mostly unchanged; a new entry is fetched."""
    dice = program.dice
    every = dice.choice((900.0, 900.0, 1800.0, 3600.0))
    while program.now < until:
        yield program.get("/feed", conditional=dice.random() < 0.85)
        if dice.random() < 0.06:
            program.now += 0.4
            yield program.get(site.entry(dice))
        program.now += every + dice.gauss(0, every * dice.choice((0.0005, 0.02)))


def monitor(site: Site, program: Program, until: float) -> Iterable[Request]:
    """One or a few pages by a timer."""
    dice = program.dice
    every = dice.choice((30.0, 60.0, 60.0, 60.0, 300.0))
    watched = ["/", *dice.sample(site.articles(), dice.choice((0, 0, 2, 5)))]
    method = dice.choice(("GET", "GET", "HEAD"))
    while program.now < until:
        for path in watched:
            yield program.get(path, method)
            program.now += 0.3
        program.now += max(1.0, every + dice.gauss(0, 0.05))


def api_client(site: Site, program: Program, until: float) -> Iterable[Request]:
    """A job that pages through a list every so often, or syncs; tokens run out and are renewed."""
    dice = program.dice
    every, calls = dice.choice((300.0, 900.0, 3600.0)), int(dice.lognormvariate(2.2, 0.8)) + 1
    while program.now < until:
        if dice.random() < 0.05:
            yield program.get("/api/sync", valid=False)
            program.now += 0.5
        for number in range(calls):
            path = dice.choice(("/api/orders", f"/api/items/{dice.randint(1, int(site.items * 1.02))}"))
            yield program.get(path, query=b"page=%d" % number, valid=True)
            program.now += dice.lognormvariate(-1.0, 0.6)
        program.now += max(5.0, dice.gauss(every, every * 0.02))


def app(site: Site, program: Program, until: float) -> Iterable[Request]:
    """A person with a phone; the program asks for JSON and pictures."""
    dice = program.dice
    images = [file for files in site.files.values() for file in files if "/img/" in file]
    for _ in range(int(dice.lognormvariate(2.0, 0.8)) + 1):
        for _ in range(dice.randint(1, 4)):
            yield program.get(
                dice.choice(("/api/me", "/api/search", f"/api/items/{dice.randint(1, site.items)}")), valid=True
            )
            program.now += dice.expovariate(8)
        for _ in range(dice.randint(0, 8)):
            yield program.get(dice.choice(images))
            program.now += dice.expovariate(20)
        program.now += dice.lognormvariate(2.2, 1.0)


def preview(site: Site, program: Program, until: float) -> Iterable[Request]:
    """A link was shared: one look at it, again when the next person shares it."""
    path = site.entry(program.dice)
    for _ in range(1 + int(program.dice.expovariate(0.5))):
        yield program.get(path)
        program.now += program.dice.expovariate(1 / 600)


def fetcher(site: Site, program: Program, until: float) -> Iterable[Request]:
    """An assistant looks things up for a person: a few pages within a minute."""
    for _ in range(1 + int(program.dice.expovariate(0.4))):
        yield program.get(site.entry(program.dice))
        program.now += program.dice.lognormvariate(1.3, 0.8)


def crawler(site: Site, program: Program, until: float, gap: float, pages: int, heeds: bool) -> Iterable[Request]:
    """robots.txt, the sitemap, then pages in an order of its own: by the sitemap, by links, or by a queue."""
    dice = program.dice
    if heeds:
        yield program.get("/robots.txt")
        program.now += gap
    order = list(site.pages)
    manner = dice.choice(("sitemap", "queue", "queue", "sorted"))
    if manner == "queue":
        dice.shuffle(order)
    elif manner == "sorted":
        order.sort()
    order = [*(order * (pages // len(order) + 1))][:pages]
    for path in order:
        if program.now > until:
            return
        if dice.random() < 0.03:
            path = dice.choice((*site.dead, *site.moved))
        yield program.get(path, conditional=dice.random() < 0.15)
        program.now += dice.choice((gap, dice.expovariate(1 / gap), dice.uniform(0.5, 1.5) * gap))


def agent(site: Site, start: float, dice: random.Random) -> Iterable[Request]:
    """A model drives a real browser for somebody: seconds of inference between steps, few detours."""
    address = dice.choice((places.home, places.hosting))(dice)
    surfer = Surfer(dice, site, browsers.draw(dice, browsers.DESKTOPS[:1]), address, start)
    surfer.load(site.entry(dice), "", typed=True)
    for _ in range(int(dice.lognormvariate(2.3, 0.6))):
        surfer.wait(dice.lognormvariate(1.8, 0.45))
        surfer.follow(surfer.link()) if dice.random() < 0.8 else surfer.load(site.entry(dice), "", typed=True)
    return surfer.sent


Work = Callable[..., Iterable[Request]]  # of site, program and the time until which it works
# kind → what it does, who does it, most addresses, and whether it comes once a day or stays
WORK: dict[Kind, tuple[Work, tuple[Declared, ...], int, bool]] = {
    FEED_READER: (feed_reader, FEED_READERS, 3, True),
    MONITOR: (monitor, MONITORS, 8, True),
    PREVIEW: (preview, PREVIEWS, 4, False),
    FETCHER: (fetcher, FETCHERS, 6, False),
}


def lone(kind: Kind, site: Site, seconds: float, dice: random.Random) -> Actor:
    """Return one program of a kind."""
    start = dice.uniform(0, seconds * 0.9)
    if kind is AGENT:
        return Actor(kind, start, partial(agent, site, start))
    if kind is API_CLIENT:
        headers = headers_of(dice.choice(LIBRARIES), ("authorization", "Bearer 5f3a"))
        return _actor(kind, start * 0.1, partial(api_client, site, until=seconds), [places.hosting(dice)], headers)
    if kind is APP:
        name = dice.choice(
            ("okhttp/5.1.0", "Shop/7.2 CFNetwork/3826.500.131 Darwin/25.1.0", "ShopAndroid/7.2 (SM-A556B)")
        )
        headers = headers_of(name, ("authorization", "Bearer 77aa"), ("accept-language", "en-US"))
        return _actor(kind, start, partial(app, site, until=seconds), [places.mobile(dice)], headers)
    if kind in (POLITE, RUDE):
        return _crawler(kind, site, start, seconds, dice)
    work, declared, most, stays = WORK[kind]
    agent_text, classes, prefix = dice.choice(declared)
    start = dice.uniform(0, 600) if stays else start
    found = _actor(
        kind, start, partial(work, site, until=seconds), _addresses(dice, prefix, most), headers_of(agent_text)
    )
    found.classes = classes
    return found


def _crawler(kind: Kind, site: Site, start: float, seconds: float, dice: random.Random) -> Actor:
    polite = kind is POLITE
    name, classes, prefix = dice.choice(CRAWLERS if polite else RUDE_ONES)
    gap = dice.lognormvariate(2.0, 0.7) if polite else dice.lognormvariate(-0.7, 0.7)
    pages = int(dice.lognormvariate(5.0, 0.7) if polite else dice.lognormvariate(6.6, 0.6))
    crawl = partial(crawler, site, until=seconds, gap=gap, pages=pages, heeds=polite or dice.random() < 0.4)
    found = _actor(kind, start * 0.5, crawl, _addresses(dice, prefix, 6), headers_of(name, ("from", "bot@example.net")))
    found.classes = classes
    return found


def _actor(
    kind: Kind,
    start: float,
    work: Work,
    addresses: Sequence[str],
    headers: Headers,
) -> Actor:
    return Actor(kind, start, lambda own: work(program=Program(own, addresses, headers, start)))
