"""Conversions between our values and the parameters and rows of the store's queries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from psycopg.types.json import Jsonb

from ..model import PARDON_GRACE, Merged, Ruling
from ..reputation import ReputationRules

POINTS = {
    "verdict_points": "behavioural_score",
    "blocked_points": "blocked",
    "request_count_points": "request_count_exceeded_100",
    "session_count_points": "session_count_exceeded_10",
    "velocity_points": "sustained_velocity_10rpm_1hr",
}


def merged(row: Sequence[Any]) -> Merged:
    """Return what a transfer learnt of a visitor."""
    fingerprint, session, remote, level, changed = row
    return Merged(fingerprint.bytes, session.bytes, remote, level, changed or 0)


def settled(row: Sequence[Any]) -> Merged:
    """Return the session that a visitor goes on with."""
    fingerprint, _, session = row
    return Merged(fingerprint.bytes, session.bytes, 0, 0, 0)


def ruling(row: dict[str, Any]) -> Ruling:
    """Return the ruling in a row, which is a dict by column."""
    fingerprint, until = row.pop("fingerprint"), row.pop("until")
    return Ruling(
        id=row.pop("id").bytes,
        fingerprint=None if fingerprint is None else fingerprint.bytes,
        until=math.inf if until is None else until,
        size=row.pop("size") or 0,
        prefix=row.pop("prefix") or 0,
        network=row.pop("network") or b"",
        key=row.pop("key") or b"",
        **row,
    )


def parameters(rules: ReputationRules, bot_score: int, cooldown: float | None = None) -> dict[str, Any]:
    """Return the rules of reputation and levels as parameters of the queries; `cooldown`: None where none is known."""
    points = dict(rules.points)
    named = {name: points.pop(kind, 0) for name, kind in POINTS.items()}
    return {
        **named,
        "signal_points": Jsonb(points),  # what is left: signals that are incidents by themselves
        "bot_score": bot_score,
        "cooldown": cooldown,
        "grace": timedelta(seconds=PARDON_GRACE),
        "network_share": rules.network_share,
        "page_views_per_hour": rules.page_views_per_hour,
        "page_views_per_minute": rules.page_views_per_minute,
        "busy_minutes": rules.busy_minutes,
        "sessions_per_hour": rules.sessions_per_hour,
        "ban_incidents": rules.ban_incidents,
        "ban_length": timedelta(seconds=rules.ban_seconds),
        "low": rules.low,
    }
