"""Options in, frozen and checked settings out. A wrong option fails here, while the app is built."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from .errors import ConfigurationError
from .protocols import Clock

Mode = Literal["enforce", "observe"]
Sharing = Literal["lease", "strict"]
Durability = Literal["memory", "journal", "fsync"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

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
# The thresholds, of the first seven the documented ones; see README, "Signals and levels".
SIGNAL_THRESHOLDS: Mapping[str, float] = {
    "high_request_count": 50,
    "high_page_coverage": 60.0,  # per cent
    "sequential_navigation": 80.0,  # per cent
    "multiple_fingerprint_sessions": 5,
    "regular_timing": 0.1,  # coefficient of variation
    "high_pages_per_minute": 5.0,
    "outdated_browser": 0,
    "links_never_followed": 30,
    "every_page_once": 95.0,  # per cent
    "periodic_cadence": 0.1,  # coefficient of variation
    "home_tab_watcher": 0,
    "probing": 1,
    "credential_stuffing": 20,
    "distributed_stuffing": 1,
    "distinct_items_per_minute": 30,
    "many_pages_by_a_tool": 50,
    "inconsistent_headers": 0,
    "agent_rotation": 10,
    "residential_proxy_rotation": 10,
    "false_crawler_claim": 0,
    "odd_method_or_path": 0,
    "hosting_network": 0,
    "no_javascript_events": 0,
    "ghost_session": 0,
    "no_engagement_across_sessions": 0,
}
UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
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
        name = unit if times == 1 else f"{times}-{unit}s"
        return cls(prefix + name, int(match[1]), times * UNITS[unit])


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
                raise _wrong(f"privacy.{name}", getattr(self, name), _words(allowed))


Refine = Callable[[dict[str, Any]], Mapping[str, Any]]


class Options(TypedDict, total=False):
    """The keyword arguments of AnalyticsMiddleware; README.md, "Options", explains each."""

    dsn: str | None
    site: str
    mode: Mode
    limits: str | Sequence[str]
    network_limits: str | Sequence[str]
    cooldown: float
    bot_score: int
    signal_points: Mapping[str, int]
    signal_thresholds: Mapping[str, float]
    signals: Sequence[Any]
    site_pages: int
    session_timeout: float
    session_cookie: bool | str
    secret: str | Sequence[str] | None
    bans: bool
    allow: str | Sequence[str]
    verify_crawlers: bool
    crawler_dir: str | Path | None
    trusted_proxies: str | Sequence[str]
    geoip_city: str | Path | None
    geoip_asn: str | Path | None
    include: str | Sequence[str]
    exclude: str | Sequence[str]
    privacy: Privacy
    durability: Durability
    journal_dir: str | Path | None
    journal_limit: int
    batch_rows: int
    batch_age: float
    shared: str | None
    shared_mode: Sharing
    shared_timeout: float
    shutdown_timeout: float
    max_visitors: int
    max_networks: int
    max_flagged: int
    legacy_headers: bool
    refine_refusal: Refine | None
    migrate: bool
    clock: Clock | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Checked options. Times are seconds, sizes bytes, unless a name says otherwise."""

    dsn: str | None = None  # resolved by store.postgres.resolve_dsn
    site: str = "default"
    mode: Mode = "enforce"
    # A page with hundreds of files over HTTP/2 asks for them within one second: that must pass.
    limits: tuple[Quota, ...] = (Quota("minute", 1500, 60),)
    # An office or a mobile carrier's gateway is hundreds of people behind one address.
    network_limits: tuple[Quota, ...] = (Quota("network-minute", 30_000, 60),)
    cooldown: float = 600.0  # per level
    bot_score: int = 50
    signal_points: Mapping[str, int] = field(default_factory=lambda: dict(SIGNAL_POINTS))
    signal_thresholds: Mapping[str, float] = field(default_factory=lambda: dict(SIGNAL_THRESHOLDS))
    signals: tuple[Any, ...] = ()  # of the site's own, each a Signal
    site_pages: int = 0  # 0: learned from what all visitors load
    session_timeout: float = 30 * 60.0
    session_cookie: str | None = None  # its name
    secret: tuple[str, ...] = ()  # the first signs, all verify
    bans: bool = False
    allow: tuple[Network, ...] = ()
    verify_crawlers: bool = True
    crawler_dir: Path | None = None  # None: this user's, see jobs.data.default_data_dir
    trusted_proxies: tuple[Network | Literal["unix"], ...] = ()
    geoip_city: Path | None = None
    geoip_asn: Path | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    privacy: Privacy = Privacy()
    durability: Durability = "journal"
    journal_dir: Path = Path()
    journal_limit: int = 1 << 30
    batch_rows: int = 5000
    batch_age: float = 0.25
    shared: str | None = None  # None: ASGI_ANALYTICS_SHARED, else Postgres
    shared_mode: Sharing = "lease"
    shared_timeout: float = 0.25
    shutdown_timeout: float = 4.0
    max_visitors: int = 20_000
    max_networks: int = 20_000
    max_flagged: int = 10_000
    legacy_headers: bool = False
    refine_refusal: Refine | None = None
    migrate: bool = True
    clock: Clock | None = None

    @classmethod
    def build(cls, **options: Any) -> Settings:
        """Check every option. Raises ConfigurationError naming the option, its value and what is allowed."""
        names = [one.name for one in fields(cls)]
        for name in options:
            if name not in names:
                near = difflib.get_close_matches(name, names, 1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ConfigurationError(f"Unknown option {name!r}.{hint} Allowed: {', '.join(names)}.")
        checked = {name: CHECKS[name](name, value) for name, value in options.items()}
        checked.setdefault("journal_dir", default_journal_dir())
        checked["shared"] = checked.get("shared") or _shared("shared", os.environ.get("ASGI_ANALYTICS_SHARED") or None)
        settings = cls(**checked)
        if settings.shared_mode == "strict" and not settings.shared:
            raise _wrong("shared_mode", "strict", '"lease" without shared="redis://…": only there strict is to be had')
        if settings.session_cookie and not settings.secret:
            raise _wrong("secret", None, "a text of at least 16 characters when session_cookie is on")
        return settings


def default_journal_dir() -> Path:
    """ASGI_ANALYTICS_JOURNAL_DIR, else a folder of this user's own in the system's place for state."""
    if chosen := os.environ.get("ASGI_ANALYTICS_JOURNAL_DIR"):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/var/tmp/asgi-analytics/journal")  # noqa: S108 - made 0700 and owner-checked by the journal
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state) / "asgi-analytics" / "journal"


def _wrong(name: str, value: object, allowed: str) -> ConfigurationError:
    return ConfigurationError(f"Option {name}={value!r} is not allowed; allowed: {allowed}.")


def _words(allowed: Sequence[str]) -> str:
    return ", ".join(f'"{word}"' for word in allowed)


def _listed(value: object) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, str) or not isinstance(value, Sequence) else list(value)


def _choice(kind: Any) -> Callable[[str, Any], Any]:
    def check(name: str, value: Any) -> Any:
        if value not in get_args(kind):
            raise _wrong(name, value, _words(get_args(kind)))
        return value

    return check


def _number(kind: type, low: float, high: float, unit: str) -> Callable[[str, Any], Any]:
    def check(name: str, value: Any) -> Any:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole or (kind is float and isinstance(value, float))) or not low <= value <= high:
            raise _wrong(name, value, f"{'a number' if kind is float else 'a whole number'} of {unit}, {low} to {high}")
        return kind(value)

    return check


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, value, "True or False")
    return value


def _text(low: int, high: int) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or not low <= len(value) <= high or not value.isprintable():
            raise _wrong(name, value, f"printable text of {low} to {high} characters")
        return value

    return check


def _dsn(name: str, value: Any) -> str | None:
    if value is None or (
        isinstance(value, str) and (value.startswith(("postgres://", "postgresql://")) or "=" in value)
    ):
        return value
    # It may hold a password.
    raise _wrong(name, "…", 'None, "postgresql://user:password@host/database" or "host=… dbname=…"')


def _shared(name: str, value: Any) -> str | None:
    schemes = ("redis://", "rediss://", "valkey://", "valkeys://", "unix://")
    if value is None or (isinstance(value, str) and value.startswith(schemes)):
        return value
    # It may hold a password.
    raise _wrong(name, "…", 'None or "redis://user:password@host:6379/0", also rediss:// or unix://')


def _quotas(prefix: str) -> Callable[[str, Any], tuple[Quota, ...]]:
    def check(name: str, value: Any) -> tuple[Quota, ...]:
        quotas = []
        for text in _listed(value):
            try:
                quotas.append(Quota.parse(text, prefix))
            except ValueError as error:
                raise _wrong(name, text, str(error)) from None
        if len({quota.window for quota in quotas}) != len(quotas):
            raise _wrong(name, value, "at most one quota per window")
        return tuple(sorted(quotas, key=lambda quota: quota.window))

    return check


def _table(defaults: Mapping[str, float], kind: type) -> Callable[[str, Any], dict[str, Any]]:
    def check(name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping) or set(value) - set(defaults):
            raise _wrong(name, value, f"a mapping with keys among {', '.join(defaults)}")
        checker = _number(kind, 0, 1_000_000, "points" if kind is int else "the signal's unit")
        return {**defaults, **{key: checker(f"{name}[{key!r}]", number) for key, number in value.items()}}

    return check


def _signals(name: str, value: Any) -> tuple[Any, ...]:
    """The site's own signals; duck-typed, as what a signal is belongs to the stage that measures it."""
    found = tuple(_listed(value))
    codes = [getattr(one, "code", None) for one in found]
    fit = all(
        callable(getattr(one, "measure", None)) and isinstance(code, str)
        for one, code in zip(found, codes, strict=True)
    )
    if not fit or len({*codes}) != len(codes) or not SIGNAL_POINTS.keys().isdisjoint(codes):
        raise _wrong(name, value, "asgi_analytics.Signal objects, each with a code of its own")
    return found


def _cookie(name: str, value: Any) -> str | None:
    if value is False or value is None:
        return None
    if value is True:
        return "aa_v"
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}", value):
        raise _wrong(name, value, "True, False or a cookie name (RFC 6265 token, at most 64 characters)")
    return value


def _secrets(name: str, value: Any) -> tuple[str, ...]:
    keys = tuple(_listed(value))
    if not all(isinstance(key, str) and len(key) >= 16 for key in keys):
        raise _wrong(name, "…", "a text of at least 16 characters, or several: the first signs, all verify")
    return keys


def _proxies(name: str, value: Any) -> tuple[Network | Literal["unix"], ...]:
    try:
        return tuple("unix" if text == "unix" else ipaddress.ip_network(_string(text)) for text in _listed(value))
    except ValueError:
        allowed = 'addresses or CIDR networks such as "10.0.0.0/8" without host bits, or "unix" for unix sockets'
        raise _wrong(name, value, allowed) from None


def _networks(name: str, value: Any) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(_string(text)) for text in _listed(value))
    except ValueError:
        raise _wrong(name, value, 'addresses or CIDR networks such as "198.51.100.0/24" without host bits') from None


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    return value


def _path(name: str, value: Any) -> Path | None:
    if value is not None and not isinstance(value, (str, Path)):
        raise _wrong(name, value, "a path or None")
    return Path(value) if value else None


def _journal(name: str, value: Any) -> Path:
    return _path(name, value) or default_journal_dir()


def _paths(name: str, value: Any) -> tuple[str, ...]:
    patterns = tuple(_listed(value))
    if not all(isinstance(text, str) and text.startswith("/") for text in patterns):
        raise _wrong(name, value, 'path prefixes that start with "/", such as "/health"')
    return patterns


def _privacy(name: str, value: Any) -> Privacy:
    if not isinstance(value, Privacy):
        raise _wrong(name, value, "a Privacy(address=…, query=…, signals=…)")
    return value


def _callable(name: str, value: Any) -> Any:
    if value is not None and not callable(value):
        raise _wrong(name, value, "a function or None")
    return value


def _clock(name: str, value: Any) -> Any:
    if value is not None and not (hasattr(value, "time_ns") and hasattr(value, "monotonic")):
        raise _wrong(name, value, "an object with time_ns() and monotonic()")
    return value


CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    "dsn": _dsn,
    "site": _text(1, 100),
    "mode": _choice(Mode),
    "limits": _quotas(""),
    "network_limits": _quotas("network-"),
    "cooldown": _number(float, 1, 86400 * 30, "seconds"),
    "bot_score": _number(int, 1, 1000, "points"),
    "signal_points": _table(SIGNAL_POINTS, int),
    "signal_thresholds": _table(SIGNAL_THRESHOLDS, float),
    "signals": _signals,
    "site_pages": _number(int, 0, 10_000_000, "pages"),
    "session_timeout": _number(float, 60, 86400, "seconds"),
    "session_cookie": _cookie,
    "secret": _secrets,
    "bans": _flag,
    "allow": _networks,
    "verify_crawlers": _flag,
    "crawler_dir": _path,
    "trusted_proxies": _proxies,
    "geoip_city": _path,
    "geoip_asn": _path,
    "include": _paths,
    "exclude": _paths,
    "privacy": _privacy,
    "durability": _choice(Durability),
    "journal_dir": _journal,
    "journal_limit": _number(int, 1 << 20, 1 << 40, "bytes"),
    "batch_rows": _number(int, 1, 50_000, "rows"),
    "batch_age": _number(float, 0.01, 60, "seconds"),
    "shared": _shared,
    "shared_mode": _choice(Sharing),
    "shared_timeout": _number(float, 0.005, 10, "seconds"),
    "shutdown_timeout": _number(float, 0, 60, "seconds"),
    "max_visitors": _number(int, 100, 10_000_000, "visitors"),
    "max_networks": _number(int, 100, 10_000_000, "networks"),
    "max_flagged": _number(int, 100, 10_000_000, "visitors"),
    "legacy_headers": _flag,
    "refine_refusal": _callable,
    "migrate": _flag,
    "clock": _clock,
}
