"""What a writer delivers: this worker's journal, its memory, and the journals of dead workers, in that order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..batch import Batch
from ..clock import release_gil
from ..errors import JournalError, JournalFormatError, StoreMisconfigured
from ..protocols import Clock, Store
from ..schedule import Schedule
from .adoption import LeftOver, LeftOvers
from .delivery import Delivery
from .frames import frame
from .listing import closed, closed_text
from .pace import BatchSize
from .recorder import COLUMNS, Recorder

ADOPT_INTERVAL = 30.0  # seconds between two looks for journals of dead workers
CLOSED = "Journals in our folder are closed to us: if their workers are dead, chown them to the user of this app"
MAX_MOVED = 256  # rows that go from memory into the journal with one write, which requests wait for
End = tuple[bytes, tuple[int, int]]  # of a journal: its id, and (segment, offset) after the last byte


class Moved(NamedTuple):
    """What was moved: how many frames, and whether others had been waiting, too."""

    frames: int = 0
    is_behind: bool = False


class Sources:
    """Has `delivery` move a batch of each: of the journal as large as `size` allows, of the others at most `rows`."""

    def __init__(
        self,
        recorder: Recorder,
        delivery: Delivery,
        clock: Clock,
        schedule: Schedule,
        rows: int,
        size: BatchSize,
        warn: Callable[[str, Exception], None],
    ) -> None:
        self.left_overs = LeftOvers(recorder.root, recorder.destination.key, COLUMNS)
        self._recorder = recorder
        self._delivery = delivery
        self._clock = clock
        self._schedule = schedule
        self._rows = rows
        self._size = size
        self._warn = warn
        self._has_told = False

    def deliver(self, store: Store) -> Moved:
        """Move one batch of each source. Raises StoreError, OSError."""
        try:
            own = self._deliver_journal(store)
        except OSError:  # a failing disk must not hold up the rest
            self._deliver_memory(store)
            self._deliver_left_over(store)
            raise
        moved = (own, self._deliver_memory(store), self._deliver_left_over(store))
        return Moved(sum(one.frames for one in moved), any(one.is_behind for one in moved))

    def pending_bytes(self) -> int:
        """Return how many bytes of this worker wait for delivery; callable from another thread."""
        journal, memory = self._recorder.journal, self._recorder.memory
        waiting = memory.size
        if journal is not None:
            segment, offset = self._delivery.known_position(journal.id)
            waiting += journal.pending_bytes(segment, offset) if journal.has_more(segment, offset) else 0
        return waiting

    def ends(self) -> list[End]:
        """Return how far what may wait of this worker goes."""
        journal, memory = self._recorder.journal, self._recorder.memory
        ends = [] if journal is None else [(journal.id, journal.end())]
        return [*ends, (memory.id, memory.end())] if memory.size else ends

    def are_past(self, ends: Iterable[End]) -> bool:
        """Tell whether all up to these ends is delivered."""
        return all(self._delivery.known_position(of) >= end for of, end in ends)

    def move_memory(self) -> None:
        """Put what is in memory into the journal, if that takes it by now: else it would end with this process."""
        journal, memory = self._recorder.journal, self._recorder.memory
        place = self._delivery.place_of_rest(memory.id)
        if journal is None or place is None:
            return
        while not memory.is_closed and (batch := memory.read(*place, MAX_MOVED)) is not None:
            try:
                journal.append(b"".join(frame(one.kind, one.row) for one in batch.frames))
            except JournalError:
                return
            memory.acknowledge_to(batch.end)
            release_gil()

    def _deliver_journal(self, store: Store) -> Moved:
        journal = self._recorder.journal
        if journal is None:
            return Moved()
        with contextlib.suppress(OSError):  # tried again with the next round
            journal.folder.name_server(self.left_overs.server)
        segment, offset = self._delivery.position(store, journal)
        # Asked before: if nothing follows the position, all segments before that of the end are delivered.
        end = journal.end()
        batch = journal.read(segment, offset, self._size.rows)
        if batch is not None:
            self._delivery.move(store, batch)
        journal.acknowledge(end[0] if batch is None else batch.segment, self._clock.monotonic())
        return _moved(batch, end)

    def _deliver_memory(self, store: Store) -> Moved:
        memory = self._recorder.memory
        if not memory.size:
            return Moved()
        _, offset = self._delivery.position(store, memory)
        end = memory.end()
        batch = memory.read(1, offset, min(self._rows, self._size.rows))
        if batch is not None:
            self._delivery.move(store, batch)
        memory.acknowledge_to(self._delivery.known_position(memory.id)[1])
        return _moved(batch, end)

    def _deliver_left_over(self, store: Store) -> Moved:
        if self._recorder.is_opening:  # the folder does not answer, and memory is to be delivered
            return Moved()
        found = self.left_overs.current()
        if found is None and self._schedule.take_turn("adopt", ADOPT_INTERVAL):
            self.left_overs.begin_pass()
            self._tell_of_closed()
            found = self.left_overs.current()
        if found is None:
            return Moved()
        try:
            return Moved(self._move_left_over(store, found), is_behind=True)
        except (OSError, StoreMisconfigured) as error:
            # Written by a later version, or on a failing disk: it waits for the next pass, and the rest goes on.
            self._recorder.counters.failures["left_over"] += 1
            self._warn(f"The journal {found.path.name} of a dead worker cannot be delivered now", error)
            self.left_overs.release()
            return Moved(is_behind=True)

    def _tell_of_closed(self) -> None:
        """Say once that there are journals of another user, such as after a container's user was changed."""
        if self._has_told:
            return
        with contextlib.suppress(OSError):
            if found := closed(self._recorder.root):
                self._has_told = True
                self._recorder.counters.failures["left_over"] += 1
                self._warn(CLOSED, PermissionError(closed_text(found)))

    def _move_left_over(self, store: Store, found: LeftOver) -> int:
        try:
            batch = found.read(*self._delivery.position(store, found), min(self._rows, self._size.rows))
            if batch is not None:
                self._delivery.move(store, batch)
                return len(batch.frames)
        except JournalFormatError as error:
            self._recorder.counters.failures["journal_format"] += 1
            self._warn("A journal segment of another version is set aside", error)
            found.set_aside()
            return 1
        self.left_overs.finish()
        return 1


def _moved(batch: Batch | None, end: tuple[int, int]) -> Moved:
    """Return what was moved of a source that ended there when it was read; where nothing could be, nothing is known."""
    return Moved() if batch is None else Moved(len(batch.frames), (batch.segment, batch.end) < end)
