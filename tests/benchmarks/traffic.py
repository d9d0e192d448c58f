"""Lifelike visitors for the benchmarks: browsers with twelve headers, a clock that they think by."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any

Scope = MutableMapping[str, Any]
Headers = tuple[tuple[bytes, bytes], ...]

VISITORS = 2_000
PAGES = 500
SEED = 20_261_124
LANGUAGES = ("en-US,en;q=0.9", "de-DE,de;q=0.9,en;q=0.8", "fr-FR,fr;q=0.9,en;q=0.7", "ja", "pt-BR,pt;q=0.9", "es-ES,es")

# As the browsers send them; {0} is a major version.
_CHROME = "AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{0}.0.0.0"
_AGENTS = (
    (f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {_CHROME} Safari/537.36", 110),
    (f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {_CHROME} Safari/537.36", 110),
    (f"Mozilla/5.0 (X11; Linux x86_64) {_CHROME} Safari/537.36", 110),
    (f"Mozilla/5.0 (Linux; Android 10; K) {_CHROME} Mobile Safari/537.36", 110),
    (f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {_CHROME} Safari/537.36 Edg/{{0}}.0.0.0", 110),
    ("Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:{0}.0) Gecko/20100101 Firefox/{0}.0", 110),
    ("Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:{0}.0) Gecko/20100101 Firefox/{0}.0", 110),
    ("Mozilla/5.0 (Android 15; Mobile; rv:{0}.0) Gecko/{0}.0 Firefox/{0}.0", 110),
    (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_{0} like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
        "Version/17.{0} Mobile/15E148 Safari/604.1",
        0,
    ),
    (
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) "
        "Version/17.{0} Safari/605.1.15",
        0,
    ),
)
AGENTS = tuple(text.format(first + step) for step in range(20) for text, first in _AGENTS)  # 200


_first: Callable[[list[Any]], Any] = itemgetter(0)


class VirtualClock:
    """A clock that stands until it is moved. Asking it costs what asking the system's costs: no Python code runs."""

    def __init__(self) -> None:
        self._ns = [time.time_ns()]
        self._seconds = [time.monotonic()]
        self.time_ns: Callable[[], int] = partial(_first, self._ns)
        self.monotonic: Callable[[], float] = partial(_first, self._seconds)

    def pass_by(self, seconds: float) -> None:
        """Let time go by."""
        self._ns[0] += int(seconds * 1e9)
        self._seconds[0] += seconds


@dataclass(frozen=True, slots=True)
class Person:
    """A visitor: its address and what its browser sends with each request."""

    address: str
    headers: Headers

    def scope(self, path: str, *, page: bool = True) -> Scope:
        """Return a request as a server hands it on: fresh objects, so that no hash is remembered from before."""
        # Not copied from a template: real servers make each name and value anew.
        headers = [(bytes(bytearray(name)), bytes(bytearray(value))) for name, value in self.headers]
        if not page:
            headers = [(name, _ASSET.get(name, value)) for name, value in headers]
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": ("127.0.0.1", 8000),
            "client": (self.address, 50_000),
            "scheme": "http",
            "method": "GET",
            "root_path": "",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": headers,
            "state": {},
        }


_ASSET = {b"sec-fetch-dest": b"image", b"sec-fetch-mode": b"no-cors", b"accept": b"image/avif,image/webp,*/*"}


def person(number: int, agent: str) -> Person:
    """Return visitor `number` (below 16 million), who alone has its address."""
    address = f"{20 + number // 6_250_000}.{number // 25_000 % 250}.{number // 100 % 250}.{1 + number % 100}"
    headers = {
        "host": "www.example.com",
        "connection": "keep-alive",
        "sec-ch-ua-platform": '"Windows"',
        "upgrade-insecure-requests": "1",
        "user-agent": agent,
        "accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
        "sec-fetch-site": "same-origin",
        "sec-fetch-mode": "navigate",
        "sec-fetch-dest": "document",
        "referer": f"https://www.example.com{page_path(number)}",
        "accept-encoding": "gzip, deflate, br, zstd",
        "accept-language": LANGUAGES[number % len(LANGUAGES)],
    }
    return Person(address, tuple((name.encode(), value.encode()) for name, value in headers.items()))


def people(first: int = 0, count: int = VISITORS) -> list[Person]:
    """Return visitors with user agents drawn from 200 of real browsers."""
    return [person(number, AGENTS[number * 7 % len(AGENTS)]) for number in range(first, first + count)]


def strangers(first: int, count: int) -> list[Person]:
    """Return visitors of whom no two have the same user agent."""
    return [
        person(number, AGENTS[number * 7 % len(AGENTS)].replace(".0", f".{number}", 1))
        for number in range(first, first + count)
    ]


def page_path(number: int) -> str:
    """Return one of the site's 500 pages; neighbours in number are not neighbours in the alphabet."""
    return f"/articles/{number * 263 % PAGES:x}-about-something"


def page_loads(persons: Iterable[Person], turn: int) -> Iterator[Scope]:
    """Yield one page load of each, in an order of this turn's own: nobody comes back as regularly as a clock."""
    for path, one in _in_order(persons, turn):
        yield one.scope(path)


def visits(persons: Iterable[Person], turn: int) -> Iterator[list[Scope]]:
    """Yield bursts of three hits: a page and two of its files."""
    for path, one in _in_order(persons, turn):
        files = (f"/static/{turn % 7}.css", f"/static/photo-{len(path) + turn % 40}.webp")
        yield [one.scope(path), *(one.scope(file, page=False) for file in files)]


def _in_order(persons: Iterable[Person], turn: int) -> list[tuple[str, Person]]:
    chosen = random.Random(SEED + turn)
    found = [(page_path(chosen.randrange(PAGES)), one) for one in persons]
    chosen.shuffle(found)
    return found
