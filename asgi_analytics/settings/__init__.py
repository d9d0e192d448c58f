"""Options in, frozen and checked settings out. A wrong option fails here, while the app is built."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypedDict

from ..errors import ConfigurationError
from ..protocols import Clock
from .checks import CHECKS, default_journal_dir
from .values import (
    EMBEDDING,
    SIGNAL_POINTS,
    SIGNAL_THRESHOLDS,
    UNITS,
    Durability,
    Mode,
    Network,
    Privacy,
    ProxyWord,
    Quota,
    Refine,
    Sharing,
    as_counted,
    wrong,
)

__all__ = [
    "CHECKS",
    "EMBEDDING",
    "SIGNAL_POINTS",
    "SIGNAL_THRESHOLDS",
    "UNITS",
    "Network",
    "Options",
    "Privacy",
    "ProxyWord",
    "Quota",
    "Refine",
    "Settings",
    "as_counted",
    "default_journal_dir",
]


class Options(TypedDict, total=False):
    """The keyword arguments of AnalyticsMiddleware. README.md, "Options", has the defaults and says more.

    dsn: Postgres; None: ASGI_ANALYTICS_DSN, else DATABASE_URL, else the embedded one
    site: name of this site in the tables
    mode: "enforce", or "observe": judges, records and reports, but refuses nobody
    limits: quotas per visitor, such as "1500/minute" or ["20/second", "100/15 minutes"]; (): none
    network_limits: quotas per client network (IPv4 address, IPv6 /64)
    cooldown: seconds after which a throttle level falls by one
    bot_score: score from which a visitor is a behavioural bot
    signal_points: points by signal; 0 switches it off
    signal_thresholds: threshold by signal
    signals: Signal objects of your own
    site_pages: how many pages the site has; 0: learned from what all visitors load
    session_timeout: seconds without a hit that end a session
    session_cookie: True or a name: tell visitors apart by a signed first-party cookie. A page with an ETag or
        Last-Modified gets it only if it is private or no-store; of visitors who look alike at one address and do not
        return it, a worker gives five a day (UTC)
    secret: signs the cookie, at least 16 characters; of several the first signs, all verify
    bans: whether repeat offenders are banned for a day
    allow: addresses or networks that are never banned or slowed down
    verify_crawlers: whether the claims of declared crawlers are checked
    crawler_dir: folder of the address ranges that they are checked by
    trusted_proxies: addresses or networks whose X-Forwarded-For is believed, "unix" for sockets; with "forwarded"
        only Forwarded is read
    geoip_city: MaxMind-format City or Country file; None: the bundled table of countries. Reloaded when it changes, for
        visitors who are known at midnight UTC; where it is missing or damaged, what was loaded before stays
    geoip_asn: MaxMind-format ASN file
    include: path prefixes: only these are handled
    exclude: path prefixes that are passed through untouched
    privacy: a Privacy: what is stored of addresses and queries, and what Sec-GPC and DNT change
    durability: "memory", "journal" or "fsync": what outlives the process, or a power cut
    journal_dir: folder of the journals
    journal_limit: bytes of a worker's journal; when full, new hits are dropped and counted
    retention_days: days that what is stored is kept; None: for ever
    batch_rows: rows of a transfer
    batch_age: seconds between transfers, while fewer than batch_rows come
    shared: "redis://…": share quotas through Valkey or Redis; None: ASGI_ANALYTICS_SHARED, else Postgres
    shared_mode: "lease", or "strict": each request asks that server before the app runs
    shared_timeout: seconds to wait for it
    shutdown_timeout: seconds that shutdown may take to deliver what is left
    max_visitors: visitors in a worker's memory
    max_networks: client networks in memory
    max_flagged: visitors above level Normal in memory, kept apart from the others
    legacy_headers: whether the X-RateLimit-* headers are sent too
    refine_refusal: a function from the refusal's problem (a dict) to what is sent instead
    migrate: whether the schema is brought up to date at start
    clock: for tests: an object with time_ns() and monotonic(), such as asgi_analytics.testing.FakeClock
    """

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
    retention_days: int | None
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
    """Checked options. Times are seconds, sizes bytes, unless a name says otherwise.

    What may hold a password is not in the repr, which error trackers and debuggers show.
    """

    dsn: str | None = field(default=None, repr=False)  # see database.resolve_dsn
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
    secret: tuple[str, ...] = field(default=(), repr=False)  # the first signs, all verify
    bans: bool = False
    allow: tuple[Network, ...] = ()
    verify_crawlers: bool = True
    crawler_dir: Path | None = None  # None: this user's, see jobs.data.default_crawler_dir
    trusted_proxies: tuple[Network | ProxyWord, ...] = ()
    geoip_city: Path | None = None
    geoip_asn: Path | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    privacy: Privacy = field(default_factory=Privacy)
    durability: Durability = "journal"
    journal_dir: Path = Path()
    journal_limit: int = 1 << 30
    retention_days: int | None = None  # None: what is stored stays
    batch_rows: int = 5000
    batch_age: float = 0.25
    shared: str | None = field(default=None, repr=False)  # see shared.resolve_shared; None: Postgres
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
        settings = cls(**checked)
        if settings.shared_mode == "strict" and not settings.shared:
            raise wrong("shared_mode", "strict", '"lease"; "strict" needs shared="redis://…"')
        if settings.session_cookie and not settings.secret:
            raise wrong("secret", None, "a text of at least 16 characters when session_cookie is on")
        return settings
