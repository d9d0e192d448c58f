"""What our own steps cost the requests of this process."""

from __future__ import annotations

SAMPLE = 64  # one request in so many is timed


class Overhead:
    """Mean times of our own steps, over one request in SAMPLE."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[int, float]] = {}

    def add(self, step: str, seconds: float) -> None:
        """Count one run of a step."""
        count, total = self._sums.get(step, (0, 0.0))
        self._sums[step] = count + 1, total + seconds

    def means_us(self) -> dict[str, float]:
        """Return the mean of each step in microseconds."""
        return {step: round(total / count * 1e6, 2) for step, (count, total) in self._sums.items()}
