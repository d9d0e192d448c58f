"""Options that commands share: a policy, a period, how much of a report is shown."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from ..errors import ReplayError
from ..settings import SIGNAL_POINTS, SIGNAL_THRESHOLDS, Settings
from .arguments import read_span, split, whole

MAX_ROWS = 1_000_000  # actors and routes in a report
_SCALARS = {"bot_score": int, "cooldown": float, "site_pages": int, "session_timeout": float}


def add_policy(parser: argparse.ArgumentParser) -> None:
    """Add the options that change a policy."""
    group = parser.add_argument_group("policy", "each may be given several times, or with commas")
    group.add_argument("--limits", action="append", metavar="QUOTA", help='quotas per visitor, such as "600/minute"')
    group.add_argument("--network-limits", action="append", metavar="QUOTA", help="quotas per client network")
    group.add_argument("--bot-score", type=int, metavar="POINTS", help="points that make a behavioural bot")
    group.add_argument("--points", action="append", metavar="SIGNAL=POINTS", help="points of a signal, 0: off")
    group.add_argument("--thresholds", action="append", metavar="SIGNAL=VALUE", help="threshold of a signal")
    group.add_argument("--cooldown", type=float, metavar="SECONDS", help="until a level falls by one")
    group.add_argument("--site-pages", type=int, metavar="PAGES", help="how many pages the site has, 0: learned")
    group.add_argument("--session-timeout", type=float, metavar="SECONDS", help="without a hit that end a session")


def add_period(parser: argparse.ArgumentParser, since: str | None = None) -> None:
    """Add --since and --until."""
    shown = f" ({since})" if since else ""
    spoken = f"a date or time (UTC), or a span such as 7d{shown}"
    parser.add_argument("--since", default=since, metavar="WHEN", help=spoken)
    parser.add_argument("--until", metavar="WHEN", help="the end, as --since; by itself not in the period")


def add_top(parser: argparse.ArgumentParser) -> None:
    """Add --top."""
    shown = "actors and routes that are shown (10)"
    parser.add_argument("--top", type=whole(1, MAX_ROWS), default=10, metavar="N", help=shown)


def settings(options: argparse.Namespace, base: Mapping[str, Any] | None = None, **more: Any) -> Settings:
    """Return the settings of a policy: `base` (options of Settings.build), changed by what was asked for.

    Raises ConfigurationError for a value that is not allowed, ReplayError for what is no NAME=NUMBER.
    """
    chosen: dict[str, Any] = {**(base or {}), **more}
    for name in ("limits", "network_limits"):
        if given := getattr(options, name):
            chosen[name] = split(given)
    for name in _SCALARS:
        if (value := getattr(options, name)) is not None:
            chosen[name] = value
    for name, flag, given, known, kind in (
        ("signal_points", "--points", options.points, SIGNAL_POINTS, int),
        ("signal_thresholds", "--thresholds", options.thresholds, SIGNAL_THRESHOLDS, float),
    ):
        if given:
            chosen[name] = {**chosen.get(name, {}), **_pairs(flag, given, known, kind)}
    return Settings.build(**chosen)


def are_changes(options: argparse.Namespace) -> bool:
    """Tell whether any policy option was given."""
    names = ("limits", "network_limits", "points", "thresholds", *_SCALARS)
    return any(getattr(options, name) is not None for name in names)


def moment(text: str | None, now: float) -> float | None:
    """Return a moment in seconds since 1970: "7d" (before `now`), a date, or a time, in UTC unless it has a zone.

    Raises ReplayError.
    """
    if text is None:
        return None
    if (span := read_span(text)) is not None:
        return now - span.total_seconds()
    try:
        found = datetime.fromisoformat(text.strip())
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        allowed = "a span before now (30m, 12h, 7d, 2w), a date (2026-11-24) or a time (2026-11-24T13:00)"
        raise ReplayError(f"{text!r} is no moment; allowed: {allowed}.") from None


def _pairs(flag: str, given: Iterable[str], known: Iterable[str], kind: type) -> dict[str, Any]:
    found = {}
    for text in split(given):
        name, sign, value = text.partition("=")
        if not sign or name.strip() not in known:
            raise ReplayError(f"{flag} {text!r} is not NAME=NUMBER with a name among {', '.join(known)}.")
        try:
            found[name.strip()] = kind(value)
        except ValueError:
            raise ReplayError(f"{flag} {text!r}: {value!r} is no {'whole ' if kind is int else ''}number.") from None
    return found
