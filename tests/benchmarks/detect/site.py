"""The modelled site: pages with a link graph, their files, an API, feeds, a login, and what it answers for the rest."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from .traffic import Request
from .words import WORDS

HOST = "www.example.com"
ORIGIN = f"https://{HOST}"
HTML = b"text/html; charset=utf-8"
JSON = b"application/json"
SECTIONS = ("articles", "blog", "docs", "guides", "help", "news", "products", "reviews", "stories", "tutorials")
LIVE = "/live"  # a page that polls
SPA = "/app"  # a page that is an app
FIXED = ("/", LIVE, SPA, "/about", "/contact", "/pricing", "/search", "/login", "/privacy", "/terms", "/feed")
# Pages that their queries tell apart, beside those of the link graph.
SHOP, THING, BOARD, TOPIC, CALENDAR = "/shop", "/shop/thing", "/forum", "/forum/topic", "/calendar"
QUERIED = frozenset((SHOP, THING, BOARD, TOPIC, CALENDAR))
# Where people work through cases, and what takes a code or a card; a link with a code, and a websocket.
DESK, COUPON, PAY = "/desk", "/cart/coupon", "/checkout/pay"
INVITE, SOCKET = "/invite", "/ws"
# A form that shows what it finds, and where another company's servers report by form.
FIND, REPORTS = "/find", "/sms/status"
# Forbidden by the web server's own rules, redirected to the login, or not there at all.
FORBIDDEN = ("/.git/", "/.ht", "/server-status")
PRIVATE = ("/admin", "/account", "/dashboard")
TROUBLE = 0.0004  # share of requests answered 500 on a good day


@dataclass(frozen=True, slots=True)
class Reply:
    """What the site answers."""

    status: int
    content_type: bytes = HTML
    location: bytes = b""
    length: bytes = b""

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the response headers."""
        headers = [(b"content-type", self.content_type)] if self.status not in (204, 304) else []
        further = ((b"location", self.location), (b"content-length", self.length))
        return headers + [line for line in further if line[1]]


@dataclass(slots=True)
class Site:
    """Some hundreds of pages; which ones differs from seed to seed."""

    dice: random.Random
    pages: tuple[str, ...] = ()
    sections: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    links: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    moved: Mapping[str, str] = field(default_factory=dict)
    dead: tuple[str, ...] = ()  # linked somewhere, gone
    missing: frozenset[str] = frozenset()  # files that pages ask for and that are not there
    items: int = 0  # /api/items/1 and so on
    things: int = 0  # /shop/thing?id=1 and so on
    topics: int = 0  # /forum/topic?t=1 and so on
    outages: tuple[tuple[float, float], ...] = ()  # from and until, seconds
    weights: Sequence[float] = ()
    _known: frozenset[str] = frozenset()

    @classmethod
    def build(cls, seed: str, seconds: float) -> Site:
        """Draw a site and its day."""
        dice = random.Random(f"{seed}/site")
        site = cls(dice)
        sections = dice.sample(SECTIONS, dice.randint(3, 6))
        size = int(min(900, max(150, dice.lognormvariate(5.9, 0.5))))
        site.sections = {name: _section(dice, name, size // len(sections)) for name in sections}
        articles = [page for pages in site.sections.values() for page in pages]
        site.pages = (*FIXED, *(f"/{name}" for name in sections), *articles)
        site.links = {page: _links(dice, page, site.sections, articles) for page in site.pages}
        site.files = {page: _files(dice, page) for page in site.pages}
        site.moved = {f"/old{page}": page for page in dice.sample(articles, 30)}
        site.dead = tuple(f"{page}-draft" for page in dice.sample(articles, 12))
        images = sorted({file for files in site.files.values() for file in files if "/img/" in file})
        site.missing = frozenset(dice.sample(images, len(images) // 40))
        site.items = dice.randint(200, 5_000)
        starts = [dice.uniform(0, seconds) for _ in range(dice.randint(0, 2))]
        site.outages = tuple((start, start + dice.uniform(30, 300)) for start in starts)
        popularity = [1 / (rank + 3) for rank in range(len(articles))]
        site.weights = tuple(accumulate(popularity))
        site._known = frozenset(site.pages)
        counts = random.Random(f"{seed}/queries")
        site.things, site.topics = (int(counts.lognormvariate(7.0, 0.6)) + 100 for _ in range(2))
        return site

    def entry(self, dice: random.Random) -> str:
        """Return a page where visits begin: a popular one, or the home page."""
        if dice.random() < 0.25:
            return "/"
        first = len(self.pages) - len(self.weights)
        return dice.choices(self.pages[first:], cum_weights=self.weights)[0]

    def articles(self) -> tuple[str, ...]:
        """Return the pages below the sections, section by section."""
        return self.pages[len(self.pages) - len(self.weights) :]

    def answer(self, request: Request) -> Reply:
        """Answer as the site does: the app behind the middleware."""
        if any(start <= request.at < end for start, end in self.outages) and self.dice.random() < 0.4:
            return Reply(503)
        if self.dice.random() < TROUBLE:
            return Reply(500)
        path = request.path
        if path.startswith("/static/") or path == "/favicon.ico":
            if path in self.missing:
                return Reply(404)
            return Reply(304 if request.conditional else 200, _file_type(path))
        if path.startswith("/api/"):
            return self._api(request)
        if path.startswith((DESK, COUPON, PAY)):
            return self._work(request)
        if path == REPORTS:
            return Reply(200, length=b"2")
        if path == FIND:
            return Reply(200 if request.valid or request.method == "GET" else 500)
        if path in (INVITE, SOCKET):
            return Reply(200) if request.valid else Reply(404 if path == INVITE else 403)
        if path in self._known or path in QUERIED:
            return self._page(request)
        return self._rest(request)

    def _page(self, request: Request) -> Reply:
        if request.method == "POST":
            if request.path == "/login":
                return Reply(303, location=b"/dashboard") if request.valid else Reply(401)
            return Reply(303, location=b"/about") if request.path == "/contact" else Reply(405)
        if request.path == "/feed":
            return Reply(304 if request.conditional else 200, b"application/rss+xml")
        if request.method == "OPTIONS":
            return Reply(405)
        return Reply(304) if request.conditional and self.dice.random() < 0.6 else Reply(200)

    def _api(self, request: Request) -> Reply:
        _, _, name, *rest = request.path.split("/")
        if name in ("status", "search", "items", "suggest", "prices", "list", "thing", "events", "find"):
            if name == "items" and rest and not (rest[0].isdigit() and 1 <= int(rest[0]) <= self.items):
                return Reply(404, JSON)
            return Reply(200, JSON)
        if name == "fragment":
            return Reply(200)
        if name == "beacon":
            return Reply(204)
        if name in ("me", "orders", "sync"):
            return Reply(200, JSON) if request.valid else Reply(401, JSON)
        return Reply(404, JSON)

    def _work(self, request: Request) -> Reply:
        if request.path in (COUPON, PAY):
            return Reply(200 if request.valid else 404 if request.path == COUPON else 402, JSON)
        if request.method == "POST":
            return Reply(303, location=request.query.removeprefix(b"to=")) if request.valid else Reply(422)
        return Reply(200)

    def _rest(self, request: Request) -> Reply:
        path = request.path
        if path == "/robots.txt":
            return Reply(200, b"text/plain")
        if path == "/sitemap.xml":
            return Reply(200, b"application/xml")
        if path in self.moved:
            return Reply(301, location=self.moved[path].encode())
        if len(path) > 1 and path.endswith("/") and path[:-1] in self._known:
            return Reply(301, location=path[:-1].encode())
        if path.startswith(FORBIDDEN):
            return Reply(403)
        if path.startswith(PRIVATE):
            return Reply(200) if request.valid else Reply(302, location=b"/login")
        return Reply(404)


def _section(dice: random.Random, name: str, count: int) -> tuple[str, ...]:
    style = dice.choice(("slug", "slug", "number", "dated", "hex"))
    found: dict[str, None] = {}
    while len(found) < count:
        slug = "-".join(dice.sample(WORDS, dice.randint(2, 4)))
        found[f"/{name}/{_leaf(dice, style, len(found) + 1, slug)}"] = None
    return tuple(found)


def _leaf(dice: random.Random, style: str, number: int, slug: str) -> str:
    if style == "number":
        return str(1000 + number)
    if style == "dated":
        return f"{dice.randint(2019, 2026)}/{dice.randint(1, 12):02}/{slug}"
    return f"{dice.getrandbits(32):08x}" if style == "hex" else slug


def _links(
    dice: random.Random, page: str, sections: Mapping[str, tuple[str, ...]], articles: Sequence[str]
) -> tuple[str, ...]:
    """An index page lists its section in order; other pages link a few of theirs and a few elsewhere."""
    name = page.strip("/").partition("/")[0]
    if page == f"/{name}" and name in sections:
        return sections[name]
    near = sections.get(name, tuple(articles))
    chosen = dice.sample(near, min(len(near), dice.randint(4, 12))) + dice.sample(articles, dice.randint(2, 8))
    return tuple(dict.fromkeys((*chosen, *(f"/{one}" for one in sections), "/", "/about", "/pricing")))


def _files(dice: random.Random, page: str) -> tuple[str, ...]:
    shared = ("/static/site.css", "/static/site.js", "/static/logo.svg", "/static/text.woff2")
    images = (f"/static/img/{dice.getrandbits(24):06x}.webp" for _ in range(min(12, int(dice.expovariate(0.35)))))
    return (*shared, *images)


def _file_type(path: str) -> bytes:
    ending = path.rpartition(".")[2]
    types = {"css": b"text/css", "js": b"text/javascript", "svg": b"image/svg+xml", "woff2": b"font/woff2"}
    return types.get(ending, b"image/webp")
