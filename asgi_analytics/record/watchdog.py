"""Cuts the connection to a frozen server, which keeps it alive but never answers: another may answer."""

from __future__ import annotations

from collections import Counter

from ..protocols import Clock, Store

STUCK = 120.0  # seconds of one transaction, after which the connection is cut: no statement of ours may take as long


class Watchdog:
    """Watches, from another thread, the one that waits for the store; each cut is counted in `failures`."""

    def __init__(self, clock: Clock, failures: Counter[str]) -> None:
        self._clock = clock
        self._failures = failures
        self._waits_since: float | None = None

    def begin(self) -> None:
        """Note that the watched thread begins to wait; an earlier wait is over."""
        self._waits_since = self._clock.monotonic()

    def end(self) -> None:
        """Note that the watched thread no longer waits."""
        self._waits_since = None

    def free_stuck(self, store: Store | None) -> None:
        """Cut the connection where the thread has waited for too long. Called periodically."""
        since = self._waits_since
        if since is None or store is None:
            return
        if store.migrating:
            self.begin()
        elif self._clock.monotonic() - since > STUCK:
            self.end()
            self._failures["stuck"] += 1
            store.interrupt()
