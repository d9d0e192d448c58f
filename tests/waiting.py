"""Waiting for what threads and other processes do."""

from __future__ import annotations

import time
from collections.abc import Callable


def delay() -> float:
    """Return by how many seconds what takes one alone is late now, as other processes use the machine."""
    spent, began, worked = 0.05, time.monotonic(), time.thread_time()
    while time.thread_time() - worked < spent:
        pass
    return max(0.0, (time.monotonic() - began) / spent - 1.0)


def wait_until(holds: Callable[[], bool], seconds: float = 30.0, what: str = "it") -> float:
    """Return after how many seconds something holds; fails when that takes too long."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, f"{what} did not happen within {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - began
