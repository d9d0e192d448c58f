"""The policy that a row was judged by: the settings that verdicts depend on, in one form, and its short name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from . import Settings
from .values import UNITS, Quota

RULES = 21  # counted up whenever the same settings come to mean other verdicts
_LARGEST_FIRST = tuple(reversed(UNITS.items()))
_NUMBERS = ("cooldown", "bot_score", "site_pages", "session_timeout")
_QUOTAS = ("limits", "network_limits")
_TABLES = ("signal_points", "signal_thresholds")


def canonical(settings: Settings) -> dict[str, Any]:
    """Return what verdicts depend on as JSON values. `mode` is not in it: observing judges as enforcing does."""
    found: dict[str, Any] = {"rules": RULES}
    found |= {name: [_quota(quota) for quota in getattr(settings, name)] for name in _QUOTAS}
    # 600 and 600.0 are one policy, and jsonb makes one of them.
    found |= {name: float(getattr(settings, name)) for name in _NUMBERS}
    if settings.signals:  # functions cannot be stored: what-if knows that they were there, not what they found
        found["signals"] = [[one.code, one.points, one.threshold, one.below] for one in settings.signals]
    tables = {name: getattr(settings, name) for name in _TABLES}
    return found | {name: {key: float(table[key]) for key in sorted(table)} for name, table in tables.items()}


def version(settings: Settings) -> str:
    """Return 12 hex digits that are the same for the same policy, in every process."""
    text = json.dumps(canonical(settings), sort_keys=True, separators=(",", ":"))
    return blake2b(text.encode(), digest_size=6).hexdigest()


def options(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of Settings.build that a stored canonical form stands for; keys it does not know are left."""
    found: dict[str, Any] = {name: list(stored[name]) for name in _QUOTAS if name in stored}
    for name in _NUMBERS:
        if name in stored:
            found[name] = int(stored[name]) if name in ("bot_score", "site_pages") else float(stored[name])
    known = Settings()
    for name, kind in zip(_TABLES, (int, float), strict=True):
        if name in stored:
            found[name] = {key: kind(value) for key, value in stored[name].items() if key in getattr(known, name)}
    return found


def _quota(quota: Quota) -> str:
    """Return the quota with its largest unit, so that "60/60 seconds" and "60/minute" are one."""
    unit, size = next((unit, size) for unit, size in _LARGEST_FIRST if quota.window % size == 0)
    times = quota.window // size
    return f"{quota.limit}/{unit}" if times == 1 else f"{quota.limit}/{times} {unit}s"
