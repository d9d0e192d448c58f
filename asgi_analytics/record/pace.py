"""The pace of the background threads: pauses after a fault, and rows of a transfer."""

from __future__ import annotations

from dataclasses import dataclass

from ..clock import jitter

LEAST_ROWS = 100
QUICK = 10.0  # seconds: far from any limit on statements, transactions and our own patience


@dataclass(slots=True)
class Backoff:
    """Waits 0.25 s, doubling up to 15 s, each with jitter; a success starts again."""

    wait: float = 0.0

    def next(self) -> float:
        """Return the seconds to wait before the next attempt."""
        self.wait = min(15.0, self.wait * 2 or 0.25)
        return self.wait * (0.5 + jitter() / 2)

    def reset(self) -> None:
        """Begin again after a success."""
        self.wait = 0.0


class BatchSize:
    """How many rows a transfer takes: fewer after one that failed, for it may have been too slow to be let through."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.rows = most

    def failed(self) -> None:
        """Halve it, whatever the fault was: where it is another, a few small transfers cost little."""
        self.rows = min(self.rows, max(LEAST_ROWS, self.rows // 2))

    def moved(self, rows: int, seconds: float) -> None:
        """Double it after a transfer of as many rows that leaves room for twice the time."""
        if seconds < QUICK and rows >= self.rows:
            self.rows = min(self._most, self.rows * 2)
