"""The pace of the background threads: how long they pause after a fault, and what is due again when."""

from __future__ import annotations

from dataclasses import dataclass

from ..clock import jitter
from ..protocols import Clock


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


class Schedule:
    """What is done now and then, by name; a name that was never asked for is due."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: dict[str, float] = {}

    def is_due(self, what: str, interval: float) -> bool:
        """Tell whether it is time for something; if so, it is due again in `interval` seconds."""
        now = self._clock.monotonic()
        if now < self._due.get(what, 0.0):
            return False
        self._due[what] = now + interval
        return True

    def hasten(self, what: str) -> None:
        """Make something due now."""
        self._due.pop(what, None)

    def clear(self) -> None:
        """Make everything due now."""
        self._due.clear()
