"""The disk that a journal is on, as its flushes show it: one that hangs must not hold up the app."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Iterator
from pathlib import Path

from ..clock import SystemClock

# Seconds of a flush, after which a disk hangs: the first writes to it return all the same, and later ones do not.
PATIENCE = 2.0
LOOK = 0.1  # seconds between two looks at a flush that is waited for


class Disk:
    """Lets one thread flush at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = threading.Lock()
        self.busy_since: float | None = None  # monotonic seconds: a flush goes on
        self.error: OSError | None = None  # of a flush that took long, until somebody tells it

    def hangs(self) -> bool:
        """Tell whether a flush has gone on for longer than PATIENCE."""
        since = self.busy_since
        return since is not None and SystemClock.monotonic() - since > PATIENCE

    @contextlib.contextmanager
    def flushing(self) -> Iterator[None]:
        """Wait for a flush that goes on: rows of this caller may be among them. Raises OSError where the disk hangs."""
        while not self._turn.acquire(timeout=0.0 if self.hangs() else LOOK):
            if self.hangs():
                raise OSError(errno.ETIMEDOUT, "does not answer", str(self._path))
        self.busy_since = began = SystemClock.monotonic()
        try:
            yield
        finally:
            self.busy_since = None
            self._turn.release()
            if (took := SystemClock.monotonic() - began) > PATIENCE:
                text = f"took {took:.1f} s for a flush: hits were kept in memory meanwhile"
                self.error = OSError(errno.ETIMEDOUT, text, str(self._path))
