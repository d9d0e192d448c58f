"""Doubles of the seams in `protocols`, for the tests of apps that use this package and for our own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock

from .batch import Batch, Frame, Refused
from .clock import random_bytes
from .decide.lending import LIFE, Counter, announce, believed, lend, size_of
from .errors import ResolverError, StoreUnavailable
from .model import Merged, Place, Ruling
from .protocols import Ask, Clock, Exchanged, Grant, Salt

# Midnight, 1 January 2100, UTC. Ahead of every real clock: a store in the present takes no salt of it for outdated.
START_NS = 4_102_444_800_000_000_000


class FakeClock:
    """A Clock that stands still until it is told otherwise: `AnalyticsMiddleware(app, clock=FakeClock())`."""

    def __init__(self, time_ns: int = START_NS, monotonic: float = 1000.0) -> None:
        self._time_ns = time_ns
        self._monotonic = monotonic

    def time_ns(self) -> int:
        """Return the wall time in nanoseconds since 1970."""
        return self._time_ns

    def monotonic(self) -> float:
        """Return seconds that no jump of the wall clock moves."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time go by, on both clocks. Raises ValueError for a negative number."""
        if seconds < 0:
            raise ValueError("time does not go back; jump_wall(seconds) sets the wall clock only")
        self._monotonic += seconds
        self.jump_wall(seconds)

    def jump_wall(self, seconds: float) -> None:
        """Set the wall clock forward or, with a negative number, back; no time goes by."""
        self._time_ns += round(seconds * 1e9)


class FixedLocator:
    """A Locator that knows the addresses it was given, and puts all others in one place."""

    def __init__(self, places: Mapping[str, Place] | None = None, elsewhere: Place | None = None) -> None:
        self._places = dict(places or {})
        self._elsewhere = elsewhere or Place()

    def locate(self, address: str) -> Place:
        """Return the place of an address."""
        return self._places.get(address, self._elsewhere)


class MemoryStore:
    """A Store that keeps frames in a list, exactly once.

    It merges no totals. Set `error` to a StoreError and every call but close() raises that until it is None again.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.migrating = False
        self.frames: list[Frame] = []
        self.quarantined: list[tuple[Frame, str, str | None]] = []  # with error and SQLSTATE
        self.ruled: list[Ruling] = []  # what rulings() tells
        self._salts: dict[str, Salt] = {}
        self._positions: dict[bytes, tuple[int, int]] = {}
        self._connected = False

    def connect(self) -> None:
        """Make the store answer."""
        self._connected = True
        self._check()

    def server(self) -> str:
        """Return "": it has no name."""
        self._check()
        return ""

    def make_partitions(self) -> None:
        """Nothing to make."""
        self._check()

    def exchange_salts(self, known: Sequence[Salt], periods: Sequence[str]) -> list[Salt]:
        """Offer salts; the first one offered for a period is everybody's."""
        self._check()
        offered = {salt.period: salt for salt in known}
        for period in periods:
            self._salts.setdefault(period, offered.get(period) or Salt(period, random_bytes(32)))
        return [self._salts[period] for period in periods]

    def position(self, journal: bytes, end: tuple[int, int] | None = None, own: bool = False) -> tuple[int, int]:
        """Return (segment, offset) up to which the journal is in; registers a new journal.

        Nobody else moves a position on: one behind the `end` of a journal tells that its file was cut.
        """
        self._check()
        return self._positions.setdefault(journal, (0, 0))

    def write(self, batch: Batch) -> list[Merged]:
        """Take in what of a batch is not in already."""
        self.frames.extend(self._advance(batch))
        return []

    def refuses(self, batch: Batch, others: Batch | None = None) -> bool:
        """False: it takes all rows."""
        self._check()
        return False

    def refused_hits(self, batch: Batch) -> Mapping[int, Refused]:
        """None: it takes all rows."""
        self._check()
        return {}

    def slow_row(self, batch: Batch) -> int | None:
        """None: it takes all rows at once."""
        self._check()
        return None

    def quarantine(self, batch: Batch, error: str, sqlstate: str | None) -> None:
        """Set aside what of a batch is not in already."""
        self.quarantined.extend((frame, error, sqlstate) for frame in self._advance(batch))

    def rulings(self, since: int) -> list[Ruling]:
        """Return the rulings with a revision above `since`, those of `ruled`, in order of their revision."""
        self._check()
        return sorted((one for one in self.ruled if one.revision > since), key=lambda one: one.revision)

    def tidy(self) -> bool:
        """Nothing to clear away."""
        self._check()
        return False

    def rows(self, kind: bytes) -> list[bytes]:
        """Return the rows of one kind (HIT, DECISION or REFUSED of batch.py) in COPY binary format, in order."""
        return [frame.row for frame in self.frames if frame.kind == kind]

    def interrupt(self) -> None:
        """Nobody waits here."""

    def close(self) -> None:
        """Answer no more until connect()."""
        self._connected = False

    def _check(self) -> None:
        if self.error is not None:
            raise self.error
        if not self._connected:
            raise StoreUnavailable("Not connected.")

    def _advance(self, batch: Batch) -> list[Frame]:
        self._check()
        if batch.journal not in self._positions:
            raise StoreUnavailable("The journal is not registered.")
        position = self._positions[batch.journal]
        self._positions[batch.journal] = max(position, (batch.segment, batch.end))
        return list(batch.after(position))


class MemoryState:
    """A SharedState and SharedRulings that remembers what it was told."""

    def __init__(self) -> None:
        self.salts: list[Salt] = []
        self.totals: list[Merged] = []
        self.rulings: list[Ruling] = []

    def learn_salts(self, salts: Sequence[Salt]) -> None:
        """Keep the salts in place of those before."""
        self.salts = list(salts)

    def merge(self, totals: Sequence[Merged]) -> None:
        """Add merged totals to those before."""
        self.totals.extend(totals)

    def learn_rulings(self, rulings: Sequence[Ruling], now: float) -> None:
        """Add rulings to those before."""
        self.rulings.extend(rulings)


class MemoryQuotas:
    """SharedQuotas for workers of one process. Set `error` to a SharedUnavailable: raised until it is None again."""

    def __init__(self, clock: Clock) -> None:
        self.error: Exception | None = None
        self._clock = clock
        self._lock = Lock()
        self._counters: dict[bytes, Counter] = {}
        self._workers: dict[bytes, tuple[int, float]] = {}  # worker → revision it knows, last seen
        self._revision = 0

    def exchange(self, worker: bytes, revision: int, asks: Sequence[Ask]) -> Exchanged:
        """Take in what a worker used, and lend."""
        with self._lock:
            self._check()
            now = self._clock.time_ns() / 1e9
            if revision > self._revision:  # of another server, or of this one before it lost what it knew
                revision = 0
            self._workers[worker] = (revision, now)
            heeded = {name: known for name, (known, seen) in self._workers.items() if now - seen < LIFE}
            grants = [self._lend(ask, worker, heeded, now) for ask in asks]
            told = {
                name: one
                for name, one in self._counters.items()
                if one.stage and one.revision > revision and now - one.told_at < believed(size_of(name))
            }
            newest = max((int(one.revision) for one in told.values()), default=revision)
            return Exchanged(len(heeded), newest, {name: one.stage for name, one in told.items()}, grants)

    def leave(self, worker: bytes) -> None:
        """Forget a worker."""
        with self._lock:
            self._check()
            self._workers.pop(worker, None)

    def close(self) -> None:
        """Nothing to close."""

    def interrupt(self) -> None:
        """Nothing to wait for."""

    def abandon(self) -> None:
        """Nothing to forget."""

    def _check(self) -> None:
        if self.error is not None:
            raise self.error

    def _lend(self, ask: Ask, worker: bytes, heeded: Mapping[bytes, int], now: float) -> Grant:
        counter = self._counters.setdefault(ask.counter, Counter())
        grant, changed = lend(counter, ask, worker, heeded, now)
        if changed:
            self._revision += 1
            announce(counter, self._revision)
        return grant


class FixedResolver:
    """A Resolver that knows the names it was given, by address. Set `fails` and it gives no answer."""

    def __init__(
        self, names: Mapping[str, Sequence[str]], addresses: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.fails = False
        self.asked: list[str] = []
        self._names = dict(names)
        self._addresses = dict(addresses or {})
        if addresses is None:
            for address, own in names.items():
                for name in own:
                    self._addresses[name] = [*self._addresses.get(name, ()), address]

    def names(self, address: str) -> Sequence[str]:
        """Return the names of an address."""
        return self._answer(address, self._names)

    def addresses(self, name: str) -> Sequence[str]:
        """Return the addresses of a name: those given, else those that have it as a name."""
        return self._answer(name, self._addresses)

    def _answer(self, question: str, known: Mapping[str, Sequence[str]]) -> Sequence[str]:
        self.asked.append(question)
        if self.fails:
            raise ResolverError
        return known.get(question, ())
