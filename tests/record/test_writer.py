from __future__ import annotations

import errno
import logging
import os
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest

from asgi_analytics.batch import DECISION, HIT, Batch
from asgi_analytics.clock import SystemClock
from asgi_analytics.errors import JournalError, RowRejected, StoreMisconfigured, StoreUnavailable
from asgi_analytics.model import Merged
from asgi_analytics.record.folder import JournalFolder
from asgi_analytics.record.frames import frame
from asgi_analytics.record.journal import FileJournal
from asgi_analytics.record.pace import Backoff
from asgi_analytics.record.recorder import COLUMNS, Counters, Recorder
from asgi_analytics.record.sources import Moved
from asgi_analytics.record.writer import LOOK, Writer
from asgi_analytics.settings import Settings
from asgi_analytics.testing import FakeClock, MemoryState, MemoryStore
from tests.record.rows import batch, hit, hit_frame
from tests.waiting import wait_until

from .rig import WAIT, Rig, stored


def test_all_rows_arrive_once(rig: Rig) -> None:
    rig.send(0, 1000)
    wait_until(rig.delivered)
    rig.send(1000, 10)
    wait_until(rig.delivered)
    assert stored(rig.dsn) == list(range(1010))
    assert (rig.counters.queued, rig.counters.written) == (1010, 1010)


def test_stopping_delivers_what_is_left_and_clears_the_folder(dsn: str, tmp_path: Path) -> None:
    rig = Rig(dsn, tmp_path / "j")
    with rig:
        rig.send(0, 700)
    assert stored(dsn) == list(range(700))
    assert list((tmp_path / "j").iterdir()) == []


def test_a_writer_that_has_nothing_to_do_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(Settings.build(journal_dir=tmp_path / "j"), Counters())
    writer = Writer(MemoryStore, recorder, MemoryState(), FakeClock(), rows=10, age=7.0, chores=lambda: None)
    rounds, waited = [], 0.0
    cycle = writer._cycle

    def wait(seconds: float) -> bool:
        nonlocal waited
        waited += seconds
        return writer._stopping.is_set()

    def turn() -> Moved:
        rounds.append(waited)
        if len(rounds) == 4:
            writer._stopping.set()
        return cycle()

    monkeypatch.setattr(writer._stopping, "wait", wait)
    monkeypatch.setattr(writer, "_cycle", turn)
    writer._write()
    assert rounds[:4] == [0.0, 7.0, 14.0, 21.0]


@pytest.mark.parametrize("durability", ["journal", "memory"])
def test_a_batch_that_has_come_waits_for_no_more_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    """With a batch_age of a minute, a burst would fill what may wait in memory."""
    recorder, store = (
        Recorder(Settings.build(journal_dir=tmp_path / "j", durability=durability), Counters()),
        MemoryStore(),
    )
    writer = Writer(lambda: store, recorder, MemoryState(), FakeClock(), rows=10, age=60.0, chores=lambda: None)
    recorder.open()
    moved: list[int] = []

    def wait(_: float) -> bool:
        if writer._stopping.is_set():
            return True
        moved.append(len(store.frames))
        for _ in range(4):
            recorder._append(hit_frame())
        if len(moved) == 7:
            writer._stopping.set()
        return writer._stopping.is_set()

    monkeypatch.setattr(writer._stopping, "wait", wait)
    writer._write()
    assert moved == [0, 0, 0, 12, 12, 12, 24]
    if recorder.journal is not None:
        recorder.journal.abandon()


def test_hits_that_a_full_disk_moves_to_memory_go_together_once_in_a_batch_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a journal that never took a row, nothing can be delivered, and nothing waits."""
    recorder, store = Recorder(Settings.build(journal_dir=tmp_path / "j"), Counters()), MemoryStore()
    recorder.open()
    assert recorder.journal is not None
    monkeypatch.setattr(recorder.journal, "append", Mock(side_effect=JournalError("disk_full")))
    writer = Writer(lambda: store, recorder, MemoryState(), FakeClock(), rows=10, age=LOOK, chores=lambda: None)
    for _ in range(3):
        recorder._append(hit_frame())
        assert writer._cycle() == Moved(1, is_behind=False)
    recorder.journal.abandon()


def test_a_batch_that_came_during_a_slow_transfer_waits_for_no_more_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, coming = Recorder(Settings.build(journal_dir=tmp_path / "j", durability="memory"), Counters()), [12]
    moved: list[int] = []

    class Slow(MemoryStore):
        def write(self, batch: Batch) -> list[Merged]:
            for _ in range(coming.pop() if coming else 0):
                recorder._append(hit_frame())
            return super().write(batch)

    def wait(_: float) -> bool:
        moved.append(len(store.frames))
        writer._stopping.set()
        return True

    store = Slow()
    writer = Writer(lambda: store, recorder, MemoryState(), FakeClock(), rows=10, age=60.0, chores=lambda: None)
    monkeypatch.setattr(writer._stopping, "wait", wait)
    recorder._append(hit_frame())
    writer._write()
    assert moved[0] == 13


@pytest.mark.parametrize("durability", ["journal", "memory"])
def test_rows_that_keep_coming_go_together_once_in_a_batch_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    """A transaction costs as much as hundreds of rows, here and in Postgres: not one for each that comes meanwhile."""
    store, recorder = (
        MemoryStore(),
        Recorder(Settings.build(journal_dir=tmp_path / "j", durability=durability), Counters()),
    )
    writer = Writer(lambda: store, recorder, MemoryState(), FakeClock(), rows=10, age=LOOK, chores=lambda: None)
    recorder.open()
    coming = [3, 1, 45, 9]  # while the writer waits, or before it begins to
    moved: list[int] = []

    def wait(seconds: float) -> bool:
        assert seconds == LOOK
        moved.append(len(store.frames))
        for _ in range(coming.pop(0) if coming else 0):
            recorder._append(hit_frame())
        if not coming:
            writer._stopping.set()
        return writer._stopping.is_set()

    monkeypatch.setattr(writer._stopping, "wait", wait)
    writer._write()
    assert moved == [0, 3, 4, 49, 58], "of 45 rows, more than one batch, none waits for another turn"
    if recorder.journal is not None:
        recorder.journal.abandon()


def test_long_rows_of_which_few_are_read_at_once_wait_for_no_other_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a flood of long addresses: a journal would fill up."""
    monkeypatch.setattr("asgi_analytics.record.segment.MAX_FRAME", 4096)
    recorder, store = Recorder(Settings.build(journal_dir=tmp_path / "j"), Counters()), MemoryStore()
    writer = Writer(lambda: store, recorder, MemoryState(), FakeClock(), rows=10, age=60.0, chores=lambda: None)
    recorder.open()
    for _ in range(16):
        recorder._append(hit_frame("/" + "\N{GRINNING FACE}" * 1000))
    moved: list[int] = []

    def wait(seconds: float) -> bool:
        moved.append(len(store.frames))
        writer._stopping.set()
        return True

    monkeypatch.setattr(writer._stopping, "wait", wait)
    writer._write()
    assert moved[0] == 16
    assert recorder.journal is not None
    recorder.journal.abandon()


def test_what_nobody_saw_the_end_of_is_counted_by_the_position_of_its_own_journal(tmp_path: Path) -> None:
    recorder = Recorder(Settings.build(journal_dir=tmp_path / "j"), Counters())
    writer = Writer(MemoryStore, recorder, MemoryState(), FakeClock(), rows=10, age=1.0, chores=lambda: None)
    delivery = writer._delivery
    unsure = batch([hit()] * 3)
    delivery._unsure[unsure.journal] = unsure
    for journal, written in ((b"other".ljust(16), 0), (unsure.journal, 3), (unsure.journal, 3)):
        delivery._settle(journal, (1, unsure.end))
        assert recorder.counters.written == written


class Unheard(MemoryStore):
    """A store that takes no /bad, and whose first answers get lost: it has what was sent."""

    lost = 0

    def write(self, batch: Batch) -> list[Merged]:
        if any(b"/bad" in one.row for one in batch.frames):
            raise RowRejected("not this one")
        merged = super().write(batch)
        self._answer()
        return merged

    def refuses(self, batch: Batch, others: Batch | None = None) -> bool:
        return any(b"/bad" in one.row for one in batch.frames)

    def quarantine(self, batch: Batch, error: str, sqlstate: str | None) -> None:
        super().quarantine(batch, error, sqlstate)
        self._answer()

    def _answer(self) -> None:
        if self.lost:
            self.lost -= 1
            raise StoreUnavailable("server closed the connection unexpectedly")


def deliver(writer: Writer) -> None:
    """Go on until nothing waits, as the writer's thread does."""
    for _ in range(20):
        try:
            if not writer._cycle().frames:
                return
        except StoreUnavailable as error:
            writer._failed(error)


def test_what_nobody_saw_the_end_of_is_counted_though_others_are_delivered_first(tmp_path: Path) -> None:
    """A dead worker's rows: while the connection was away, this worker got some of its own."""
    dead, recorder = (Recorder(Settings.build(journal_dir=tmp_path), Counters()) for _ in range(2))
    store = Unheard()
    writer = Writer(lambda: store, recorder, MemoryState(), FakeClock(), rows=10, age=1.0, chores=lambda: None)
    for each in (dead, recorder):
        each.open()
    assert dead.journal is not None
    for _ in range(3):
        dead._append(hit_frame() + frame(DECISION, b"\0\x01"))
    dead.journal.abandon()
    store.lost = 1
    with pytest.raises(StoreUnavailable):
        writer._cycle()
    writer._failed(StoreUnavailable())
    recorder._append(hit_frame())
    deliver(writer)
    counters = recorder.counters
    assert (len(store.rows(HIT)), counters.written, counters.adopted) == (4, 4, 3)
    assert writer.stop(1.0)


def test_what_may_be_stored_of_memory_stays_there(tmp_path: Path) -> None:
    recorder, store = Recorder(Settings.build(journal_dir=tmp_path), Counters()), Unheard()
    writer = Writer(lambda: store, recorder, MemoryState(), FakeClock(), rows=10, age=1.0, chores=lambda: None)
    recorder.open()
    recorder.memory.append(hit_frame() * 3)
    store.lost = 1
    with pytest.raises(StoreUnavailable):
        writer._cycle()
    writer._sources.move_memory()
    assert recorder.memory.count(HIT) == 3
    deliver(writer)
    assert len(store.rows(HIT)) == 3
    assert writer.stop(1.0)


class Halting(MemoryStore):
    """A store that takes no two rows at once, and no /later until it is `mended`."""

    mended = False

    def write(self, batch: Batch) -> list[Merged]:
        if len(batch.frames) > 1:
            raise RowRejected("one at a time")
        if b"/later" in batch.frames[0].row and not self.mended:
            raise StoreMisconfigured("not now")
        return super().write(batch)


def test_of_what_is_in_memory_the_rest_goes_into_the_journal(tmp_path: Path) -> None:
    recorder, store = Recorder(Settings.build(journal_dir=tmp_path), Counters()), Halting()
    writer = Writer(lambda: store, recorder, MemoryState(), FakeClock(), rows=10, age=1.0, chores=lambda: None)
    recorder.open()
    recorder.memory.append(hit_frame("/first") + hit_frame("/later/1") + hit_frame("/later/2"))
    with pytest.raises(StoreMisconfigured):
        writer._cycle()
    assert len(store.rows(HIT)) == 1
    writer._sources.move_memory()
    assert recorder.memory.size == 0
    assert recorder.journal is not None
    store.mended = True
    deliver(writer)
    assert [b"/later" in row for row in store.rows(HIT)] == [False, True, True]
    assert (recorder.counters.written, recorder.counters.adopted) == (3, 0)
    assert writer.stop(1.0)


def test_a_row_that_is_set_aside_is_counted_though_nobody_saw_the_end_of_it(tmp_path: Path) -> None:
    dead, recorder = (Recorder(Settings.build(journal_dir=tmp_path), Counters()) for _ in range(2))
    store = Unheard()
    writer = Writer(lambda: store, recorder, MemoryState(), FakeClock(), rows=10, age=1.0, chores=lambda: None)
    for each in (dead, recorder):
        each.open()
        each._append(hit_frame("/bad"))
    assert dead.journal is not None
    dead.journal.abandon()
    store.lost = 1
    deliver(writer)
    counters = recorder.counters
    assert (len(store.quarantined), counters.quarantined, counters.adopted, counters.written) == (2, 2, 1, 0)
    assert writer.stop(1.0)


def test_a_journal_whose_folder_takes_no_name_of_the_server_is_delivered(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: JournalFolder, server: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(JournalFolder, "name_server", fail)
    with Rig(dsn, tmp_path / "j") as rig:
        rig.send(0, 5)
        wait_until(rig.delivered)
    assert (stored(dsn), rig.counters.failures) == ([*range(5)], {})


def test_memory_mode_delivers_too(dsn: str, tmp_path: Path) -> None:
    with Rig(dsn, tmp_path / "j", "memory") as rig:
        rig.send(0, 300)
    assert stored(dsn) == list(range(300))
    assert not (tmp_path / "j").exists()


def test_a_folder_that_cannot_be_written_means_memory_and_one_warning(
    dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "j").write_text("a file")
    with caplog.at_level(logging.WARNING), Rig(dsn, tmp_path / "j") as rig:
        rig.send(0, 5)
    assert stored(dsn) == list(range(5))
    assert [record.message for record in caplog.records if "memory only" in record.message] != []


def test_all_workers_agree_on_the_salts(dsn: str, tmp_path: Path) -> None:
    with Rig(dsn, tmp_path / "1") as first, Rig(dsn, tmp_path / "2") as second:
        assert first.writer.attempted.wait(WAIT)
        assert second.writer.attempted.wait(WAIT)
    assert first.shared.salts == second.shared.salts
    assert len({salt.key for salt in first.shared.salts}) == 3


def test_a_disk_that_cannot_flush_keeps_the_other_chores_from_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "broken")

    done = threading.Event()
    recorder = Recorder(Settings.build(journal_dir=tmp_path), Counters())
    recorder.open()
    recorder._append(hit_frame("/"))
    monkeypatch.setattr(os, "fdatasync", broken)
    writer = Writer(MemoryStore, recorder, MemoryState(), SystemClock(), rows=50, age=0.02, chores=done.set)
    writer.start()
    assert done.wait(WAIT)
    writer.stop(5.0)
    assert recorder.counters.failures["writer"] > 0
    assert "Trouble with the files of the journal" in caplog.text


def test_a_journal_that_cannot_be_read_holds_up_neither_memory_nor_the_journals_of_others(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = FileJournal(tmp_path / "j", b"l" * 16, COLUMNS, 1 << 20)
    left.append(hit_frame("/e/0"))
    left.abandon()

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    rig = Rig(dsn, tmp_path / "j")
    monkeypatch.setattr(rig.recorder.journal, "read", fail)
    rig.send(1, 5)
    rig.recorder.memory.append(hit_frame("/e/6"))
    with rig:
        wait_until(lambda: stored(dsn) == [0, 6])
        monkeypatch.undo()
        wait_until(rig.delivered)
    assert stored(dsn) == list(range(7))


def test_the_lag_begins_with_the_outage(tmp_path: Path) -> None:
    store, clock = MemoryStore(), FakeClock()
    store.error = StoreUnavailable("down")
    recorder = Recorder(Settings.build(journal_dir=tmp_path / "j"), Counters())
    recorder.open()
    writer = Writer(lambda: store, recorder, MemoryState(), clock, rows=10, age=0.01, chores=lambda: None)
    recorder._append(hit_frame("/e/1"))
    writer.start()
    assert writer.attempted.wait(WAIT)
    clock.advance(7.0)
    assert writer.lag() == 7.0
    store.error = None
    wait_until(lambda: writer.pending_bytes() == 0)
    assert writer.lag() == 0.0
    assert writer.stop(5.0)
    assert len(store.rows(HIT)) == 1


def test_the_lag_is_of_what_waits_and_not_of_how_long_visitors_have_been_coming(tmp_path: Path) -> None:
    """Where many come, each look finds something new."""
    clock, recorder = FakeClock(), Recorder(Settings.build(journal_dir=tmp_path / "j"), Counters())
    store = MemoryStore()
    writer = Writer(lambda: store, recorder, MemoryState(), clock, rows=1, age=0.01, chores=lambda: None)
    recorder.open()
    for _ in range(3):
        recorder._append(hit_frame())
        assert writer._cycle().frames == 1
        clock.advance(10.0)
    recorder._append(hit_frame())
    assert writer.lag() == 10.0
    for _ in range(12):
        recorder._append(hit_frame())
    for _ in range(2):  # it catches up
        assert writer._cycle().frames == 4
        clock.advance(1.0)
    assert writer.lag() == 12.0
    assert recorder.journal is not None
    recorder.journal.abandon()


def test_what_was_read_of_the_server_is_read_again_after_an_error_that_nobody_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = ["1", "2"]

    class Changed(MemoryStore):
        def position(self, journal: bytes, end: tuple[int, int] | None = None, own: bool = False) -> tuple[int, int]:
            position = super().position(journal, end, own)
            return (told.pop(), told.pop()) if told else position  # type: ignore[return-value]

    monkeypatch.setattr(Backoff, "next", lambda self: 0.01)
    recorder = Recorder(Settings.build(journal_dir=tmp_path / "j"), Counters())
    recorder.open()
    store = Changed()
    writer = Writer(lambda: store, recorder, MemoryState(), SystemClock(), rows=10, age=0.01, chores=lambda: None)
    recorder._append(hit_frame("/e/1"))
    writer.start()
    try:
        wait_until(lambda: len(store.frames) == 1, WAIT)
    finally:
        writer.stop(5.0)
