"""Sliding window counters over the clock: this window's units plus those of the one before, weighted by the time left.

A unit fits while the estimate is below the limit, so a window of the clock never holds more than the limit, a steady
stream above it gets exactly the limit, and no stretch as long as the window holds more than twice the limit.
"""

from __future__ import annotations

from math import ceil
from typing import Final

from ..facts import Window

# Seconds. Those marked Final are written into compiled code, which looks up others each time.
MINUTE: Final = 60.0
FIVE_MINUTES: Final = 300.0
TEN_MINUTES: Final = 600.0
HOUR: Final = 3600.0


def turn(window: Window, size: float, now: float) -> float:
    """Move to the window of the clock that `now` lies in and return the seconds that are left of it, in (0, size]."""
    ends_at = window.ends_at
    if 0.0 <= now - ends_at < size:  # the next one, as it mostly is
        window.previous, window.count = window.count, 0
        window.ends_at = ends_at = ends_at + size
        return ends_at - now
    ends_at = (now // size + 1.0) * size
    if not window.count and not window.previous:  # a new one, mostly
        window.ends_at = ends_at
        return ends_at - now
    step = round((ends_at - window.ends_at) / size)
    if step == 1:
        window.previous, window.count = window.count, 0
    elif step > 1:
        window.previous = window.count = 0
    elif step < 0:  # the clock went back: no unit may be used twice, so all of them count now
        window.previous, window.count = 0, window.count + window.previous
    window.ends_at = ends_at
    return ends_at - now


def charge(window: Window, size: float, now: float, units: int = 1) -> None:
    """Count `units` at `now`; `size` is the window's length in seconds."""
    if not 0.0 < window.ends_at - now <= size:
        turn(window, size, now)
    window.count += units


def try_charge(window: Window, size: float, most: float, now: float) -> bool:
    """Count a unit if fewer than `most` are in the window; tell whether it was counted."""
    if estimate(window, size, now) >= most:
        return False
    charge(window, size, now)
    return True


def estimate(window: Window, size: float, now: float) -> float:
    """Return the units of the last `size` seconds, as if the window before had been filled evenly."""
    left = window.ends_at - now
    if not 0.0 < left <= size:
        left = turn(window, size, now)
    return window.count + window.previous * left / size


def held(window: Window, size: float, now: float) -> float:
    """Return `estimate`, and leave the window as it is: for threads beside those of the requests."""
    left = window.ends_at - now
    if left > 0.0:
        return window.count + window.previous * min(1.0, left / size)
    return window.count * (1.0 + left / size) if left > -size else 0.0


def remaining(window: Window, size: float, limit: int, now: float) -> int:
    """Return how many units fit at `now`; never negative."""
    return max(0, ceil(limit - estimate(window, size, now)))


def reset(window: Window, size: float, now: float) -> int:
    """Return the whole seconds, rounded up, until the window of the clock moves on; at least 1."""
    return ceil(turn(window, size, now))


def wait(window: Window, size: float, limit: int, now: float) -> float:
    """Return the seconds after which one unit fits; 0.0 when it fits at once. `limit` is at least 1."""
    if estimate(window, size, now) < limit:
        return 0.0
    left = window.ends_at - now
    if window.count < limit:
        return left - (limit - window.count) / window.previous * size
    return left + (1.0 - limit / window.count) * size
