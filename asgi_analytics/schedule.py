"""What is done now and then: an upkeep, a look for something, a line in the log."""

from __future__ import annotations

from .protocols import Clock


class Schedule:
    """Keeps by name when something has its turn again; a name that was never asked for has it now."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next: dict[str, float] = {}

    def take_turn(self, what: str, interval: float) -> bool:
        """Tell whether it is time for something; if so, that was its turn until `interval` seconds have passed."""
        now = self._clock.monotonic()
        if now < self._next.get(what, 0.0):
            return False
        self._next[what] = now + interval
        return True

    def clear(self) -> None:
        """Give everything its turn now."""
        self._next.clear()
