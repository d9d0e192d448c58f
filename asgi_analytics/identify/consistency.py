"""Whether a request's headers are those of the browser that its user agent names.

Only what survives proxies is looked at: Fetch Metadata (https only, W3C Fetch Metadata Request Headers, section 2),
in older browsers Accept and Referer instead, the brand versions of client hints, and Accept-Language. Whether such
headers reach this site at all is for decide.site.Site to learn. Left out are web views and televisions, because apps
build their own requests, and readers by a service that translates pages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from zlib import crc32

from ..facts import Claims
from ..model import Agent, Place
from ..protocols import Headers
from ..untracked import untrack
from .request import is_navigation

Scope = Mapping[str, Any]
# The first releases that send Fetch Metadata with every request over https (caniuse, "Sec-Fetch-Site"), with a margin.
SENDING = {"Chrome": 89, "Firefox": 91, "Safari": 17}
_ENGINE = re.compile(r"\bChrome/(\d{1,5})\.", re.ASCII)
# Nothing may follow: SeaMonkey and the like name a Firefox release that they do not behave like.
_FIREFOX = re.compile(r"\bGecko/\d{8} Firefox/(\d{1,5})\.[\d.]*\Z", re.ASCII)
_SAFARI = re.compile(r"\bVersion/(\d{1,5})\.[\d.]* (?:Mobile/\w+ )?Safari/", re.ASCII)
# As in web views, apps build their own requests there.
_TELEVISION = re.compile(
    r"smart-?tv|web0s|netcast|tizen|hbbtv|crkey|bravia|\bAFT\w|roku|vidaa|playstation|xbox|nintendo", re.IGNORECASE
)
_BRAND = re.compile(rb'"Chromium"; ?v="(\d{1,5})"')
_REPORT = b"application/reports+json"  # sent by the network part of Chromium, beside all pages
_HOSTING = re.compile(
    r"\b(?:amazon|aws|digitalocean|hetzner|ovh|linode|akamai connected|vultr|choopa|contabo|leaseweb|m247|scaleway"
    r"|online sas|alibaba|tencent|ionos|hostinger|namecheap|gcore|datacamp|colocrossing|hostwinds|psychz|quadranet"
    r"|(?:google|oracle|ibm) cloud|azure|hosting|hosted|data ?cent(?:er|re)|dedicated|colo(?:cation)?|vps|servers?)\b",
    re.IGNORECASE,
)
# Google Cloud, AWS, DigitalOcean, Hetzner, OVH, Linode, Vultr, Contabo, Leaseweb, M247, Scaleway, Alibaba,
# Tencent, Oracle: by number, for files that name the company only.
_HOSTING_ASN = frozenset(
    (396982, 16509, 14618, 14061, 24940, 16276, 63949, 20473, 51167, 60781, 9009, 12876, 45102, 132203, 31898)
)


class Engine(NamedTuple):
    """The engine that a user agent names, and the release."""

    name: str
    major: int


@lru_cache(maxsize=4096)
def engine_of(text: str) -> Engine | None:
    """Return the engine whose habits are known; None for web views, televisions, other browsers and programs."""
    if (
        "; wv)" in text
        or text.endswith(",gzip(gfe)")
        or not text.startswith("Mozilla/5.0 (")
        or _TELEVISION.search(text)
    ):
        return None
    for name, pattern in (("Chrome", _ENGINE), ("Firefox", _FIREFOX), ("Safari", _SAFARI)):
        if found := pattern.search(text):
            return Engine(name, int(found[1]))
    return None


def header_faults(
    method: str, scheme: str, headers: Headers, engine: Engine, shows_pages: bool = False
) -> tuple[str, ...]:
    """Return a few words for each way in which the headers are not this engine's; `shows_pages`: to who asks now."""
    faults = []
    if scheme == "https" and engine.major >= SENDING[engine.name] and _lacks_metadata(method, headers):
        faults.append(f"no Sec-Fetch-Site, which {engine.name} {engine.major} sends")
    brands = headers.get(b"sec-ch-ua")
    if brands is not None:
        brand = _BRAND.search(brands)
        if engine.name != "Chrome":
            faults.append(f"Sec-CH-UA, which {engine.name} does not send")
        elif brand is not None and int(brand[1]) != engine.major:
            faults.append(f"Sec-CH-UA of Chromium {int(brand[1])} from Chrome {engine.major}")
    if b"accept-language" not in headers and is_navigation(method, headers):
        faults.append(f"no Accept-Language, which {engine.name} sends")
    elif (
        scheme == "https"
        and engine.major < SENDING[engine.name]
        and not shows_pages
        and _is_of_no_page(method, headers)
    ):
        faults.append("asked for neither as a page nor from one, by Accept and Referer")
    return tuple(faults)


def _is_of_no_page(method: str, headers: Headers) -> bool:
    """Tell whether a request is neither for a page nor from one. All browsers name HTML when they ask for a page, and
    send Referer or Origin with what it loads, unless the page forbids that.
    """
    if method != "GET" or headers.get(b"accept", b"*/*") != b"*/*":
        return False
    return b"referer" not in headers and b"origin" not in headers and b"sec-fetch-site" not in headers


def _lacks_metadata(method: str, headers: Headers) -> bool:
    """Tell whether a request lacks the Fetch Metadata that those of a page have.

    Reports are of none, nor is the question before whether another origin takes them.
    """
    if b"sec-fetch-site" in headers or b"sec-fetch-mode" in headers:
        return False
    return method != "OPTIONS" and (method != "POST" or headers.get(b"content-type") != _REPORT)


def is_hosting(place: Place) -> bool:
    """Tell whether a network is one of servers rather than people; False where no ASN file tells."""
    if place.asn in _HOSTING_ASN:
        return True
    return place.organisation is not None and _HOSTING.search(place.organisation) is not None


def read_claims(
    scope: Scope,
    headers: Headers,
    agent: Agent,
    place: Place,
    network: bytes,
    false_claim: bool,
    is_secure: Callable[[Scope, Headers], bool] = lambda scope, headers: scope.get("scheme") == "https",
    shows_pages: bool = False,
) -> Claims:
    """Return what the request says of its sender; `network` as in Identity, `is_secure` as ClientAddress.is_secure,
    `shows_pages`: it has loaded one.
    """
    raw = headers.get(b"user-agent", b"")[:512]
    engine = engine_of(raw.decode("utf-8", "replace")) if agent.bot_class is None else None
    faults: tuple[str, ...] = ()
    if engine is not None:
        # Of a websocket, Chromium does not say what page opens it.
        is_told = b"sec-fetch-site" in headers or scope.get("type") == "websocket" or not is_secure(scope, headers)
        scheme = "http" if is_told else "https"
        faults = header_faults(scope.get("method", ""), scheme, headers, engine, shows_pages)
    claims = Claims(
        faults,
        engine is not None and engine.major >= SENDING[engine.name],
        b"sec-fetch-site" in headers,
        is_hosting(place),
        false_claim,
        crc32(raw + b"\n" + headers.get(b"accept-language", b"")[:128]),
        crc32(network),
        headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site"),
    )
    untrack(claims)  # each visitor keeps the last ones
    return claims
