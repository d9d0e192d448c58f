"""The only place that asks the time or draws randomness."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from itertools import count
from typing import Final

MINUTE_NS: Final = 60_000_000_000
DAY_NS: Final = 86_400_000_000_000
BELIEVED_AFTER = 3600.0  # seconds


class SystemClock:
    """Wall time for rows, monotonic time for decisions; a jump of the wall clock moves no quota."""

    time_ns = staticmethod(time.time_ns)
    monotonic = staticmethod(time.monotonic)


def release_gil() -> None:
    """Release the GIL for a moment, as background threads do between slices of a long piece of work.

    Otherwise a thread that waits for it gets it only after five milliseconds (sys.getswitchinterval).
    """
    time.sleep(50e-6)


class Calendar:
    """The wall time that salts and cookies go by: a jump by years makes no visitor new.

    Shared by the threads of one process; `jump_ns` is what the wall clock is believed to be ahead by.
    """

    # Steps up to a day are followed at once: slews, NTP, a laptop that slept overnight while the monotonic clock
    # stood still. A longer one (a longer sleep, or the end of years of being wrong) once it has lasted for an hour.
    def __init__(self) -> None:
        self.jump_ns = 0
        self._offset: int | None = None  # from monotonic to wall time
        self._leapt_at: float | None = None

    def wall(self, now: float, time_ns: int) -> int:
        """Return the wall time to go by, in nanoseconds; `now` and `time_ns` as the Clock returns them."""
        since = round(now * 1e9)
        leap = 0 if self._offset is None else time_ns - since - self._offset
        if abs(leap) > DAY_NS:
            if self._leapt_at is None:
                self._leapt_at = now
            if now - self._leapt_at < BELIEVED_AFTER:
                self.jump_ns = leap
                return time_ns - leap
        self._offset, self._leapt_at, self.jump_ns = time_ns - since, None, 0
        return time_ns


_random = random.Random(os.urandom(16))  # noqa: S311 - ids, not secrets


def _after_fork() -> None:
    global next_tail
    _random.seed(os.urandom(16))
    next_tail = _new_tails()


os.register_at_fork(after_in_child=_after_fork)


def uuid7(time_ns: int) -> bytes:
    """Return a UUID version 7 (RFC 9562 section 5.7) as 16 bytes: milliseconds, then 74 random bits."""
    bits = _random.getrandbits(74)
    value = (time_ns // 1_000_000 & 0xFFFF_FFFF_FFFF) << 80 | 0x7000 << 64 | (bits >> 62) << 64
    return (value | 0x8000_0000_0000_0000 | bits & 0x3FFF_FFFF_FFFF_FFFF).to_bytes(16, "big")


def _new_tails() -> Callable[[], int]:
    """Return a maker of second halves of UUIDs version 7: a counter that begins at a random number.

    That is RFC 9562 section 6.2, method 1: as unique as `uuid7`, and cheaper, but not unguessable.
    """
    return count(1 << 63 | _random.getrandbits(61)).__next__


next_tail = _new_tails()  # asked for by its module's name: a fork puts another in its place


def random_bytes(count: int) -> bytes:
    """Return `count` bytes fit for keys and salts."""
    return os.urandom(count)


def jitter() -> float:
    """Return a number in [0, 1) that spreads retries."""
    return _random.random()
