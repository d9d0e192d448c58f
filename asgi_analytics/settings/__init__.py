"""Options in, frozen and checked settings out. A wrong option fails here, while the app is built."""

from __future__ import annotations

import difflib
import os
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
    shared: str | None = field(default=None, repr=False)  # None: ASGI_ANALYTICS_SHARED, else Postgres
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
        checked["shared"] = checked.get("shared") or CHECKS["shared"](
            "ASGI_ANALYTICS_SHARED", os.environ.get("ASGI_ANALYTICS_SHARED") or None
        )
        settings = cls(**checked)
        if settings.shared_mode == "strict" and not settings.shared:
            raise wrong("shared_mode", "strict", '"lease" without shared="redis://…": only there strict is to be had')
        if settings.session_cookie and not settings.secret:
            raise wrong("secret", None, "a text of at least 16 characters when session_cookie is on")
        return settings
