"""Lifelike traffic for the demo: visitors with think time, crawlers, an office, scrapers, a scanner; over real HTTP."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TextIO

from ..columns import bar, terminal_columns

MAX_CONNECTIONS = 64  # at once
TIMEOUT = 15.0  # seconds for one answer
HUMANS_PER_SECOND = 0.7

_CHROME = "AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{chrome}.0.0.0"
_SAFARI = "AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.{minor}"
_WINDOWS = "Mozilla/5.0 (Windows NT 10.0; Win64; x64)"
_MAC = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7)"
BROWSERS = (
    f"{_WINDOWS} {_CHROME} Safari/537.36",
    f"{_WINDOWS} {_CHROME} Safari/537.36 Edg/{{chrome}}.0.0.0",
    f"{_MAC} {_CHROME} Safari/537.36",
    f"{_MAC} {_SAFARI} Safari/605.1.15",
    f"Mozilla/5.0 (iPhone; CPU iPhone OS 18_{{minor}} like Mac OS X) {_SAFARI} Mobile/15E148 Safari/604.1",
    f"Mozilla/5.0 (iPad; CPU OS 18_{{minor}} like Mac OS X) {_SAFARI} Mobile/15E148 Safari/604.1",
    f"Mozilla/5.0 (Linux; Android 10; K) {_CHROME} Mobile Safari/537.36",
    f"Mozilla/5.0 (Linux; Android 10; K) {_CHROME} Mobile Safari/537.36 SamsungBrowser/28.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:{firefox}.0) Gecko/20100101 Firefox/{firefox}.0",
    "Mozilla/5.0 (X11; Linux x86_64; rv:{firefox}.0) Gecko/20100101 Firefox/{firefox}.0",
)
PLACES = (  # first bytes of an access network's addresses, and the languages of its people
    ("84.130", "de-DE,de;q=0.9,en;q=0.8"),
    ("91.10", "de-DE,de;q=0.9"),
    ("90.20", "fr-FR,fr;q=0.9,en;q=0.7"),
    ("86.130", "en-GB,en;q=0.9"),
    ("24.60", "en-US,en;q=0.9"),
    ("73.40", "en-US,en;q=0.9,es;q=0.8"),
    ("126.30", "ja-JP,ja;q=0.9,en;q=0.7"),
    ("189.30", "pt-BR,pt;q=0.9"),
    ("49.37", "en-IN,en;q=0.9,hi;q=0.8"),
    ("1.130", "en-AU,en;q=0.9"),
    ("83.40", "es-ES,es;q=0.9"),
    ("79.20", "it-IT,it;q=0.9"),
)
ENTRIES = (  # where people come from: Referer and the query of their first page
    ("https://www.google.com/", ""),
    ("https://www.google.com/", ""),
    ("https://www.google.de/", "?gclid=Cj0demo"),
    ("https://www.bing.com/", ""),
    ("https://duckduckgo.com/", ""),
    ("https://chatgpt.com/", "?utm_source=chatgpt.com"),
    ("https://www.perplexity.ai/", ""),
    ("https://news.ycombinator.com/", ""),
    ("https://www.linkedin.com/", "?utm_source=linkedin&utm_medium=social"),
    ("https://t.co/x", ""),
    (None, "?utm_source=newsletter&utm_medium=email&utm_campaign=november"),
    (None, ""),
    (None, ""),
)
_LIKE_GECKO = "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible;"
CRAWLERS = (  # user agent, address, seconds between two pages
    ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "66.249.66.1", 4.0),
    ("Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)", "40.77.167.12", 6.0),
    (f"{_LIKE_GECKO} GPTBot/1.2; +https://openai.com/gptbot)", "20.171.207.4", 3.0),
    (f"{_LIKE_GECKO} ClaudeBot/1.0; +claudebot@anthropic.com)", "216.73.216.7", 5.0),
    ("Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)", "54.36.148.9", 2.5),
    ("facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)", "31.13.115.3", 20.0),
)
PROBES = ("/.env", "/wp-login.php", "/.git/config", "/phpmyadmin/", "/admin.php", "/config.json", "/backup.zip")
SCRIPTS = (
    "python-requests/2.32.3",
    "Go-http-client/1.1",
    "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/79.0.0.0 Safari/537.36",
)


Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One request: `pause` seconds after the one before."""

    pause: float
    target: str
    referer: str | None = None


@dataclass(frozen=True, slots=True)
class Visit:
    """What one visitor does, from `starts_at` seconds on; `headers` go with each request."""

    kind: str
    starts_at: float
    address: str
    headers: Headers
    steps: tuple[Step, ...]


def plan(seed: int, seconds: int, articles: int) -> list[Visit]:
    """Return who comes within so many seconds and does what; the same for the same seed."""
    dice = random.Random(seed)  # noqa: S311 - the same traffic again is the point
    visits = [_human(dice, seconds, articles) for _ in range(max(3, int(seconds * HUMANS_PER_SECOND)))]
    visits += [_crawler(dice, seconds, articles, *crawler) for crawler in CRAWLERS]
    visits += _office(dice, seconds, articles)
    visits.append(_polling_tab(dice, seconds))
    visits += [_scraper(dice, seconds, articles, script) for script in SCRIPTS]
    visits.append(_scanner(dice, seconds))
    return sorted((_within(visit, seconds) for visit in visits), key=lambda visit: visit.starts_at)


def play(visits: Sequence[Visit], host: str, port: int, stopping: threading.Event) -> int:
    """Send the visits in real time, with a progress bar on stderr; returns how many requests were answered."""
    return asyncio.run(_Stage(visits, host, port, stopping).play())


def bracketed(host: str) -> str:
    """Return a host as URLs have it: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


class Progress:
    """A bar that is redrawn on a terminal; elsewhere a line for each tenth."""

    def __init__(self, total: int, stream: TextIO) -> None:
        self._total = max(1, total)
        self._stream = stream
        self._drawn = -1
        self._tty = terminal_columns(stream) > 0
        self.done = 0

    def step(self) -> None:
        """Count one request."""
        self.done += 1
        share = self.done * 100 // self._total
        shown = share if self._tty else share // 10 * 10
        if shown == self._drawn:
            return
        self._drawn = shown
        if self._tty:
            room = terminal_columns(self._stream) - 1
            text = f"{share:3} % of {self._total} requests"
            text = f"traffic {bar(share / 100, room - len(text) - 9)} {text}"[:room]
            end = "\n" if self.done == self._total else ""
            print(f"\r{text}\x1b[K", end=end, file=self._stream, flush=True)
        else:
            print(f"traffic {shown} % of {self._total} requests", file=self._stream, flush=True)


class _Stage:
    """Plays visits at once, each request over a connection of its own."""

    def __init__(self, visits: Sequence[Visit], host: str, port: int, stopping: threading.Event) -> None:
        self._visits = visits
        self._host = host
        self._port = port
        self._stopping = stopping
        self._progress = Progress(sum(len(visit.steps) for visit in visits), sys.stderr)
        self._answered = 0

    async def play(self) -> int:
        self._connections = asyncio.Semaphore(MAX_CONNECTIONS)
        tasks = [asyncio.create_task(self._visit(visit)) for visit in self._visits]
        waiting: set[asyncio.Task[None]] = set(tasks)
        while waiting and not self._stopping.is_set():
            _, waiting = await asyncio.wait(waiting, timeout=0.2)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=bool(waiting))
        return self._answered

    async def _visit(self, visit: Visit) -> None:
        await asyncio.sleep(visit.starts_at)
        for step in visit.steps:
            await asyncio.sleep(step.pause)
            async with self._connections:
                try:
                    answered = await asyncio.wait_for(self._request(visit, step), TIMEOUT)
                    self._answered += answered  # not with the await in between, where others are counted
                except (OSError, TimeoutError):
                    pass  # a server that is shutting down, or a visitor without patience: neither is answered
            self._progress.step()

    async def _request(self, visit: Visit, step: Step) -> bool:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(_message(visit, step, f"{bracketed(self._host)}:{self._port}"))
            return (await reader.read()).startswith(b"HTTP/1.1 ")
        finally:
            writer.close()


def _message(visit: Visit, step: Step, host: str) -> bytes:
    referer = step.referer.format(host=f"http://{host}") if step.referer else None
    lines = [f"GET {step.target} HTTP/1.1", f"Host: {host}", f"X-Forwarded-For: {visit.address}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in visit.headers]
    lines += [f"Referer: {referer}"] if referer else []
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _human(dice: random.Random, seconds: int, articles: int) -> Visit:
    prefix, language = dice.choice(PLACES)
    address = f"{prefix}.{dice.randrange(256)}.{dice.randrange(1, 255)}"
    steps = tuple(_reading(dice, articles, dice.randint(1, 7)))
    return Visit("human", dice.uniform(0, seconds * 0.8), address, _browser(dice, language), steps)


def _reading(dice: random.Random, articles: int, pages: int) -> Iterator[Step]:
    """Come from somewhere, then follow links at a person's pace, with the style sheet behind the first page."""
    referer, query = dice.choice(ENTRIES)
    page = dice.choice(("/", "/", "/articles", f"/articles/{dice.randint(1, articles)}", "/pricing"))
    yield Step(0.0, page + query, referer)
    yield Step(0.1, "/static/site.css", "{host}" + page)
    for _ in range(pages - 1):
        following = dice.choice(("/articles", "/about", "/pricing", "/", *_some(dice, articles, 6)))
        yield Step(min(40.0, dice.lognormvariate(1.8, 0.7)), following, "{host}" + page)
        page = following


def _some(dice: random.Random, articles: int, count: int) -> list[str]:
    return [f"/articles/{dice.randint(1, articles)}" for _ in range(count)]


def _browser(dice: random.Random, language: str) -> Headers:
    template = dice.choice(BROWSERS)
    agent = template.format(chrome=dice.randint(128, 142), firefox=dice.randint(128, 145), minor=dice.randint(0, 5))
    return (
        ("User-Agent", agent),
        ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        ("Accept-Language", language),
        ("Accept-Encoding", "gzip, deflate, br, zstd"),
        *((("DNT", "1"),) if dice.random() < 0.04 else ()),
    )


def _crawler(dice: random.Random, seconds: int, articles: int, agent: str, address: str, gap: float) -> Visit:
    pages = ["/", "/articles", *_some(dice, articles, max(1, int(seconds / gap)))]
    steps = tuple(Step(gap * dice.uniform(0.5, 1.5) if place else 0.0, page) for place, page in enumerate(pages))
    return Visit("crawler", dice.uniform(0, 2), address, (("User-Agent", agent), ("Accept", "*/*")), steps)


def _office(dice: random.Random, seconds: int, articles: int) -> list[Visit]:
    """Eight people behind one address; half of them have the same browser."""
    shared = _browser(dice, "de-DE,de;q=0.9")
    starts = [dice.uniform(0, seconds * 0.6) for _ in range(8)]
    return [
        Visit(
            "office",
            start,
            "80.130.20.7",
            shared if place % 2 else _browser(dice, "de-DE,de;q=0.9"),
            tuple(_reading(dice, articles, dice.randint(2, 6))),
        )
        for place, start in enumerate(starts)
    ]


def _polling_tab(dice: random.Random, seconds: int) -> Visit:
    steps = [Step(0.0, "/"), *(Step(2.0, "/api/status", "{host}/") for _ in range(seconds // 2))]
    return Visit("polling tab", 0.0, "84.130.9.9", _browser(dice, "de-DE"), tuple(steps))


def _scraper(dice: random.Random, seconds: int, articles: int, agent: str) -> Visit:
    """All articles in order, again and again, without a word of where it comes from."""
    gap = dice.choice((0.05, 0.1, 0.3))
    steps = tuple(Step(gap, f"/articles/{number % articles + 1}") for number in range(min(200, int(seconds / gap))))
    address = f"45.140.{dice.randrange(256)}.{dice.randrange(1, 255)}"
    return Visit(
        "scraper", seconds * dice.uniform(0.1, 0.5), address, (("User-Agent", agent), ("Accept", "*/*")), steps
    )


def _scanner(dice: random.Random, seconds: int) -> Visit:
    steps = tuple(
        Step(0.2, f"{dice.choice(PROBES)}?{number}" if number % 2 else f"/old/{number}.php") for number in range(60)
    )
    headers = (("User-Agent", "Mozilla/5.0 zgrab/0.x"), ("Accept", "*/*"))
    return Visit("scanner", seconds * 0.3, "185.220.101.4", headers, steps)


def _within(visit: Visit, seconds: int) -> Visit:
    """Leave out what would come after the end."""
    times = accumulate((step.pause for step in visit.steps), initial=visit.starts_at)
    next(times)
    kept = tuple(step for step, at in zip(visit.steps, times, strict=True) if at <= seconds)
    return Visit(visit.kind, visit.starts_at, visit.address, visit.headers, kept)
