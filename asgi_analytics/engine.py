"""The parts of one middleware put together: built with the app, started on first need, stopped with the process."""

from __future__ import annotations

import atexit
import encodings.idna  # noqa: F401 - else imported by a thread that looks up a name: a fork would inherit the lock
import os
import sys
import threading
import weakref
from collections.abc import Iterable
from typing import Any, NoReturn

from .clock import Calendar, SystemClock, random_bytes
from .database import destination_of
from .decide.lease import Leases
from .decide.policy import Policy
from .decide.rulings import RulingBook
from .decide.site import Site
from .decide.throttle import cooled
from .decide.verdict import Judge
from .embedded import EmbeddedPostgres
from .errors import EmbeddedPostgresError, StoreUnavailable
from .facts import Actor, ThrottleLevel
from .identify.fingerprint import Fingerprinter
from .log import LOG_INTERVAL, log
from .model import Visitor
from .overhead import Overhead
from .parts import FILE_PATIENCE, new_identifier, new_locator, new_recorder, new_state, new_store, new_verifier
from .protocols import Clock, StrictAnswer
from .record.listing import bytes_in
from .record.recorder import Counters, Recorder
from .record.writer import Writer
from .respond import Responder
from .schedule import Schedule
from .settings import Settings
from .settings.canonical import version
from .shared import open_quotas, open_strict
from .shared.sharer import Sharer
from .shutdown import Owners, Stopping, finish
from .store.postgres import PostgresStore
from .threads import within
from .variants import Variants


class Engine:
    """What one AnalyticsMiddleware works with. Building it starts nothing."""

    def __init__(self, settings: Settings, dsn: str | None) -> None:
        self.settings = settings
        self.clock: Clock = settings.clock or SystemClock()
        # As configured; what verdicts go by; what this worker alone admits by (in strict mode, its part of each limit).
        self._whole_policy = self.policy = self.own_policy = Policy.of(settings, self.failed)
        self.policy_version = version(settings)
        self.rulings = RulingBook(settings.allow, self.clock.monotonic())
        self.verifier = new_verifier(settings, self.clock)
        self.site = Site()
        self.judge = Judge(self.site, self.policy)
        self.responder = Responder(settings)
        self.counters = Counters()
        self.monotonic, self.time_ns = self.clock.monotonic, self.clock.time_ns
        self.keeps_query = settings.privacy.query == "redacted"
        self.keeps_address = settings.privacy.address == "full"
        self.overhead = Overhead()
        self.syncs = settings.durability == "fsync"
        self.strict = open_strict(settings, self.clock, self._is_cut_off)
        self.locator = new_locator(settings)
        self.calendar = Calendar()
        self.calendar.wall(self.clock.monotonic(), self.clock.time_ns())
        self._fingerprinter = fingerprinter = Fingerprinter(settings.site, random_bytes(32), self.calendar)
        self.state = new_state(settings, fingerprinter, self._meet)
        self.leases = Leases(
            self.policy.limits[0],
            self.policy.network_limits,
            self._wake,
            self.state.actor,
            self.state.actors,
            lambda: not fingerprinter.provisional,
        )
        self.identifier = new_identifier(settings, self.state, fingerprinter, self.locator, self.rulings.follow)
        self._dsn = dsn
        self._destination = destination_of(dsn)
        self.variants = Variants(random_bytes(32))  # forked children tell pages apart by the same numbers
        self.recorder = self._new_recorder()
        self.started = False
        self.writer: Writer | None = None
        self._writers: weakref.WeakSet[Writer] = weakref.WeakSet()  # also those that end
        self.sharer: Sharer | None = None
        self._embedded: EmbeddedPostgres | None = None
        self._stores: weakref.WeakSet[PostgresStore] = weakref.WeakSet()  # likewise
        self._starting = threading.RLock()
        self._opening = False
        self._logged = Schedule(self.clock)
        self._tidied = Schedule(self.clock)
        self.owners = Owners(self.stop)
        self.app_id: int | None = None  # id() of the app whose middlewares share it, see joining
        _ENGINES[id(self)] = self

    def __reduce__(self) -> NoReturn:
        """Say to whoever sends an app to another process what to do instead."""
        raise TypeError(
            "An AnalyticsMiddleware cannot be pickled: it has threads, files and connections. Build the app in each"
            " process, as servers do that are given its name (module:app)."
        )

    def is_like(self, other: Engine) -> bool:
        """Tell whether another has the same settings and database."""
        return self._dsn == other._dsn and self.settings == other.settings

    def start(self) -> None:
        """Open the journal and start the background threads. Idempotent."""
        # A log handler may make a request while we open, here or in another thread: it must not wait for us.
        if self.started or self._opening:
            return
        with self._starting:
            if self.started:
                return
            self._opening = True
            try:
                self._open()
            finally:
                self._opening = False

    def _open(self) -> None:
        _stop_with_child()
        self._open_journal()
        if not self._dsn:  # one for all threads, also while they end
            self._embedded = EmbeddedPostgres()
            log.warning("No dsn given: using the embedded Postgres (fine for development).")
        writer = self.writer = Writer(
            self._open_store,
            self.recorder,
            self.state,
            self.clock,
            rows=self.settings.batch_rows,
            age=self.settings.batch_age,
            chores=self._chores,
            rulings=self.rulings,
            calendar=self.calendar,
            tidied=self._tidied,
        )
        self._writers.add(writer)
        self.leases.cut_off()
        sharer = self.sharer = self._new_sharer()
        # Started once all is built: a failure in between would leave more threads running with each request.
        try:
            if self.verifier is not None:
                self.verifier.start()
            writer.start()
            sharer.start()
            self.started = self.writer is writer  # not where a signal handler has closed us meanwhile
        except BaseException:  # such as one raised by a signal handler
            sharer.request_stop()
            writer.request_stop()
            raise

    def _open_journal(self) -> None:
        """Open it in a thread: if its folder is on a mount that hangs, the app must be served all the same."""
        try:
            within(FILE_PATIENCE, self.recorder.open)
        except TimeoutError:
            self.recorder.warn(TimeoutError(f"no answer within {FILE_PATIENCE:g} s from the disk or the mount"))
        except (RuntimeError, MemoryError):  # the system starts no thread
            self.recorder.open()

    def open_recorder(self) -> Recorder:
        """Return a recorder whose rows are delivered, started where need be. It may be closed at once by a stop."""
        recorder = self.recorder  # read before `started`, which a stop resets before it replaces this
        if not self.started:
            self.start()
            recorder = self.recorder
        return recorder

    def wait(self, patience: float) -> None:
        """Wait until Postgres was reached or refused once since the start, at most `patience` seconds."""
        until = self.clock.monotonic() + patience
        if self.writer is not None:
            self.writer.attempted.wait(patience)
        if self.sharer is not None:
            self.sharer.attempted.wait(max(0.0, until - self.clock.monotonic()))

    def stop(self, timeout: float | None = None) -> bool:
        """Deliver what is left within the shutdown time-out; what is not stays in the journal for the next start."""
        return stop_all([self], timeout)

    def begin_stop(self) -> Stopping | None:
        """Tell the background threads to deliver what is left and end; None when none run."""
        with self._starting:
            writer, self.writer, self.started = self.writer, None, False
            sharer, self.sharer = self.sharer, None
            if writer is None:
                return None
            # Hits from now on go to a journal of their own, and do not wait for this one to be delivered.
            self.recorder = self._new_recorder()
            database = self._embedded
        if self.verifier is not None:
            self.verifier.stop(0.0)  # holds nothing
        if sharer is not None:
            sharer.request_stop()
        writer.request_stop()
        return Stopping(writer, sharer, database, self.settings.shutdown_timeout)

    def failed(self, where: str, error: Exception) -> None:
        """Count a bug of our own, log it now and then, and let the app go on."""
        try:
            self.counters.failures[where] += 1
            # Late in the end of the interpreter anything may fail, as parts of it are gone.
            if not sys.is_finalizing() and self._logged.take_turn(where, LOG_INTERVAL):
                log.error("Error in asgi-analytics (%s); the request goes on without it.", where, exc_info=error)
        except RecursionError:  # the app calls us near the recursion limit
            pass

    def stats(self) -> dict[str, Any]:
        """Return counters since the start of this process; sizes in bytes, lag in seconds, steps in microseconds."""
        counters, writer = self.counters, self.writer
        return {
            "queued": counters.queued,
            "written": counters.written,
            "retried": counters.retried,
            "quarantined": counters.quarantined,
            "adopted": counters.adopted,
            "dropped": dict(counters.dropped),
            "failures": dict(counters.failures),
            "pending_bytes": writer.pending_bytes() if writer else 0,
            "journal_bytes": 0 if self.recorder.is_opening else bytes_in(self.settings.journal_dir),
            "lag": writer.lag() if writer else 0.0,
            "connected": bool(writer and writer.state.connected),
            "error": writer.state.error if writer else None,
            "durability": "journal" if self.recorder.journal else "memory",
            "memory": self.state.counts(),
            "shared": self._shared_stats(),
            "crawlers": self.verifier.stats() if self.verifier is not None else {},
            "steps_us": self.overhead.means_us(),
        }

    def _shared_stats(self) -> dict[str, Any]:
        sharer, leases = self.sharer, self.leases
        shared = {"workers": leases.workers, "connected": leases.connected, "leased": leases.count()}
        if sharer is None:
            return shared
        mean = round(1e3 * sharer.spent / max(1, sharer.exchanges), 2)
        return {
            **shared,
            "exchanges": sharer.exchanges,
            "exchange_ms": mean,
            "unanswered": self.strict.failures if self.strict is not None else 0,
            "failures": sharer.failures,
            "outages": sharer.outages,
        }

    def _meet(self, actor: Actor, is_network: bool) -> None:
        self.leases.meet(actor, is_network, self.monotonic())

    def _wake(self) -> None:
        if self.sharer is not None:
            self.sharer.wake()

    def _new_sharer(self) -> Sharer:
        quotas = open_quotas(self.settings, self._find_database)
        return Sharer(quotas, self.leases, self.clock, self.settings.batch_age, self._apply_worker_count)

    def _apply_worker_count(self) -> None:
        if self.strict is None:
            self.policy = self.own_policy = self._whole_policy.with_leases(self.leases)
            self.judge = Judge(self.site, self.policy)
        else:
            self.own_policy = self._whole_policy.share_of(self.leases.workers)

    async def ask_strict_quotas(self, visitor: Visitor, now: float) -> StrictAnswer | None:
        """In strict mode, ask the server that counts for all workers; None without an answer or a need to ask."""
        actor, network = visitor.actor, visitor.network
        # Without salts, others know it by other names.
        policy = self.own_policy if self._fingerprinter.provisional else self.policy
        level = cooled(actor.throttle.level, actor.throttle.changed_at, policy.cooldown, now)
        if self.strict is None or not actor.key or level == ThrottleLevel.BLOCKED:
            return None
        names = (actor.next_key or actor.key, network.next_key or network.key)
        asked = zip(names, (policy.limits[level], policy.network_limits), strict=True)
        return await self.strict.take([(key, limits) for key, limits in asked if limits])

    def _is_cut_off(self) -> bool:
        """Tell whether the sharer, which tries in the background, does not reach the server of shared quotas."""
        return self.sharer is not None and self.sharer.attempted.is_set() and not self.leases.connected

    async def hang_up(self) -> None:
        """Close our connections of the event loop that is about to end."""
        if self.strict is not None:
            await self.strict.close()

    def _new_recorder(self) -> Recorder:
        return new_recorder(self.settings, self.counters, self._destination)

    def _open_store(self) -> PostgresStore:
        store = new_store(self.settings, self._find_database)
        self._stores.add(store)
        return store

    def _find_database(self) -> str:
        if self._dsn:
            return self._dsn
        assert self._embedded is not None
        try:
            return self._embedded.start()
        except EmbeddedPostgresError as error:
            raise StoreUnavailable(str(error)) from error

    def _chores(self) -> None:
        self.owners.stop_if_none_left()
        if (sharer := self.sharer) is not None:
            sharer.free_stuck()
        self.locator.refresh(self.clock.monotonic())
        if self.verifier is not None:
            self.verifier.refresh(self.clock.monotonic())

    def _after_fork(self) -> None:
        # Threads do not survive a fork; files and connections belong to the parent.
        if self.recorder.journal is not None:
            self.recorder.journal.abandon()
        for writer in list(self._writers):
            writer.abandon()
        for store in list(self._stores):
            store.abandon()
        if self.sharer is not None:
            self.sharer.quotas.abandon()
            self.leases.let_go()
        if self.verifier is not None:
            self.verifier.after_fork()
        # The parent reports its own counts.
        self.counters, self.overhead = Counters(), Overhead()
        self.strict = open_strict(self.settings, self.clock, self._is_cut_off)
        self.recorder = self._new_recorder()
        self._starting = threading.RLock()
        self._opening = False
        self.writer, self.sharer, self._embedded, self.started = None, None, None, False


def stop_all(engines: Iterable[Engine], timeout: float | None = None) -> bool:
    """Stop engines in parallel: what hangs in one costs the others no time. Return whether all was delivered."""
    began = SystemClock.monotonic()
    return finish([one for engine in list(engines) if (one := engine.begin_stop()) is not None], began, timeout)


# Not a WeakSet, which must not be iterated over while another thread builds an app.
_ENGINES: weakref.WeakValueDictionary[int, Engine] = weakref.WeakValueDictionary()


def all_engines() -> list[Engine]:
    """Return those of all apps that live."""
    return [engine for one in _ENGINES.valuerefs() if (engine := one()) is not None]


def _after_fork() -> None:
    for engine in all_engines():
        engine._after_fork()


os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def _at_exit() -> None:
    # For servers without lifespan events. After a crash the next start delivers the journal instead.
    found = all_engines()
    stop_all(found)
    for engine in found:
        engine.owners.wait()


_told_child: int | None = None  # process id


def _stop_with_child() -> None:
    """As _at_exit, for a child that multiprocessing forks, such as a worker of granian: it ends without atexit."""
    global _told_child
    process: Any = sys.modules.get("multiprocessing.process")
    if process is None or process.parent_process() is None or _told_child == os.getpid():
        return
    _told_child = os.getpid()
    Finalize: Any = sys.modules["multiprocessing.util"].Finalize
    Finalize(None, _at_exit, exitpriority=0)
