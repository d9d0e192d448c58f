"""What all workers agree on through the store: the salts of yesterday to tomorrow, and rulings."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from ..clock import Calendar
from ..protocols import Clock, Salt, SharedRulings, SharedState, Store
from ..schedule import Schedule

SALTS_INTERVAL = 600.0  # seconds


class Agreement:
    """Asks the store periodically, as `schedule` says. Raises StoreError."""

    def __init__(
        self, shared: SharedState, rulings: SharedRulings | None, clock: Clock, calendar: Calendar, schedule: Schedule
    ) -> None:
        self.is_reached = False  # on the salts, since the connection was opened
        self.is_new = False  # a connection was opened since rulings were learnt: maybe to a database that was restored
        self._shared = shared
        self._rulings = rulings
        self._clock = clock
        self._calendar = calendar
        self._schedule = schedule
        self._salts: list[Salt] = []
        self._revision = -1  # of the newest ruling that this worker knows

    def exchange_salts(self, store: Store) -> None:
        """Offer the salts that this worker knows of yesterday, today and tomorrow, and learn the agreed ones."""
        today = datetime.fromtimestamp(self._wall(), UTC).date()
        periods = [(today + timedelta(days=shift)).isoformat() for shift in (-1, 0, 1)]
        same = [salt.period for salt in self._salts] == periods
        if same and self.is_reached and not self._schedule.take_turn("salts", SALTS_INTERVAL):
            return
        known = [salt for salt in self._salts if salt.period in periods]
        # A server whose clock jumped may have deleted today's: we keep ours.
        agreed = {salt.period: salt for salt in (*known, *store.exchange_salts(known, periods))}
        self._salts = sorted(agreed.values(), key=lambda salt: salt.period)
        self._shared.learn_salts(self._salts)
        self.is_reached = True

    def learn_rulings(self, store: Store, interval: float) -> None:
        """Take in the rulings that changed, every `interval` seconds."""
        if self._rulings is None or not self._schedule.take_turn("rulings", interval):
            return
        if self.is_new and self._revision > 0:
            # A backup, or a database made anew, counts other changes by the revisions that we know.
            self._revision = 0
        changed = store.rulings(self._revision)
        self.is_new = False
        if changed:
            now = self._clock.monotonic()
            timed = [replace(one, made_at=now + one.made_at, until=now + one.until) for one in changed]
            self._rulings.learn_rulings(timed, now)
        self._revision = max(self._revision, 0, *(ruling.revision for ruling in changed))

    def _wall(self) -> float:
        return self._calendar.wall(self._clock.monotonic(), self._clock.time_ns()) / 1e9
