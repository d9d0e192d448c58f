"""How a hit came to the site: campaign parameters, referrer, channel.

Names of parameters and channels follow Google Analytics 4 and Plausible; a channel is the first that fits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from ..model import Referral
from .channels import BY_BRAND, BY_KEY, CLICK_IDS, SECOND_LEVELS, SHARED_DOMAINS, SPAM, Source
from .redaction import SHORTEST_TOKEN, hide_named, hide_secrets, is_secret_name, unescaped

# Lengths in characters.
VALUE_LENGTH = 200
QUERY_LENGTH = 4096
NAME_LENGTH = 80
STORED_QUERY_LENGTH = 1024
READ_LENGTH = 2 * STORED_QUERY_LENGTH
ORIGIN_LENGTH = 300
MAX_PARAMETERS = 50  # of a query that are looked at
MAX_NESTED = 10  # parameters of an address within a value
REDACTED = "REDACTED"

DIRECT = Referral(channel="Direct")
INNER = Referral()

SOURCE_NAMES = ("source", "ref", "referer", "referrer")  # after utm_source, in this order
UTM = frozenset(("utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content", "utm_id"))
CAMPAIGN_NAMES = UTM.union(CLICK_IDS, ("utm_source_platform", "utm_creative_format", "utm_marketing_tactic"))
KNOWN_NAMES = CAMPAIGN_NAMES.union(SOURCE_NAMES)

SOCIAL_MEDIA = frozenset(("social", "social-network", "social-media", "sm", "social network", "social media"))
DISPLAY_MEDIA = frozenset(("display", "banner", "expandable", "interstitial", "cpm"))
PAID_SEARCH_IDS = {"gclid": "Google", "gbraid": "Google", "wbraid": "Google", "msclkid": "Bing"}
NO_SOURCES = frozenset(("direct", "(direct)", "none", "(none)", "null", "undefined"))

# Whatever its name: an e-mail address, a JSON Web Token, a long run of letters and digits.
_SECRET_VALUE = re.compile(r"@|%40|eyJ[\w-]{8,}\.|(?<![\w-])[\w-]{40}", re.ASCII)
_ADDRESS = re.compile(r"(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?|\[?[\da-f]*:[\da-f:.]*\]?", re.ASCII)
_NESTED = re.compile(r"[?&;#]")
_PAID = re.compile(r".*cp.*|ppc|retargeting|paid.*", re.DOTALL)
_SHOP = re.compile(r"(?:^|[^a-z])shop(?:ping)?(?:$|[^a-z])")
_EMAIL = re.compile(r"e[-_ ]?mail|newsletter")
_HOST = re.compile(
    r"(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*", re.ASCII
)


class Origin(NamedTuple):
    """Where a Referer or Host points: the site it belongs to and the source that stands for it."""

    site: str  # registrable domain, address or app
    source: Source | None  # None: an address, which is not kept


def read_referral(query: bytes | str, referer: str | None, host: str | None, from_inside: bool = False) -> Referral:
    """Return how a hit came: campaign parameters win over the Referer header.

    `host` is the Host header; `from_inside`: the browser says that a page of this site led here, whatever Referer and
    Host say, which a policy keeps back and a proxy rewrites. Referral(channel="Direct") for neither campaign nor
    referrer, Referral() for a hit from the same site without a campaign. Texts have at most 200
    characters. Never raises.
    """
    if not query and not referer and not from_inside:
        return DIRECT
    values = _parameters(query) if query else None
    inner, origin = _from(referer, host) if referer and not from_inside else (from_inside, None)
    if inner and values:
        # Links inside a site use words such as "ref" for their own ends.
        values = values if not CAMPAIGN_NAMES.isdisjoint(values) else None
    if not values:
        return INNER if inner else _by_origin(origin)
    return _by_campaign(values, origin)


def clean_query(query: bytes | str) -> str:
    """Return a query fit to be stored: campaign parameters gone, values of secret-looking ones "REDACTED".

    At most 1,024 characters, of the first 50 parameters and the first 2,048 characters, percent-encoded as they were
    sent. Never raises.
    """
    kept, length = [], 0
    parts = _parts(query[:READ_LENGTH])
    cut = parts[-1] if len(query) > READ_LENGTH else None
    for part in parts:
        if length >= STORED_QUERY_LENGTH:
            break
        name, sign, value = part.partition("=")
        plain = unescaped(name[:NAME_LENGTH]).strip().lower()
        if plain in CAMPAIGN_NAMES or plain.startswith("utm_"):
            continue
        if sign and (len(name) > NAME_LENGTH or is_secret_name(plain) or _holds_secret(value)):
            value = REDACTED
        elif part is cut:  # a secret may end behind what was read
            part = part[:-STORED_QUERY_LENGTH]
            name, sign, value = part.partition("=")
        if _holds_secret(name):
            name = REDACTED
        kept.append(f"{name}{sign}{value}")
        length += len(kept[-1])
    return _printable("&".join(kept)[:STORED_QUERY_LENGTH])


def _holds_secret(value: str) -> bool:
    """Tell whether a value is a secret by itself, or an address that has one: /login?next=%2Freset%3Ftoken%3D…"""
    if value.isalnum() and len(value) < SHORTEST_TOKEN:  # as most names are
        return False
    if _SECRET_VALUE.search(value):
        return True
    # "+" is a space in a form, and itself in an address; unescaped once, with NUL in its place.
    text = unescaped(unescaped(value.replace("+", "\0")))
    plain = text.replace("\0", "+")
    if any(hide_secrets(one) != one for one in {plain, text.replace("\0", " ")}):
        return True
    named = (part.partition("=") for part in _NESTED.split(plain, MAX_NESTED)[:MAX_NESTED])
    return any(sign and is_secret_name(name.strip().lower()) for name, sign, _ in named)


def channel(
    source: Source | None, medium: str = "", campaign: str = "", click_id: str | None = None, word: str = ""
) -> str:
    """Return the channel; `word` is the source as it was sent. All texts lower case, "" when not sent."""
    kind = source.kind if source else ""
    paid = _PAID.fullmatch(medium) is not None
    shop = kind == "shopping" or _SHOP.search(campaign) is not None
    searched = source is not None and click_id is not None and PAID_SEARCH_IDS.get(click_id) == source.name
    if "cross-network" in campaign:
        return "Cross-network"
    if paid and shop:
        return "Paid Shopping"
    if kind == "search" and (paid or (searched and not medium)):
        return "Paid Search"
    if paid and kind in ("social", "video"):
        return f"Paid {kind.title()}"
    if medium in DISPLAY_MEDIA or (click_id == "dclid" and not medium):
        return "Display"
    if paid:
        return "Paid Other"
    return _unpaid(source, kind, medium, shop, word)


def _unpaid(source: Source | None, kind: str, medium: str, shop: bool, word: str) -> str:
    tests = (
        ("Organic Shopping", shop),
        ("Organic Social", kind == "social" or medium in SOCIAL_MEDIA),
        ("Organic Video", kind == "video" or "video" in medium),
        ("AI Assistants", kind == "ai"),
        ("Organic Search", kind == "search" or medium == "organic"),
        ("Email", kind == "email" or _EMAIL.search(medium) or _EMAIL.search(word)),
        ("Affiliates", medium in ("affiliate", "affiliates")),
        ("Audio", medium == "audio"),
        ("SMS", "sms" in (medium, word)),
        ("Mobile Push Notifications", _is_push(medium, word)),
        ("Referral", source is not None or medium in ("referral", "app", "link")),
    )
    return next((name for name, fits in tests if fits), "Direct")


def _is_push(medium: str, word: str) -> bool:
    return medium.endswith("push") or "mobile" in medium or "notification" in medium or word == "firebase"


def _by_campaign(values: Mapping[str, str], origin: Origin | None) -> Referral:
    click_id = next((name for name in CLICK_IDS if name in values), None)
    sent = next((values[name] for name in ("utm_source", *SOURCE_NAMES) if name in values), "")
    word = sent.lower()
    medium, campaign = values.get("utm_medium", "").lower(), values.get("utm_campaign", "").lower()
    if word in NO_SOURCES:
        word = ""
    source = _named(sent) if word else origin.source if origin else None
    if source is None and not word and click_id:
        source = BY_KEY.get(CLICK_IDS[click_id])
    found = channel(source, medium, campaign, click_id, word)
    if found == "Direct" and (word or origin is not None):
        found = "Referral"
    return Referral(
        channel=found,
        source=source.name[:VALUE_LENGTH] if source else None,
        utm_source=_kept(values.get("utm_source")),
        utm_medium=_kept(values.get("utm_medium")),
        utm_campaign=_kept(values.get("utm_campaign")),
        utm_term=_kept(values.get("utm_term")),
        utm_content=_kept(values.get("utm_content")),
        click_id=click_id,
    )


def _kept(value: str | None) -> str | None:
    return _printable(hide_named(value[:VALUE_LENGTH], len(value) > VALUE_LENGTH)) if value else None


@lru_cache(maxsize=2048)
def _by_origin(origin: Origin | None) -> Referral:
    if origin is None:
        return DIRECT
    if origin.source is None:
        return Referral(channel="Referral")
    return Referral(channel=channel(origin.source), source=origin.source.name)


def _from(referer: str, host: str | None) -> tuple[bool, Origin | None]:
    """Tell whether a Referer is of this site, and where it points; None for junk and spam."""
    start = referer.find("://", 0, 16) + 3
    if start == 2:
        return False, None
    end = referer.find("/", start, start + ORIGIN_LENGTH)
    authority = referer[start : end if end >= 0 else start + ORIGIN_LENGTH]
    if authority == host:
        return True, None
    origin = read_origin(referer[: start - 3], authority)
    if origin is None or "\n" in referer or "\r" in referer:
        return False, None
    own = read_origin("https", host[:ORIGIN_LENGTH]) if host else None
    if own is not None and own.site == origin.site:
        return True, None
    return False, origin


@lru_cache(maxsize=2048)
def read_origin(scheme: str, authority: str) -> Origin | None:
    """Return where an origin points (RFC 3986 section 3.2: user information and port are dropped), None for junk."""
    scheme = scheme.lower()
    name = re.split(r"[/?#\\]", authority, maxsplit=1)[0].rpartition("@")[2].lower()
    if scheme in ("android-app", "ios-app"):
        return Origin(name, _known(name) or Source(name)) if _HOST.fullmatch(name) else None
    if scheme not in ("http", "https"):
        return None
    if name.startswith("["):
        return Origin(name.partition("]")[0], None)
    name = name.partition(":")[0].rstrip(".")
    if not _HOST.fullmatch(name):
        return None
    if name.rpartition(".")[2].isdecimal():  # no top-level domain is a number: an IPv4 address (RFC 3696 section 2)
        return Origin(name, None)
    domain = registrable_domain(name)
    return None if domain in SPAM else Origin(domain, _known(name) or Source(domain))


def registrable_domain(name: str) -> str:
    """Return the part of a lower-case host name that somebody registered.

    By a small rule in place of the public suffix list: two labels, three under second levels such as co.uk and under
    domains shared by many sites.
    """
    labels = name.split(".")
    if len(labels) > 3 and ".".join(labels[-3:]) in SHARED_DOMAINS:
        return ".".join(labels[-4:])
    second = len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in SECOND_LEVELS
    return ".".join(labels[-3 if second or ".".join(labels[-2:]) in SHARED_DOMAINS else -2 :])


def _known(name: str) -> Source | None:
    """Find a host, the nearest of its parents, or its brand under a country's domain."""
    rest = name
    while "." in rest:
        if rest in BY_KEY:
            return BY_KEY[rest]
        rest = rest.partition(".")[2]
    brand, _, suffix = registrable_domain(name).partition(".")
    generic = suffix in ("com", "net", "org") or len(suffix.rpartition(".")[2]) == 2
    return BY_BRAND.get(brand) if generic else None


def _named(sent: str) -> Source | None:
    """Find the source that a campaign's word means: a name, a host or an address of a page.

    None for what is not kept: an IP address, an e-mail address, a token, a page whose host is none, what was cut.
    """
    word = sent.lower()
    scheme, sign, authority = word.partition("://")
    if sign:
        origin = read_origin(scheme, authority[:ORIGIN_LENGTH])
        return origin.source if origin is not None else None
    if len(sent) > VALUE_LENGTH or hide_named(sent) != sent or _ADDRESS.fullmatch(word):
        return None
    return BY_KEY.get(word) or (_known(word) if "." in word else None) or Source(word)


def _parameters(query: bytes | str) -> dict[str, str]:
    """Return the parameters that speak of a campaign: the first of each name, decoded, without empty ones.

    A value that is too long has one character more than is kept.
    """
    values: dict[str, str] = {}
    parts = _parts(query)
    for part in parts if len(query) <= QUERY_LENGTH else parts[:-1]:  # a secret may end behind what was read
        name, _, value = part.partition("=")
        if len(name) > NAME_LENGTH:
            continue
        name = unescaped(name).lower()
        if name in KNOWN_NAMES and name not in values and (text := _decoded(value)):
            values[name] = text
    return values


def _parts(query: bytes | str) -> list[str]:
    text = query[:QUERY_LENGTH]
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return text.split("&", MAX_PARAMETERS)[:MAX_PARAMETERS]


def _decoded(value: str) -> str:
    # Four bytes of UTF-8 take twelve characters of a query.
    text = unescaped(value[: 12 * (VALUE_LENGTH + 1)].replace("+", " "))
    return _printable(text).strip()[: VALUE_LENGTH + 1]


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(filter(str.isprintable, text))
