"""The background thread that exchanges quotas with other workers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from ..clock import jitter, random_bytes, release_gil
from ..columns import one_line
from ..decide.lease import Leases
from ..errors import SharedUnavailable
from ..log import LOG_INTERVAL, log
from ..low_memory import SafeEvent, start_thread
from ..protocols import Ask, Clock, Exchanged, SharedQuotas
from ..schedule import Schedule
from .bounds import MAX_ASKS

LONGEST_INTERVAL = 0.5  # seconds between two exchanges
SHORTEST_INTERVAL = 0.015  # the same when a request needs units: long enough to spare the server in a burst
RETRY_INTERVAL = 1.0  # seconds after a failed exchange, with jitter
STUCK = 3.0  # seconds of a round trip, after which its connection is cut: no statement of ours may take as long
SCHEMA_POLL = 0.1  # the same while the writer of some worker makes the tables
NO_SCHEMA = ("3F000", "42P01", "42883")  # SQLSTATEs: no such schema, table, function
MIGRATION = 60.0  # seconds from the first exchange on in which a missing schema is no failure


class Sharer:
    """Exchanges what this worker used and is lent, every `interval` seconds and when `wake` is called.

    `changed` is called when the number of workers changed, or whether quotas are shared at all.
    """

    def __init__(
        self,
        quotas: SharedQuotas,
        leases: Leases,
        clock: Clock,
        interval: float,
        changed: Callable[[], None],
    ) -> None:
        self.worker = random_bytes(16)
        self.quotas = quotas
        self.exchanges = 0
        self.spent = 0.0  # seconds in exchanges
        self.failures = 0  # exchanges
        self.outages = 0
        self.attempted = SafeEvent()  # quotas are shared and other workers know of us, or sharing failed
        self._leases = leases
        self._clock = clock
        self._interval = min(interval, LONGEST_INTERVAL)
        self._first_exchange_at: float | None = None
        self._schema_due_at: float | None = None  # monotonic seconds: a missing schema is a failure from then on
        self._schema_is_missing = False
        self._stuck_at: float | None = None  # monotonic seconds: when the exchange on its way counts as stuck
        self._is_told = False  # the log says that quotas hold per worker
        self._logged = Schedule(clock)
        self._changed = changed
        self._wanted = SafeEvent()
        self._stopping = SafeEvent()
        self._thread = threading.Thread(target=self._run, name="asgi-analytics-sharer", daemon=True)

    def start(self) -> None:
        """Start the thread; where the system refuses it, quotas hold per worker."""
        try:
            start_thread(self._thread)
        except (RuntimeError, MemoryError) as error:
            log.warning("No background thread (%s): quotas hold per worker.", error)
            self.attempted.set()

    def wake(self) -> None:
        """Have the next exchange come soon; only sets a flag, for it is called on the request path."""
        self._wanted.set()

    def stop(self, timeout: float) -> None:
        """Give back what was lent, within `timeout` seconds."""
        self.request_stop()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def request_stop(self) -> None:
        """Tell the thread to give back what was lent and end."""
        self._stopping.set()
        self._wanted.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                began = self._clock.monotonic()
                pause = self._exchange_once(began)
                self._wanted.wait(max(0.0, pause - (self._clock.monotonic() - began)))
                self._stopping.wait(SHORTEST_INTERVAL)
            except Exception:  # noqa: BLE001 - out of memory, logging and waiting fail; the thread must live
                release_gil()
        if self._leases.connected:
            self._give_back()
        self.quotas.close()

    def _exchange_once(self, now: float) -> float:
        """Exchange once and return the seconds to the next time."""
        self._wanted.clear()
        before = (self._leases.workers, self._leases.connected)
        if self._schema_due_at is None:
            self._schema_due_at = now + MIGRATION
        self._schema_is_missing = False
        try:
            self._exchange(now)
        except Exception as error:  # noqa: BLE001 - whatever it is, the limits must hold and the thread must live
            self._fail(error, now)
        else:
            self.exchanges += 1
            self.spent += self._clock.monotonic() - now
            if self._is_told:
                self._is_told = False
                log.warning("Quotas are shared between workers again.")
        if before != (self._leases.workers, self._leases.connected):
            self._changed()
        if self._is_known(now):
            self.attempted.set()
        if self._leases.connected:
            return min(self._interval, self._leases.interval())
        return SCHEMA_POLL if self._schema_is_missing else RETRY_INTERVAL * (0.5 + jitter())

    def _exchange(self, now: float) -> None:
        asks, answers = self._leases.asks(now), list[Exchanged]()
        self._stuck_at = now + STUCK * (1 + len(asks) // MAX_ASKS)
        try:
            answers.extend(self._answers(self._leases.revision, asks))
        finally:
            self._stuck_at = None
            if answers:  # what was told by the parts before one that fails must not be told again
                self._leases.take_in(joined(answers), now, self._clock.monotonic())

    def _answers(self, revision: int, asks: Sequence[Ask]) -> Iterator[Exchanged]:
        for start in range(0, len(asks) or 1, MAX_ASKS):
            yield self.quotas.exchange(self.worker, revision, asks[start : start + MAX_ASKS])

    def free_stuck(self) -> None:
        """Cut the connection to a frozen server: while waiting for it we are lent nothing. Called periodically."""
        stuck_at = self._stuck_at
        if stuck_at is not None and self._clock.monotonic() > stuck_at:
            self._stuck_at = None
            self.quotas.interrupt()

    def _is_known(self, now: float) -> bool:
        """Tell whether other workers have had time to learn of this one and to report what they used."""
        if self._first_exchange_at is None:
            self._first_exchange_at = now
        return (
            not self._leases.connected
            or self._leases.workers < 2
            or now - self._first_exchange_at >= 2 * self._interval
        )

    def _fail(self, error: Exception, now: float) -> None:
        if not self.exchanges and now < (self._schema_due_at or 0.0) and _has_no_schema(error):
            self._schema_is_missing = True
            log.debug("Quotas hold per worker until the schema is there: %s", error)
            self._leases.cut_off()
            return
        self.failures += 1
        self.outages += self._leases.connected or not self.outages
        # A server that is there on and off fills no log.
        if not self._is_told and self._logged.take_turn("outage", LOG_INTERVAL):
            self._is_told = True
            log.warning(
                "Quotas hold per worker until they can be shared again: %s",
                one_line(error)[:500],
                exc_info=None if isinstance(error, SharedUnavailable) else error,
            )
        self._leases.cut_off()

    def _give_back(self) -> None:
        try:
            revision, returned = self._leases.revision, self._leases.returns(self._clock.monotonic())
            deque(self._answers(revision, returned), maxlen=0)
            self.quotas.leave(self.worker)
        except SharedUnavailable:
            pass  # it soon counts as dead, and its loans as used


def joined(answers: Sequence[Exchanged]) -> Exchanged:
    """Return the answer to all parts of a round."""
    scarce = {name: stage for one in answers for name, stage in one.scarce.items()}
    grants = [grant for one in answers for grant in one.grants]
    return Exchanged(answers[-1].workers, answers[-1].revision, scarce, grants)


def _has_no_schema(error: Exception) -> bool:
    """Tell whether Postgres has not got the tables, as on the first start of all."""
    return isinstance(error, SharedUnavailable) and getattr(error.__cause__, "sqlstate", None) in NO_SCHEMA
