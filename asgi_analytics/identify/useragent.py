"""What a User-Agent header says: browser, system, device class, declared crawler.

Browsers and systems are found by ua-parser's compiled rules, crawlers by those of crawlers.py; both are compiled when
a reader is built, never in a request.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import takewhile

from ua_parser.loaders import load_lazy_builtins
from ua_parser.regex import Resolver

from ..low_memory import ensure_memory
from ..model import Agent
from .crawlers import NAME_LENGTH, UNKNOWN_CLASS, CrawlerList, extractor
from .operators import claim_of

LENGTH = 512  # characters of a User-Agent that are looked at
VERSION_LENGTH = 32  # characters
ROOM, ROOM_TO_BUILD = 8 << 20, 64 << 20  # bytes that reading a header, and compiling all rules, may take

SPIDER = "Spider"  # what ua-parser's device rules call a crawler
BROWSERS = {
    "Android": "Android Browser",
    "Chrome Mobile": "Chrome",
    "Chrome Mobile WebView": "Android WebView",
    "Chrome Mobile iOS": "Chrome",
    "DuckDuckGo Mobile": "DuckDuckGo",
    "Ecosia Android": "Ecosia",
    "Ecosia iOS": "Ecosia",
    "Edge Mobile": "Edge",
    "Firefox Beta": "Firefox",
    "Firefox Mobile": "Firefox",
    "Firefox iOS": "Firefox",
    "Google": "Google app",
    "IE Mobile": "IE",
    "Mobile Safari": "Safari",
    "Mobile Safari UI/WKWebView": "iOS WebView",
    "Opera Mobile": "Opera",
    "Opera Tablet": "Opera",
    "Opera Touch": "Opera",
    "QQ Browser Mini": "QQ Browser",
    "QQ Browser Mobile": "QQ Browser",
    "WeChat Browser": "WeChat",
}
# People's browsers that ua-parser does not know: those of text, of Emacs (which read aloud, too), and small ones.
SMALL = re.compile(
    r"^(?:Emacs-)?(w3m|edbrowse|retawq|Offpunk|Chawan)/|\b(NetSurf|Dillo|NintendoBrowser)[/ ]|^URL/(Emacs)\b"
)
SYSTEMS = {"ATV OS X": "tvOS", "Chrome OS": "ChromeOS", "Mac OS": "macOS", "Mac OS X": "macOS", "Web0S": "webOS"}
DISTRIBUTIONS = frozenset(
    ["Arch Linux", "CentOS", "Debian", "Fedora", "Gentoo", "Linux Mint", "Mandriva", "Mint", "Red Hat", "SUSE"]
).union(["Slackware", "Ubuntu"])
DESKTOPS = frozenset(("BSD", "ChromeOS", "FreeBSD", "Linux", "NetBSD", "OpenBSD", "Solaris", "Windows", "macOS"))
# Views inside apps that ua-parser takes for the system's, or for the browser they are built on.
APPS = (
    ("WeChat", "MicroMessenger/"),
    ("KakaoTalk", "KAKAOTALK[ /]"),
    ("NAVER", r"NAVER\(inapp"),
    ("LinkedIn", r"LinkedInApp\]?/"),
    ("Threads", "Barcelona "),
    ("Alipay", "AlipayClient/"),
    ("DingTalk", "DingTalk/"),
    ("QQ", r"\bQQ/"),
    ("Whale", r"\bWhale/"),
)
# Televisions, consoles and headsets, then what is held in a hand; asked only where the system does not tell.
FORMS = (
    (
        "other",
        r"(?i)smart-?tv|tizen[^;)]*tv|\btv safari|web0s|webos\.tv|bravia|\baft[a-z]|apple ?tv|crkey|roku|hbbtv"
        r"|chromecast|google ?tv|android ?tv|netcast|mibox|playstation|nintendo|xbox|oculus|quest [23p]",
    ),
    ("mobile", r"(?i)mobi|phone|mini|midp|symbian|blackberry|bada|kaios|harmonyos|sailfish"),
)
# Words without which none of ua-parser's crawler rules can match a browser's header.
SUSPICIOUS = (
    "bot",
    "crawl",
    "spider",
    "compatible",
    "http",
    "@",
    "search",
    "scan",
    "monitor",
    "preview",
    "fetch",
    "scrap",
)

# Log4Shell, also disguised, and Shellshock: no name of anything.
_ATTACK = re.compile(r"\$\{(?:jndi:|\$\{)|\(\)\s{0,4}\{\s{0,4}[:_]", re.IGNORECASE)
# Versions below are outdated. Engines of browsers that lag on purpose (in-app, television, KaiOS) do not count.
OLDEST_CHROME, OLDEST_FIREFOX = 90, 88
# So are those released longer ago: a known release, its day in seconds since 1970, the seconds between releases.
MAX_YEARS = 5
CHROME_RELEASE = (140, 1_756_771_200.0, 4.4 * 7 * 86_400.0)  # 2 September 2025
FIREFOX_RELEASE = (142, 1_755_561_600.0, 4.2 * 7 * 86_400.0)  # 19 August 2025
CHROMIUM = frozenset(("Brave", "Chrome", "Chromium", "Edge", "Opera", "Samsung Internet", "Vivaldi", "Yandex Browser"))

_ENGINE = re.compile(r"\bChrom(?:e|ium)/(\d{1,5})\b", re.ASCII)
_VERSION = re.compile(r"[ /]?v?(\d[\w.]*)", re.ASCII)

NOBODY = Agent()


class AgentReader:
    """Reads User-Agent headers. Keeps the results of the `size` headers used last, each up to 512 characters."""

    def __init__(self, size: int = 10_000, today: float = 0.0) -> None:
        """`today`: seconds since 1970, for what is outdated by its age; 0.0: by the documented versions only."""
        ensure_memory(ROOM_TO_BUILD)
        self._oldest = oldest(today)
        browsers, systems, devices = load_lazy_builtins()
        # Of the device rules, which are the most and the slowest, those of crawlers. For a phone or the like only the
        # ones before all others: the last, of words like "bot" and "silk", is for what no rule of a device knows.
        spiders = list(filter(_is_of_spiders, devices))
        first = list(takewhile(_is_of_spiders, devices))
        rules = Resolver((browsers, systems, spiders))
        self._browser, self._system, self._spider = rules.ua.extract, rules.os.extract, rules.de.extract
        self._held_spider = Resolver(([], [], first)).de.extract
        self._form = extractor((pattern, form) for form, pattern in FORMS).extract
        self._app = extractor((rf"({pattern})([\d.]{{1,20}})?", app) for app, pattern in APPS).extract
        self._crawlers = CrawlerList()
        self._cached = lru_cache(maxsize=size)(self._parse)

    def read(self, user_agent: str | None) -> Agent:
        """Return what the header says; Agent() for none. Raises nothing but MemoryError."""
        return self._cached(user_agent[:LENGTH]) if user_agent else NOBODY

    def _parse(self, text: str) -> Agent:
        ensure_memory(ROOM)
        if not text.isprintable():
            text = "".join(sign if sign.isprintable() else " " for sign in text)
        if _ATTACK.search(text):
            return _crawler(text, "scanner", None)
        if found := self._crawlers.find(text):
            return _crawler(text, *found)
        if not text.isascii():  # no rule needs other characters, which make the rules' engine ten times slower
            text = text.encode("ascii", "replace").decode()
        family, version = None, None
        if browser := self._browser(text):
            family = BROWSERS.get(browser.family, browser.family)[:NAME_LENGTH].strip()
            version = _dotted(browser.major, browser.minor, browser.patch)
        elif small := SMALL.search(text):
            family = small[small.lastindex or 0]
        system, system_version = self._read_system(text)
        if system in ("Android", "iOS") and (app := self._app(text)):
            family, version = app.family, _dotted(*(app.major or "").split(".")[:3])
        if self._is_spider(text, system):
            return _crawler(text, UNKNOWN_CLASS, family if family and "/" not in family else None)
        device = self._device_class(text, system)
        outdated = device != "other" and system != "KaiOS" and is_outdated(text, family, version, self._oldest)
        return Agent(family or None, version, system, system_version, device, outdated=outdated)

    def _read_system(self, text: str) -> tuple[str | None, str | None]:
        if (found := self._system(text)) is None or found.family == "Other":
            return None, None
        if found.family in DISTRIBUTIONS:
            return "Linux", None
        name = SYSTEMS.get(found.family, found.family)
        return name[:NAME_LENGTH], _dotted(found.major, found.minor, found.patch)

    def _is_spider(self, text: str, system: str | None) -> bool:
        # A plain browser's header is known not to need these rules.
        if system is not None and text.startswith("Mozilla/5.0 ("):
            lowered = text.lower()
            if not any(word in lowered for word in SUSPICIOUS):
                return False
        find = self._spider if system is None or system in DESKTOPS else self._held_spider
        return find(text) is not None

    def _device_class(self, text: str, system: str | None) -> str:
        # An iPad that asks for desktop pages calls itself a Mac, and is a desktop here.
        if system == "iOS":
            return "tablet" if "iPad" in text else "mobile"
        if system in ("Windows", "macOS"):
            return "other" if "Xbox" in text else "desktop"
        if system == "Android" and "Mobile" in text and "Tablet" not in text:
            return "mobile"
        form = self._form(text)
        if form is not None and form.family == "other":
            return "other"
        if system == "Android":
            # Programs on Android (Dalvik, Opera Mini) do not say "Mobile"; browsers on phones do.
            return "tablet" if text.startswith("Mozilla/") or "Tablet" in text else "mobile"
        if system in DESKTOPS:
            return "desktop"
        return form.family if form is not None else "other"


def oldest(today: float) -> tuple[int, int]:
    """Return the releases of Chrome and Firefox that are not outdated yet; at least the documented ones."""
    day = today - MAX_YEARS * 365.25 * 86_400.0
    chrome, firefox = (
        release + int((day - released_at) // every) for release, released_at, every in (CHROME_RELEASE, FIREFOX_RELEASE)
    )
    return max(OLDEST_CHROME, chrome), max(OLDEST_FIREFOX, firefox)


def is_outdated(
    text: str, browser: str | None, version: str | None, oldest: tuple[int, int] = (OLDEST_CHROME, OLDEST_FIREFOX)
) -> bool:
    """Tell whether the header names a Chrome or a Firefox before these, or a browser built on such a Chrome."""
    if browser == "Firefox" and "Firefox/" in text:
        return _major(version) < oldest[1]
    if browser in CHROMIUM and "Edge/" not in text and (engine := _ENGINE.search(text)):
        return int(engine[1]) < oldest[0]
    return False


def _crawler(text: str, bot_class: str, name: str | None) -> Agent:
    after = text.partition(name)[2] if name else ""
    version = _VERSION.match(after)
    claim = claim_of(name)
    if claim and claim.purpose == "training":  # what an operator says of its crawler comes before the open list
        bot_class = "ai-crawler"
    return Agent(
        browser=name or None,
        version=version[1][:VERSION_LENGTH] if version else None,
        device="bot",
        bot_class=bot_class,
        crawler=name or None,
        operator=claim.operator.name if claim else None,
        purpose=claim.purpose if claim else None,
    )


def _is_of_spiders(rule: object) -> bool:
    return getattr(rule, "family", None) == SPIDER


def _dotted(*parts: str | None) -> str | None:
    return ".".join(part for part in parts if part)[:VERSION_LENGTH].strip() or None


def _major(version: str | None) -> int:
    head = (version or "").partition(".")[0]
    return int(head) if head.isdecimal() else OLDEST_FIREFOX
