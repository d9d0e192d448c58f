"""Timestamps of access logs as seconds since 1970; those of one minute are computed once."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

MAX_KEPT = 4096  # minutes that are remembered
LAST = 253_402_214_400.0  # a day before the year 10000, where datetime ends
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# %t of Apache, $time_local of nginx: 10/Oct/2000:13:55:36 -0700; some add a fraction.
_COMMON = re.compile(
    r"(\d{1,2})/([A-Z][a-z]{2})/(\d{4}):(\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?(?: ?([+-])(\d\d):?(\d\d))?", re.ASCII
)
_SECONDS = {f"{second:02}": float(second) for second in range(61)}  # 60: a leap second


class Timestamps:
    """Reads timestamps; remembers minutes. Never raises: None for what is none."""

    def __init__(self) -> None:
        self._minutes: dict[tuple[str, str], float | None] = {}
        self._last = ""
        self._last_seconds: float | None = None

    def common(self, text: str) -> float | None:
        """Return the seconds of "10/Oct/2000:13:55:36 -0700"; what has another shape is tried as `any` does."""
        if text == self._last:  # lines come in order: most share the second of the line before
            return self._last_seconds
        key = text[:17], text[20:]
        minute = self._minutes.get(key)
        second = _SECONDS.get(text[18:20])
        found = self.any(text) if minute is None or second is None else minute + second
        if minute is None and found is not None and second is not None and text[17:18] == ":" and "." not in text:
            if len(self._minutes) >= MAX_KEPT:
                self._minutes.clear()
            self._minutes[key] = found - second
        self._last, self._last_seconds = text, found
        return found

    def any(self, value: object) -> float | None:
        """Return the seconds of a number (s, ms, µs or ns), an ISO 8601 text (UTC where no zone is) or a common one."""
        found = _read(value)
        return found if found is not None and 0.0 <= found < LAST else None


def _read(value: object) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _of_number(value)
    if not isinstance(value, str):
        return None
    text = value.strip()
    if match := _COMMON.fullmatch(text):
        return _of_common(match)
    try:
        return _of_number(float(text))
    except ValueError:
        return _of_iso(text)


def _of_number(value: float) -> float | None:
    if not 0 <= value < 1e20:
        return None
    return next(value / scale for scale in (1.0, 1e3, 1e6, 1e9) if value / scale < 1e11)


def _of_common(match: re.Match[str]) -> float | None:
    day, month, year, hour, minute, second, fraction, sign, zone_hours, zone_minutes = match.groups()
    if month not in _MONTHS:
        return None
    offset = timedelta(hours=int(zone_hours or 0), minutes=int(zone_minutes or 0))
    try:
        zone = timezone(-offset if sign == "-" else offset)
        whole = datetime(int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), 0, tzinfo=zone)
    except ValueError:
        return None
    if int(second) > 60:
        return None
    return whole.timestamp() + int(second) + float(f"0.{fraction or 0}")


def _of_iso(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text.replace("/", "-", 2).replace(",", "."))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
