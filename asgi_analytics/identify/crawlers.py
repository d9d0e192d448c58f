"""The crawlers that declare themselves, by the open list of the package crawler-user-agents and what it lacks.

The list is read when it is built, never in a request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from importlib.resources import files
from importlib.util import find_spec, module_from_spec
from typing import Any

import ua_parser_rs

from .plain_names import PlainNames

NAME_LENGTH = 64  # characters

BOT_CLASSES = (
    "search-engine",
    "ai-crawler",
    "seo",
    "monitoring",
    "scanner",
    "advertising",
    "social-preview",
    "feed-reader",
    "http-library",
    "archiver",
    "academic",
    "browser-automation",
)
UNKNOWN_CLASS = "crawler"

# Crawlers that are not in the open list, or are there by the address of their operator's page or in another class.
CRAWLERS = {
    "ai-crawler": (
        "ChatGPT-Agent GrokBot MistralAI-Index NovaAct OAI-AdsBot YandexAdditionalBot YouBot claude-code xAI-SearchBot"
    ),
    "search-engine": (
        "Bravebot adidxbot YandexAccessibilityBot YandexBot YandexFavicons YandexImages YandexMedia YandexMobileBot "
        "YandexRenderResourcesBot YandexVideo YandexWebmaster"
    ),
    "feed-reader": "FeedFetcher-Google",
    "social-preview": "GoogleMessages",
    "browser-automation": "Cypress",
    "http-library": "Siege",
    "scanner": "Hydra",
    UNKNOWN_CLASS: "Google-CWS Google-Pinpoint",
}
# Programs that name themselves first and are not in the open list; a dot stands for a blank.
PROGRAMS = {
    "monitoring": (
        "AlwaysOn Amazon-Route53-Health-Check-Service Azure.Traffic.Manager Consul.Health.Check Datadog "
        "DigitalOcean.Uptime.Probe ELB-HealthChecker Edge.Health.Probe Envoy/HC GoogleHC HealthCheck "
        "Load.Balancer.Agent Monit NewRelicPinger Prometheus RailwayHealthCheck ReadyForRequest Render kube-probe"
    ),
    "feed-reader": (
        "Akregator Bloglovin Liferea NetNewsWire NewsFlash QuiteRSS RSSOwl ReadKit Reeder UniversalFeedParser "
        "feedparser newsboat"
    ),
    "social-preview": "Bluesky.Cardyb",
    "http-library": (
        "Apache-HttpAsyncClient ApacheBench Boto3 Botocore Bun Deno Dart Faraday GuzzleHttp HTTPClient HTTPie Jakarta "
        "Java Java-http-client Jersey JMeter Ktor.client Locust PHP PostmanRuntime PycURL ReactorNetty RestSharp Ruby "
        "Symfony Typhoeus autocannon aws-cli aws-sdk-[a-z]+ bombardier cpp-httplib fasthttp go-resty hackney hey "
        "http.rb insomnia k6 ktor-client libcurl libcurl-agent lua-resty-http mint niquests node node-superagent oha "
        "reqwest req rest-client rust-reqwest siege undici unirest-java ureq urllib3 vegeta wrk"
    ),
    "scanner": (
        "Arachni Fuzz.Faster.U.Fool Nuclei Wfuzz ZAP commix dirsearch feroxbuster ffuf gobuster katana l9tcpid patator"
    ),
    "browser-automation": "Playwright Selenium",
}

# Atomic groups: a header made to be slow causes no backtracking.
_MODEL = re.compile(
    r"Mozilla/5\.0 \((?>[^()]*?Android)(?>(?:[^()B]|B(?!uild/)|\([^()]*\))*)(?:Build/[^;)]*|(?=\)))", re.ASCII
)
# In brackets with its name, or behind it: "Safari/537.36 Prerender (+https://…)".
_CONTACT = re.compile(
    r"(?:.*[;(] *|.*(?:/[\d.]+|\)) )?(?!(?:Chrome|Edg|Firefox|OPR|Safari)/)"
    r"([A-Za-z][\w .-]{0,60}?)(?:/[\w.+-]*)?[;:,() ]{0,4}+\+?https?://"
)
_HOME = re.compile(r"\+https?://([\w.-]+)", re.ASCII)  # of who gives no name
_LIKE = re.compile(r"\blike [\w-]*(?:bot|-google)\b", re.ASCII | re.IGNORECASE)  # whom it resembles, not who it is
_EDGES = " -/+;:,()"


class CrawlerList:
    """Knows the crawlers that declare themselves: about 1,500 names with their classes.

    Costs 20 ms and 4 MB to build, and 7 µs to ask.
    """

    def __init__(self) -> None:
        listed = list(_crawler_rows())
        self._classes = [bot_class for bot_class, _ in listed]
        self._names = PlainNames(pattern for _, pattern in listed)
        rows = [(_delimited(listed[place][1]), str(place)) for place in self._names.others]
        try:
            self._extractor = extractor(rows)
        except ValueError:
            # A later list may use syntax that this engine lacks; the app must start, without those entries.
            self._extractor = extractor(row for row in rows if _compiles(row[0]))

    def find(self, text: str) -> tuple[str, str] | None:
        """Return class and name of the crawler that `text` declares, None for a browser. Raises nothing."""
        # A phone's model or build may be called like a crawler ("Butterfly"); neither declares one.
        names = _LIKE.sub("", _MODEL.sub("", text, 1))
        names = names if names.isascii() else names.encode("ascii", "replace").decode()
        found = self._names.find(names)
        match = self._extractor.extract(names)
        if match is not None and (found is None or int(match.family) < found[0]):
            found = int(match.family), match.major or ""
        if found is not None:
            return self._classes[found[0]], _name(found[1])
        # A contact address is a crawler's custom; toolbars of old browsers left bare ones in a Mozilla header.
        has_contact = "+http" in text or ("http" in text and not text.startswith("Mozilla/"))
        if has_contact and (name := _CONTACT.match(text) or _HOME.search(text)):
            return UNKNOWN_CLASS, _name(name[1])
        return None


def _crawler_rows() -> Iterable[tuple[str, str]]:
    """Yield (class, pattern): names before the libraries and headless browsers they are built on, longest first."""
    listed = [(_classify(entry.get("tags") or ()), entry["pattern"]) for entry in _known_crawlers()]
    listed += [(bot_class, rf"{name}\b") for bot_class, names in CRAWLERS.items() for name in names.split()]

    def rank(row: tuple[str, str]) -> tuple[bool, bool, int]:
        bot_class, pattern = row
        is_contact = "@" in pattern or r"\.com" in pattern
        return bot_class in ("http-library", "browser-automation"), is_contact, -len(pattern)

    yield from sorted(listed, key=rank)
    for bot_class, names in PROGRAMS.items():
        yield bot_class, rf"^(?:{'|'.join(names.split())})(?:[/ ;(]|$)"
    yield "http-library", "(?:Windows)?PowerShell/"


def _known_crawlers() -> list[dict[str, Any]]:
    # Not executed: the package reads its file in whatever encoding the locale has.
    spec = find_spec("crawleruseragents")
    if spec is None:
        raise ModuleNotFoundError("No module named 'crawleruseragents'", name="crawleruseragents")
    listed = files(module_from_spec(spec)).joinpath("crawler-user-agents.json")
    known: list[dict[str, Any]] = json.loads(listed.read_text("utf-8"))
    return known


def _classify(tags: Iterable[str]) -> str:
    if "ai-crawler" in tags:
        return "ai-crawler"
    return next((tag for tag in tags if tag in BOT_CLASSES), UNKNOWN_CLASS)


def _delimited(pattern: str) -> str:
    # A name begins a word: "RED/" is not in "WIRED/". Patterns with anchors or choices know their own bounds.
    # All signs of ASCII but letters: those beyond, which no name has, would take as long to compile as all the rest.
    before = "()" if "^" in pattern or "|" in pattern else r"(^|[\x00-@\[-`{-\x7f])"
    return f"{before}({pattern})"


def extractor(rows: Iterable[tuple[str, str]]) -> ua_parser_rs.UserAgentExtractor:
    """Compile (pattern, family) rows: the first that matches gives its family, and its second group as `major`."""
    # No generator: compiled Rust that runs Python code in a daemon thread aborts a process that ends meanwhile.
    listed = [(pattern, family, None, None, None, None) for pattern, family in rows]
    return ua_parser_rs.UserAgentExtractor(listed)


def _compiles(pattern: str) -> bool:
    try:
        extractor([(pattern, "")])
    except ValueError:
        return False
    return True


def _name(matched: str) -> str:
    return re.split(r"[;,(]", matched.strip(_EDGES), maxsplit=1)[0][:NAME_LENGTH].strip(_EDGES)
