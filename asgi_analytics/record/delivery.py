"""Delivery of batches to the store, exactly once: tracks each journal's position, sets poison rows aside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..batch import DAMAGED, HIT, REFUSED, Batch, Frames
from ..errors import RowRejected, StoreMisconfigured, StoreUnavailable
from ..protocols import Clock, SharedState, Store
from .adoption import Source
from .pace import MIN_ROWS, BatchSize
from .recorder import Recorder
from .watchdog import Watchdog

SET_ASIDE = "A row that Postgres does not take is set aside in analytics.quarantine"
BEGINNING = (1, 0)  # of a journal: segment and offset


class Delivery:
    """Moves batches, counts what became of their rows, and calls `warn` for those that were set aside."""

    def __init__(
        self,
        recorder: Recorder,
        shared: SharedState,
        clock: Clock,
        size: BatchSize,
        watchdog: Watchdog,
        warn: Callable[[str, Exception], None],
    ) -> None:
        self._recorder = recorder
        self._shared = shared
        self._clock = clock
        self._size = size
        self._watchdog = watchdog
        self._warn = warn
        self._positions: dict[bytes, tuple[int, int]] = {}
        self._last: dict[bytes, tuple[int, int]] = {}  # of those that were forgotten since
        self._unsure: dict[bytes, Batch] = {}  # by journal: in flight when the connection broke, maybe committed

    def begin_anew(self) -> None:
        """Forget the known positions: after a fail-over the server may have less than they say."""
        self._last |= self._positions
        self._positions.clear()

    def last_position(self, journal: bytes) -> tuple[int, int]:
        """Return the position known of a journal, else the one that was last forgotten, else BEGINNING."""
        return self._positions.get(journal) or self._last.get(journal, BEGINNING)

    def known_position(self, journal: bytes) -> tuple[int, int]:
        """Return the position last known of a journal, else BEGINNING; callable from another thread."""
        return self._positions.get(journal, BEGINNING)

    def place_of_rest(self, journal: bytes) -> tuple[int, int] | None:
        """Return the position that a journal is committed up to; None while nobody knows of a batch of it."""
        return None if journal in self._unsure else self.last_position(journal)

    def position(self, store: Store, of: Source) -> tuple[int, int]:
        """Return (segment, offset) up to which a journal is committed. Raises StoreError."""
        if of.id not in self._positions:
            own = of in (self._recorder.journal, self._recorder.memory)
            position = store.position(of.id, of.end(), own)
            self._settle(of.id, position)
            self._positions[of.id] = position  # last: other threads conclude from it what is counted
        return self._positions[of.id]

    def move(self, store: Store, batch: Batch, whole: Batch | None = None, again: bool = False) -> None:
        """Move a batch; if rejected, split it until a poison row is alone, and set that aside. Raises StoreError."""
        began = self._clock.monotonic()
        self._unsure[batch.journal] = batch
        self._watchdog.begin()  # each part is a transaction of its own
        try:
            self._shared.merge(store.write(batch))
        except StoreUnavailable:
            self._size.failed()
            raise
        except StoreMisconfigured:
            del self._unsure[batch.journal]
            raise
        except RowRejected as error:
            del self._unsure[batch.journal]
            if len(batch.frames) > 1:
                rest = self._with_refused_marked(store, batch, error) if whole is None else None
                for part in self._parts(store, batch, error) if rest is None else [rest]:
                    self.move(store, part, whole or batch)
                return
            self._watchdog.begin()
            if not store.refuses(batch, whole):
                if again:  # COMMIT alone fails, as where the queue of NOTIFY is full, or the schema goes to and fro
                    raise StoreUnavailable(str(error)) from error
                self.move(store, batch, whole, again=True)
                return
            self._set_aside(store, batch, error)
            self._warn(SET_ASIDE, error)
        else:
            del self._unsure[batch.journal]
            self._size.moved(len(batch.frames), self._clock.monotonic() - began)
            self._count(batch.frames, batch.journal)
        self._positions[batch.journal] = (batch.segment, batch.end)

    def _set_aside(self, store: Store, batch: Batch, error: RowRejected) -> None:
        """Put the one row of a batch into quarantine. Raises StoreError."""
        aside = Frames(frame._replace(kind=DAMAGED) for frame in batch.frames)  # as such they are counted
        self._unsure[batch.journal] = replace(batch, frames=aside)
        store.quarantine(batch, str(error), error.sqlstate)
        del self._unsure[batch.journal]
        self._count(aside, batch.journal)

    def _with_refused_marked(self, store: Store, batch: Batch, error: RowRejected) -> Batch | None:
        """Return a batch with those hits marked that their table refuses; None if there are none, or other trouble.

        To find them by splitting the batch would take a dozen transactions for each.
        """
        self._watchdog.begin()
        if error.took_too_long or not (refused := store.refused_hits(batch)):
            return None
        self._warn(SET_ASIDE, error)
        return batch.without(refused)

    def _parts(self, store: Store, batch: Batch, error: RowRejected) -> list[Batch]:
        """Return what to try next: both halves, or the one row that takes too long and what is around it.

        Raises StoreUnavailable where a smaller batch may get through.
        """
        if not error.took_too_long:
            return batch.halves()
        self._watchdog.begin()
        try:
            place = store.slow_row(batch)
        except StoreUnavailable:
            self._size.failed()
            raise
        if place is not None:
            return batch.around(place)
        if len(batch.frames) > MIN_ROWS:
            self._size.failed()
            raise StoreUnavailable(str(error)) from error
        return batch.halves()

    def _settle(self, journal: bytes, position: tuple[int, int]) -> None:
        """Count the rows of the in-flight batch that turn out to be committed."""
        if (unsure := self._unsure.pop(journal, None)) is not None:
            self._count(unsure.upto(position), journal)

    def _count(self, frames: Frames, journal: bytes) -> None:
        counters, recorder = self._recorder.counters, self._recorder
        stored, aside = frames.count_of(HIT) + frames.count_of(REFUSED), frames.count_of(DAMAGED)
        counters.written += stored
        counters.quarantined += aside
        if journal != recorder.memory.id and (recorder.journal is None or journal != recorder.journal.id):
            counters.adopted += stored + aside
