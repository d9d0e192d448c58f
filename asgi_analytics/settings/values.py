"""What options are made of: quotas, privacy, the signals' points and thresholds."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ConfigurationError

Mode = Literal["enforce", "observe"]
Sharing = Literal["lease", "strict"]
Durability = Literal["memory", "journal", "fsync"]
ProxyWord = Literal["unix", "forwarded"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
# IPv6 that stands for IPv4: ::ffff:0:0/96 (RFC 4291 section 2.5.5.2) and 64:ff9b::/96 of NAT64 (RFC 6052 section 2.1),
# which an IPv6-only server sees all of the IPv4 internet in.
EMBEDDING = (bytes(10) + b"\xff\xff", b"\x00\x64\xff\x9b" + bytes(8))

# The documented points of the first seven signals, and those of the others; 0 switches a signal off.
SIGNAL_POINTS: Mapping[str, int] = {
    "high_request_count": 30,
    "high_page_coverage": 25,
    "sequential_navigation": 20,
    "multiple_fingerprint_sessions": 20,
    "regular_timing": 15,
    "high_pages_per_minute": 15,
    "outdated_browser": 10,
    "links_never_followed": 20,
    "every_page_once": 15,
    "periodic_cadence": 15,
    "home_tab_watcher": 0,  # a tab that a person pinned does the same
    "probing": 50,
    "credential_stuffing": 50,
    "distributed_stuffing": 50,
    "distinct_items_per_minute": 50,
    "many_pages_by_a_tool": 50,
    "inconsistent_headers": 30,
    "agent_rotation": 30,
    "residential_proxy_rotation": 35,
    "false_crawler_claim": 50,
    "odd_method_or_path": 20,
    "hosting_network": 10,
    "no_javascript_events": 0,  # this and the next two need a beacon in the page
    "ghost_session": 0,
    "no_engagement_across_sessions": 0,
}
# The thresholds, of the first seven the documented ones; see README, "Signals and levels". One without a unit is 0, and
# what is measured 1 or nothing.
SIGNAL_THRESHOLDS: Mapping[str, float] = {
    "high_request_count": 50,  # page loads in a session
    "high_page_coverage": 60.0,  # per cent
    "sequential_navigation": 80.0,  # per cent
    "multiple_fingerprint_sessions": 5,  # sessions within an hour
    "regular_timing": 0.1,  # coefficient of variation
    "high_pages_per_minute": 5.0,  # page loads a minute
    "outdated_browser": 0,
    "links_never_followed": 30,  # different pages
    "every_page_once": 95.0,  # per cent
    "periodic_cadence": 0.1,  # coefficient of variation
    "home_tab_watcher": 0,
    "probing": 1,  # weights of sensitive paths
    "credential_stuffing": 20,  # credentials refused within ten minutes
    "distributed_stuffing": 1,  # likewise, to one of many
    "distinct_items_per_minute": 30,  # items of data, over five minutes
    "many_pages_by_a_tool": 50,  # different pages
    "inconsistent_headers": 0,  # ways in which they contradict the browser
    "agent_rotation": 10,  # user agents
    "residential_proxy_rotation": 10,  # networks
    "false_crawler_claim": 0,
    "odd_method_or_path": 0,  # requests
    "hosting_network": 0,
    "no_javascript_events": 0,
    "ghost_session": 0,
    "no_engagement_across_sessions": 0,
}
UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
LONGEST_WINDOW = 36_500 * 86_400  # seconds: workers name a counter by four bytes of them
_QUOTA = re.compile(r"\s*(\d{1,15})\s*/\s*(?:(\d{1,6})\s*)?(second|minute|hour|day)s?\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Quota:
    """`limit` requests in `window` seconds, under a name that headers and tables use."""

    name: str
    limit: int
    window: int

    @classmethod
    def parse(cls, text: str, prefix: str = "") -> Quota:
        """Read "20/second", "600/minute" or "100/15 minutes". Raises ValueError."""
        match = _QUOTA.fullmatch(text) if isinstance(text, str) else None
        if match is None or int(match[1]) < 1 or int(match[2] or 1) < 1:
            raise ValueError('"<number>/<second|minute|hour|day>", such as "20/second" or "100/15 minutes"')
        times, unit = int(match[2] or 1), match[3].lower()
        name, window = unit if times == 1 else f"{times}-{unit}s", times * UNITS[unit]
        if window > LONGEST_WINDOW:
            raise ValueError(f"windows of at most {LONGEST_WINDOW // UNITS['day']} days")
        return cls(prefix + name, int(match[1]), window)


@dataclass(frozen=True, slots=True)
class Privacy:
    """What is stored of a visitor's address and query, and what a privacy signal changes.

    address: "none", "network" (IPv4 /24, IPv6 /48) or "full".
    query: "none" or "redacted" (values of secret-looking and campaign parameters removed).
    signals: what `Sec-GPC: 1` or `DNT: 1` does: "ignore", "aggregate" (counted without visitor, session,
    region, city and address) or "drop" (not stored). Quotas still hold, in memory.
    """

    address: Literal["none", "network", "full"] = "none"
    query: Literal["none", "redacted"] = "none"
    signals: Literal["ignore", "aggregate", "drop"] = "aggregate"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("address", ("none", "network", "full")),
            ("query", ("none", "redacted")),
            ("signals", ("ignore", "aggregate", "drop")),
        ):
            if getattr(self, name) not in allowed:
                raise wrong(f"privacy.{name}", getattr(self, name), words(allowed))


Refine = Callable[[dict[str, Any]], Mapping[str, Any]]


def as_counted(network: Network) -> Network:
    """Return a network as its clients are counted: as IPv4 if it embeds IPv4."""
    packed = network.network_address.packed
    if network.prefixlen < 96 or not packed.startswith(EMBEDDING):
        return network
    return ipaddress.ip_network((packed[12:], network.prefixlen - 96), strict=False)


def wrong(name: str, value: object, allowed: str) -> ConfigurationError:
    """Return the error of an option that has a wrong value."""
    return ConfigurationError(f"Option {name}={value!r} is not allowed; allowed: {allowed}.")


def words(allowed: Sequence[str]) -> str:
    """Return what is allowed, in one line."""
    return ", ".join(f'"{word}"' for word in allowed)
