"""The pace of the background threads: pauses after a fault, and rows of a transfer."""

from __future__ import annotations

from dataclasses import dataclass

from ..clock import jitter

MIN_ROWS = 100  # of a transfer, however often it fails
QUICK = 10.0  # seconds: far below all time-outs of statements and transactions


@dataclass(slots=True)
class Backoff:
    """Pauses from 0.25 s, doubling up to 15 s, each with jitter; a success starts again."""

    wait: float = 0.0

    def next(self) -> float:
        """Return the seconds to wait before the next attempt."""
        self.wait = min(15.0, self.wait * 2 or 0.25)
        return self.wait * (0.5 + jitter() / 2)

    def reset(self) -> None:
        """Begin again after a success."""
        self.wait = 0.0


class BatchSize:
    """How many rows a transfer takes: fewer after a failed one, which may have run into a time-out."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.rows = most

    def failed(self) -> None:
        """Halve it, whatever the error was: if size was not the cause, a few small transfers cost little."""
        self.rows = min(self.rows, max(MIN_ROWS, self.rows // 2))

    def moved(self, rows: int, seconds: float) -> None:
        """Double it after a full-sized transfer that was quick enough to take twice as long."""
        if seconds < QUICK and rows >= self.rows:
            self.rows = min(self._most, self.rows * 2)
