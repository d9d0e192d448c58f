"""The background threads: one moves the journal to Postgres, one looks after the files."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass

from ..clock import Calendar, release_gil
from ..columns import one_line
from ..errors import MigrationError, RowRejected, StoreError, StoreMisconfigured
from ..log import LOG_INTERVAL, log
from ..low_memory import SafeEvent, start_thread
from ..protocols import Clock, SharedRulings, SharedState, Store
from ..schedule import Schedule
from .agreement import Agreement
from .delivery import Delivery
from .journal import FileJournal
from .keeper import TROUBLE, Keeper
from .pace import Backoff, BatchSize
from .recorder import Recorder
from .sources import Moved, Sources
from .watchdog import Watchdog

NEEDS_OPERATOR = (StoreMisconfigured, MigrationError, RowRejected)  # where it is no row that is rejected
UPKEEP_INTERVAL = 3600.0  # seconds
LOOK = 0.25  # seconds between two looks at how many rows wait
LAST_PAUSE = 0.1  # seconds between two attempts while stopping
LAST_WAIT = 0.2  # seconds for a thread whose connection was cut
MAX_BATCHES_BEHIND = 4  # a backlog is moved in larger batches: the fold costs per visitor, not per row


@dataclass(slots=True)
class WriterState:
    """The writer's state, for stats; times are Clock.monotonic() seconds."""

    connected: bool = False
    error: str | None = None
    behind_since: float | None = None


class Writer:
    """Delivers this worker's journal, its memory, and the journals of dead workers, in that order."""

    def __init__(
        self,
        open_store: Callable[[], Store],
        recorder: Recorder,
        shared: SharedState,
        clock: Clock,
        *,
        rows: int,
        age: float,
        chores: Callable[[], None],
        rulings: SharedRulings | None = None,
        calendar: Calendar | None = None,
        tidied: Schedule | None = None,
    ) -> None:
        self._open_store = open_store
        self._recorder = recorder
        self._clock = clock
        self._rows = rows
        self._age = age
        self.state = WriterState()
        self.attempted = SafeEvent()  # Postgres was reached, or refused, once
        self._stopping = SafeEvent()
        self._time_is_up = SafeEvent()  # for the last delivery
        self._store: Store | None = None
        self._watchdog = Watchdog(clock, recorder.counters.failures)
        size = BatchSize(rows * MAX_BATCHES_BEHIND)
        self._delivery = Delivery(recorder, shared, clock, size, self._watchdog, self._warn)
        self._schedule = Schedule(clock)
        self._sources = Sources(recorder, self._delivery, clock, self._schedule, rows, size, self._warn)
        self._agreement = Agreement(shared, rulings, clock, calendar or Calendar(), self._schedule)
        self._logged = Schedule(clock)
        # Kept over reconnects and restarts: a clean-up may cost the connection, some apps are closed after each use.
        self._tidied = tidied or Schedule(clock)
        self._backoff = Backoff()
        self._is_refused = False  # by a server that can be reached

        def keeper_chores() -> None:
            self._watchdog.free_stuck(self._store)
            chores()

        self._keeper = Keeper(recorder, clock, self._warn, keeper_chores)
        self._threads = [
            threading.Thread(target=run, name=f"asgi-analytics-{name}", daemon=True)
            for name, run in (("writer", self._run_writer), ("keeper", self._run_keeper))
        ]

    def start(self) -> None:
        """Start the threads. Where the system refuses one, the journal keeps all for the next start."""
        for thread in self._threads:
            try:
                start_thread(thread)
            except (RuntimeError, MemoryError) as error:
                self._recorder.counters.failures["thread"] += 1
                log.warning("No background thread (%s): hits stay in the journal until the next start.", error)

    def stop(self, timeout: float) -> bool:
        """Deliver what is left within `timeout` seconds; returns whether all was. Nothing is lost either way.

        In four steps, so that several writers can stop in parallel: each step for all before the next.
        """
        self.request_stop()
        self.wait(timeout)
        self.cut()
        return self.finish(LAST_WAIT)

    def request_stop(self) -> None:
        """Tell the threads to deliver what is left and end."""
        self._stopping.set()

    def wait(self, timeout: float) -> None:
        """Wait for the threads to end, at most `timeout` seconds."""
        deadline = self._clock.monotonic() + timeout
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - self._clock.monotonic()))

    def cut(self) -> None:
        """Time is up: cut the connection of a thread that still waits for the server."""
        self._time_is_up.set()
        if self._is_alive() and self._store is not None:
            self._store.interrupt()

    def finish(self, timeout: float) -> bool:
        """Give the threads `timeout` seconds after the cut; return whether all is delivered."""
        self.wait(timeout)
        if self._is_alive():
            self._give_up_memory()
            self._close_later()
            return False
        delivered = not self._recorder.memory.size
        self._give_up_memory()
        if (journal := self._recorder.journal) is not None:
            delivered = self._close(journal) and delivered
        return delivered

    def _close(self, journal: FileJournal) -> bool:
        """Close the journal; if nothing in it waits, remove it and return True.

        A server that is away may come back without its last commits, so that it is asked by the next start. Not so one
        that refuses us, such as where the database was dropped.
        """
        position = self._delivery.last_position if self._is_refused else self._delivery.known_position
        return journal.close(*position(journal.id))

    def _close_later(self) -> None:
        """Close the journal when the threads have ended: nobody else delivers it while this process holds its lock."""

        def close(journal: FileJournal) -> None:
            for thread in self._threads:
                if thread.ident is not None:
                    thread.join()
            self._close(journal)

        if (journal := self._recorder.journal) is not None:
            # Where the system starts no thread, the end of the process releases it.
            with contextlib.suppress(RuntimeError, MemoryError):
                start_thread(threading.Thread(target=close, args=(journal,), name="asgi-analytics-close", daemon=True))

    def _is_alive(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _give_up_memory(self) -> None:
        if (lost := self._recorder.memory.close()) > 0:
            self._recorder.counters.dropped["stopped"] += lost
            log.warning("%d hits that were in memory only end with this process.", lost)

    def abandon(self) -> None:
        """In a forked child: close inherited files, as if this worker were dead."""
        self._sources.left_overs.release()
        if self._recorder.journal is not None:
            self._recorder.journal.abandon()

    def lag(self) -> float:
        """Return for how many seconds hits have been waiting for delivery; 0.0 when none are."""
        since = self.state.behind_since
        return 0.0 if since is None or not self.pending_bytes() else self._clock.monotonic() - since

    def pending_bytes(self) -> int:
        """Return how many bytes of this worker wait for delivery."""
        return self._sources.pending_bytes()

    def _run_writer(self) -> None:
        try:
            self._keep_running(self._write, self._backoff)
        finally:  # however it ends, other workers may adopt what it held
            self._release()

    def _run_keeper(self) -> None:
        self._keep_running(lambda: self._keeper.run(self._stopping), self._keeper.backoff)

    def _keep_running(self, run: Callable[[], None], backoff: Backoff) -> None:
        """Run until it is over, anew after an unexpected error: if the thread died, delivery would stop for good."""
        while True:
            try:
                if self._run_once(run, backoff):
                    return
            except Exception:  # noqa: BLE001 - out of memory, logging and waiting fail too
                release_gil()

    def _run_once(self, run: Callable[[], None], backoff: Backoff) -> bool:
        """Run, and pause after an error; tell whether it is over, or there is no time left to try again."""
        try:
            run()
        except Exception as error:  # noqa: BLE001 - counted and logged; see above
            self._recorder.counters.failures["writer"] += 1
            what = TROUBLE if isinstance(error, OSError) else "Unexpected error in a background thread"
            self._warn(what, error)
            return self._stopping.wait(backoff.next()) and self._time_is_up.wait(LAST_PAUSE)
        return True

    def _write(self) -> None:
        asked = False
        while True:
            # Read before the journal is: a hit that comes in between must still be delivered.
            stopping = self._stopping.is_set()
            if stopping and not asked:
                # What the journal still holds is removed only where the server says once more that it has it: one that
                # came back, or will, may be without its last commits.
                asked = True
                self._delivery.begin_anew()
            queued = self._recorder.counters.queued
            try:
                moved = self._cycle()
            except StoreError as error:
                was_connected = self.state.connected
                self._failed(error)
                self._sources.move_memory()
                if not self._stopping.is_set():
                    self._stopping.wait(self._backoff.next())
                    continue
                # While stopping, transient errors are retried, but an absent Postgres is not waited for.
                if not was_connected or self._time_is_up.wait(LAST_PAUSE):
                    break
                continue
            if not moved.frames and stopping:
                break
            # Not at once after any: under load, transactions of a few rows each would take turns without an end.
            if not moved.is_behind:
                self._await_batch(queued + self._rows)

    def _await_batch(self, until: int) -> None:
        """Wait for batch_age, or `until` so many have come in all: what waits is bounded, in memory above all."""
        counters, left = self._recorder.counters, self._age
        while left > 0 and counters.queued < until and not self._stopping.wait(min(left, LOOK)):
            left -= LOOK

    def _cycle(self) -> Moved:
        """Connect, exchange salts, do what is due, move one batch of each source; return what was moved."""
        self._watchdog.begin()
        began, ends = self._clock.monotonic(), self._sources.ends()
        try:
            store = self._connected()
            self._agreement.exchange_salts(store)
            self.attempted.set()
            if self._schedule.take_turn("partitions", UPKEEP_INTERVAL):
                self._make_partitions(store)
            self._agreement.learn_rulings(store, self._age)
            moved = self._sources.deliver(store)
            self._tidy(store)
        except (StoreError, OSError):
            raise
        except Exception:  # what we have cached of the server may be wrong: reconnect
            self.state.connected = False
            raise
        finally:
            self._watchdog.end()
        # Not reset on connecting: most errors come later, and the pauses would never grow.
        self.state.error = None
        self._backoff.reset()
        if not moved.frames:
            self.state.behind_since = None
        elif self.state.behind_since is None or self._sources.are_past(ends):
            self.state.behind_since = began  # what waits now came since
        return moved

    def _connected(self) -> Store:
        if self._store is None:
            self._store = self._open_store()
        if not self.state.connected:
            self._store.connect()
            self._is_refused = False
            self._sources.left_overs.server = self._store.server()
            self._delivery.begin_anew()
            self._schedule.clear()
            self._agreement.is_reached, self._agreement.is_new = False, True
            self.state.connected = True
        return self._store

    def _failed(self, error: StoreError) -> None:
        self.state.connected, self.state.error = False, str(error)
        self._is_refused = isinstance(error, NEEDS_OPERATOR)
        self.attempted.set()
        if self.state.behind_since is None:
            self.state.behind_since = self._clock.monotonic()
        self._recorder.counters.retried += 1
        what = "Postgres refuses: an operator must act" if self._is_refused else "No Postgres"
        self._warn(f"{what}; hits wait in the journal", error)

    def _warn(self, what: str, error: Exception) -> None:
        if self._logged.take_turn(what, LOG_INTERVAL):
            log.warning("%s: %s", what, one_line(error)[:500])

    def _make_partitions(self, store: Store) -> None:
        """Make partitions ahead of need. Where an operator's rule keeps us from it, rows go where they have a place."""
        try:
            store.make_partitions()
        except (StoreMisconfigured, RowRejected) as error:
            self._recorder.counters.failures["partitions"] += 1
            self._warn("Partitions cannot be made", error)

    def _tidy(self, store: Store) -> None:
        """Clear away what is old, a part after each transfer: what fails or takes long must not hold up delivery."""
        if self._stopping.is_set() or not self._tidied.take_turn("tidy", UPKEEP_INTERVAL):
            return
        self._watchdog.begin()
        try:
            if store.tidy():
                self._tidied.clear()  # due again, also after a restart
        except StoreError as error:
            self._recorder.counters.failures["tidy"] += 1
            self._warn("What is old cannot be cleared away", error)

    def _release(self) -> None:
        self._sources.left_overs.release()
        if self._store is not None:
            self._store.close()
