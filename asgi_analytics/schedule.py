"""When periodic work is due: upkeep, polling, log lines."""

from __future__ import annotations

from .protocols import Clock


class Schedule:
    """Keeps by name when something is due again; a name that was never asked for is due now."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next: dict[str, float] = {}

    def take_turn(self, what: str, interval: float) -> bool:
        """Tell whether something is due; if so, it is due again in `interval` seconds."""
        now = self._clock.monotonic()
        if now < self._next.get(what, 0.0):
            return False
        self._next[what] = now + interval
        return True

    def clear(self) -> None:
        """Make everything due now."""
        self._next.clear()
