"""Browsers as they are in use, and the headers that each sends with each kind of request, in its own order."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

from .site import HOST, ORIGIN
from .traffic import Headers

CHROME, FIREFOX, SAFARI = 158, 158, 26  # the releases of November 2026
LANGUAGES = (
    ("en-US,en;q=0.9", 30),
    ("de-DE,de;q=0.9,en-US;q=0.8,en;q=0.7", 12),
    ("en-GB,en;q=0.9,en-US;q=0.8", 10),
    ("fr-FR,fr;q=0.9,en-US;q=0.8,en;q=0.7", 8),
    ("es-ES,es;q=0.9,en;q=0.8", 6),
    ("pt-BR,pt;q=0.9,en-US;q=0.8,en;q=0.7", 6),
    ("ja,en-US;q=0.9,en;q=0.8", 5),
    ("en-IN,en;q=0.9,hi;q=0.8", 5),
    ("it-IT,it;q=0.9,en;q=0.8", 4),
    ("nl-NL,nl;q=0.9,en;q=0.8", 3),
    ("pl-PL,pl;q=0.9,en;q=0.8", 3),
    ("zh-CN,zh;q=0.9,en;q=0.8", 4),
)
# family, system part, client hint platform, share
BUILDS = (
    ("chrome", "Windows NT 10.0; Win64; x64", "Windows", 30),
    ("chrome", "Macintosh; Intel Mac OS X 10_15_7", "macOS", 8),
    ("chrome", "X11; Linux x86_64", "Linux", 2),
    ("chrome-mobile", "Linux; Android 10; K", "Android", 22),
    ("edge", "Windows NT 10.0; Win64; x64", "Windows", 8),
    ("samsung", "Linux; Android 10; K", "Android", 3),
    ("firefox", "Windows NT 10.0; Win64; x64", "", 4),
    ("firefox", "X11; Linux x86_64", "", 1),
    ("firefox", "Macintosh; Intel Mac OS X 10.15", "", 1),
    ("safari", "Macintosh; Intel Mac OS X 10_15_7", "", 6),
    ("safari-mobile", "iPhone; CPU iPhone OS 18_7 like Mac OS X", "", 16),
    ("safari-mobile", "iPad; CPU OS 18_7 like Mac OS X", "", 2),
)
DESKTOPS = tuple(build for build in BUILDS if build[1].startswith(("Windows", "Macintosh", "X11")))
MOBILES = tuple(build for build in BUILDS if build not in DESKTOPS)
_NAVIGATE = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"
_ACCEPT = {
    "document": {"chromium": f"{_NAVIGATE},application/signed-exchange;v=b3;q=0.7"},
    "image": {"chromium": "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"},
    "style": {"chromium": "text/css,*/*;q=0.1", "firefox": "text/css,*/*;q=0.1", "safari": "text/css,*/*;q=0.1"},
}
_SAFARI_ACCEPT = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
_ENDINGS = {"css": "style", "js": "script", "woff2": "font"}


@dataclass(frozen=True, slots=True)
class Browser:
    """One person's browser. `signals`: "gpc", "dnt" or neither."""

    family: str  # "chromium", "firefox", "safari"
    agent: str
    hints: tuple[tuple[str, str], ...]
    language: str
    privacy: str = ""

    def page(self, referer: str = "", *, typed: bool = False, reload: bool = False, tagged: bool = False) -> Headers:
        """Return a navigation's headers. `referer` is a URL, of this site or another."""
        site = "none" if typed or not referer else "same-origin" if referer.startswith(ORIGIN) else "cross-site"
        return _headers(self, "document", site, referer, reload, tagged)

    def file(self, path: str, page: str, *, tagged: bool = False) -> Headers:
        """Return the headers for a file of a page."""
        kind = _ENDINGS.get(path.rpartition(".")[2], "image")
        return _headers(self, kind, "same-origin", f"{ORIGIN}{page}", False, tagged)

    def call(self, page: str, extra: tuple[tuple[str, str], ...] = ()) -> Headers:
        """Return the headers of a script's fetch() or sendBeacon()."""
        return _headers(self, "empty", "same-origin", f"{ORIGIN}{page}", False, False, extra)


@lru_cache(maxsize=20_000)
def _headers(
    browser: Browser,
    kind: str,
    site: str,
    referer: str,
    reload: bool,
    tagged: bool,
    extra: tuple[tuple[str, str], ...] = (),
) -> Headers:
    lines = {"chromium": _chromium, "firefox": _firefox, "safari": _safari}[browser.family](
        browser, kind, site, referer, reload
    )
    if browser.privacy:
        lines.append(("sec-gpc", "1") if browser.privacy == "gpc" else ("dnt", "1"))
    if tagged:
        lines.append(("if-none-match", '"5f3a-64c1e2"'))
    return tuple((name.encode(), value.encode()) for name, value in (*lines, *extra) if value)


Lines = list[tuple[str, str]]


def _mode(kind: str) -> str:
    return {"document": "navigate", "empty": "cors", "font": "cors"}.get(kind, "no-cors")


def _accept(browser: Browser, kind: str) -> str:
    if kind == "document" and browser.family != "chromium":
        return _SAFARI_ACCEPT
    return _ACCEPT.get(kind, {}).get(browser.family, "*/*")


def _chromium(browser: Browser, kind: str, site: str, referer: str, reload: bool) -> Lines:
    page = kind == "document"
    return [
        ("host", HOST),
        *((("cache-control", "max-age=0"),) if reload else ()),
        *browser.hints,
        *((("upgrade-insecure-requests", "1"),) if page else ()),
        ("user-agent", browser.agent),
        ("accept", _accept(browser, kind)),
        ("sec-fetch-site", site),
        ("sec-fetch-mode", _mode(kind)),
        *((("sec-fetch-user", "?1"),) if page else ()),
        ("sec-fetch-dest", kind),
        ("referer", referer),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("accept-language", browser.language),
        ("priority", "u=0, i" if page else "u=1"),
    ]


def _firefox(browser: Browser, kind: str, site: str, referer: str, reload: bool) -> Lines:
    page = kind == "document"
    return [
        ("host", HOST),
        ("user-agent", browser.agent),
        ("accept", _accept(browser, kind)),
        ("accept-language", browser.language),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("referer", referer),
        *((("upgrade-insecure-requests", "1"),) if page else ()),
        ("sec-fetch-dest", kind),
        ("sec-fetch-mode", _mode(kind)),
        ("sec-fetch-site", site),
        *((("sec-fetch-user", "?1"),) if page else ()),
        *((("cache-control", "max-age=0"),) if reload else ()),
        ("priority", "u=0, i" if page else "u=4"),
    ]


def _safari(browser: Browser, kind: str, site: str, referer: str, reload: bool) -> Lines:
    return [
        ("host", HOST),
        ("sec-fetch-dest", kind),
        ("user-agent", browser.agent),
        ("accept", _accept(browser, kind)),
        ("referer", referer),
        ("sec-fetch-site", site),
        ("sec-fetch-mode", _mode(kind)),
        ("accept-language", browser.language.partition(";")[0]),
        ("priority", "u=0, i" if kind == "document" else "u=3"),
        ("accept-encoding", "gzip, deflate, br"),
        *((("cache-control", "max-age=0"),) if reload else ()),
    ]


def draw(
    dice: random.Random,
    builds: tuple[tuple[str, str, str, int], ...] = BUILDS,
    language: str = "",
    version: int = 0,
) -> Browser:
    """Draw a browser by what is in use: most are of this release or the one before, a few are years old."""
    family, system, platform, _ = dice.choices(builds, [build[3] for build in builds])[0]
    language = language or dice.choices([one for one, _ in LANGUAGES], [share for _, share in LANGUAGES])[0]
    lag = CHROME - version if version else _lag(dice)
    if family.startswith("safari"):
        return Browser("safari", safari(system, max(15, SAFARI - lag // 12), dice.randint(0, 4)), (), language)
    if family == "firefox":
        number = FIREFOX - lag
        agent = f"Mozilla/5.0 ({system}; rv:{number}.0) Gecko/20100101 Firefox/{number}.0"
        privacy = dice.choices(("", "gpc", "dnt"), (80, 15, 5))[0]
        return Browser("firefox", agent, (), language, privacy)
    return chromium(family, system, platform, CHROME - lag, language)


def chromium(family: str, system: str, platform: str, number: int, language: str) -> Browser:
    """Return Chrome, Edge or Samsung Internet of a release, with the client hints that it sends."""
    mobile = family in ("chrome-mobile", "samsung")
    engine = f"AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{number}.0.0.0"
    middle = "SamsungBrowser/30.0 Chrome/" if family == "samsung" else "Chrome/"
    engine = engine.replace("Chrome/", middle)
    tail = f" Edg/{number}.0.0.0" if family == "edge" else ""
    agent = f"Mozilla/5.0 ({system}) {engine} {'Mobile ' if mobile else ''}Safari/537.36{tail}"
    brand = {"edge": "Microsoft Edge", "samsung": "Samsung Internet"}.get(family, "Google Chrome")
    brands = f'"Chromium";v="{number}", "{brand}";v="{number}", "Not?A_Brand";v="24"'
    hints = (("sec-ch-ua", brands), ("sec-ch-ua-mobile", "?1" if mobile else "?0"))
    sends = number >= 89  # the release that began to send them
    return Browser("chromium", agent, (*hints, ("sec-ch-ua-platform", f'"{platform}"')) if sends else (), language)


def safari(system: str, version: int, minor: int) -> str:
    """Return Safari's user agent."""
    mobile = " Mobile/15E148" if "like Mac OS X" in system else ""
    return (
        f"Mozilla/5.0 ({system}) AppleWebKit/605.1.15 (KHTML, like Gecko) "
        f"Version/{version}.{minor}{mobile} Safari/{'604.1' if mobile else '605.1.15'}"
    )


def _lag(dice: random.Random) -> int:
    """Releases behind the newest: machines that cannot be updated stay at Chrome 109 and Firefox 115 or before."""
    chance = dice.random()
    if chance < 0.75:
        return dice.choice((0, 0, 0, 1, 1))
    if chance < 0.97:
        return 1 + int(dice.expovariate(0.15))
    return CHROME - (109 if chance < 0.993 else dice.randint(72, 100))
