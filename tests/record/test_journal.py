from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from asgi_analytics.batch import DECISION, HIT
from asgi_analytics.errors import JournalClosed, JournalError
from asgi_analytics.record import journal as module
from asgi_analytics.record.adoption import adopt
from asgi_analytics.record.frames import frame
from asgi_analytics.record.journal import RETENTION, FileJournal
from asgi_analytics.record.listing import bytes_in
from asgi_analytics.record.segment import path_of

from .journals import COLUMNS, NAME, dead, fill, read_all, row, rows

fork = multiprocessing.get_context("fork")


def test_what_is_appended_is_read_in_order(journal: FileJournal) -> None:
    fill(journal, 10)
    journal.append(frame(DECISION, b"\0\x01d"))
    found = read_all(journal)
    assert rows(found) == list(range(10))
    assert found[-1].kind == DECISION


def test_nothing_is_read_where_nothing_is_new(journal: FileJournal) -> None:
    fill(journal, 1)
    batch = journal.read(0, 0, 10)
    assert batch is not None
    assert journal.read(batch.segment, batch.end, 10) is None
    assert journal.pending_bytes(batch.segment, batch.end) == 0


def test_segments_follow_each_other(journal: FileJournal, small_segments: None) -> None:
    fill(journal, 100)
    assert journal.segment > 5
    assert rows(read_all(journal)) == list(range(100))


def test_without_a_prepared_segment_the_open_one_goes_on(journal: FileJournal, small_segments: None) -> None:
    for number in range(50):
        journal.append(frame(HIT, row(number)))
    assert journal.segment == 1
    assert rows(read_all(journal)) == list(range(50))


class Costly(int):
    """A number that there is no memory to count on from, the first time."""

    refused = False

    def __add__(self, other: int) -> int:
        if not self.refused:
            self.refused = True
            raise MemoryError
        return int(self) + other


def test_a_rotation_that_gets_no_memory_has_changed_nothing(journal: FileJournal, small_segments: None) -> None:
    fill(journal, 8)
    journal.segment = Costly(1)
    refused = 0
    for number in range(8, 20):
        try:
            journal.append(frame(HIT, row(number)))
        except MemoryError:  # the row is in
            refused += 1
    fill(journal, 100, first=20)
    assert refused == 1
    assert rows(read_all(journal)) == list(range(120))
    assert rows(read_all(dead(journal))) == list(range(120))


def test_what_a_finaliser_appends_while_a_segment_is_rotated_is_read(
    journal: FileJournal, small_segments: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Garbage may be collected where the answer of a call is made, and what is thrown away may make a last request."""
    appended: list[int] = []
    appending, fstat = threading.Lock(), os.fstat

    def collecting(descriptor: int) -> os.stat_result:
        found = fstat(descriptor)
        if not appending.locked():
            with appending:
                journal.append(frame(HIT, row(1000 + len(appended))))
                appended.append(1000 + len(appended))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", collecting)
        fill(journal, 60)
    found = rows(read_all(journal))
    assert sorted(found) == [*range(60), *appended]
    assert rows(read_all(dead(journal))) == found


@pytest.mark.parametrize("why", ["it is old", "there is no room"])
def test_a_row_waits_for_no_disk_that_frees_a_delivered_segment(
    journal: FileJournal, small_segments: None, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    fill(journal, 40)
    journal.acknowledge(journal.segment, now=0.0)
    waited: list[bool] = []

    def slow(path: Path, missing_ok: bool) -> None:
        other = threading.Thread(target=journal.append, args=(frame(HIT, row(40)),))
        other.start()
        other.join(1)
        waited.append(other.is_alive())

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", slow)
        if why == "it is old":
            journal.acknowledge(journal.segment, now=RETENTION + 1)
        else:
            patch.setattr(journal, "_limit", 1000)
            journal.prepare()
    assert waited == [False] * len(waited) != []


def test_a_long_outage_takes_few_descriptors_however_long_the_journal_is(
    journal: FileJournal, small_segments: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_OPEN", 3)
    before = len(os.listdir("/dev/fd"))
    for number in range(20):
        fill(journal, 5, first=5 * number)
        journal.prepare()
    assert journal.segment > 10
    assert len(os.listdir("/dev/fd")) <= before + 4  # and the next one
    assert rows(read_all(journal)) == [*range(100)]


def test_delivered_segments_are_kept_for_a_while(journal: FileJournal, small_segments: None) -> None:
    fill(journal, 100)
    journal.acknowledge(journal.segment, now=1000.0)
    assert journal.backlog == 0
    assert rows(read_all(journal)) == list(range(100)), "a fail-over may have lost them"
    journal.acknowledge(journal.segment, now=1000.0 + RETENTION + 1)
    assert [path.name for path in journal.path.glob("*.journal")] == [f"{journal.segment:08d}.journal"]


def test_delivered_segments_go_early_where_room_is_short(tmp_path: Path, small_segments: None) -> None:
    journal = FileJournal(tmp_path, NAME, COLUMNS, 3000)
    fill(journal, 50)
    journal.acknowledge(journal.segment, now=0.0)
    assert bytes_in(tmp_path) < 1500
    fill(journal, 20, first=50)
    assert rows(read_all(journal))[-20:] == list(range(50, 70))


def test_at_the_limit_the_newest_is_refused(tmp_path: Path, small_segments: None) -> None:
    journal = FileJournal(tmp_path, NAME, COLUMNS, 2000)
    taken = 0
    with contextlib.suppress(JournalError):
        while taken < 1000:
            fill(journal, 1, first=taken)
            taken += 1
    with pytest.raises(JournalError, match="journal_full"):
        fill(journal, 1)
    assert 20 < taken < 100
    assert rows(read_all(journal)) == list(range(taken))
    assert bytes_in(tmp_path) <= 2000 + module.SEGMENT_SIZE


def test_a_full_journal_that_is_closed_leaves_the_row_to_the_next_one(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path, NAME, COLUMNS, 2000)
    with contextlib.suppress(JournalError):
        for number in range(1000):
            journal.append(frame(HIT, row(number)))
    journal.close(1, 0)
    with pytest.raises(JournalClosed):
        journal.append(frame(HIT, row(1)))


def test_a_segment_that_grew_to_the_limit_for_want_of_a_next_one_makes_room_once_it_is_delivered(
    tmp_path: Path, small_segments: None
) -> None:
    journal = FileJournal(tmp_path, NAME, COLUMNS, 2000)
    with contextlib.suppress(JournalError):
        for number in range(1000):
            journal.append(frame(HIT, row(number)))
    with pytest.raises(JournalError, match="journal_full"):
        journal.append(frame(HIT, row(1)))
    journal.prepare()
    journal.acknowledge(journal.segment, now=0.0)
    journal.append(frame(HIT, row(2)))
    assert rows(read_all(journal))[-1] == 2
    assert journal.pending_bytes(1, 2000) == journal.size, "the segment of that position is deleted"


def test_a_reader_between_two_segments_cuts_no_frame(journal: FileJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_SIZE", 4000)
    fill(journal, 60)
    seen = rows(read_all(journal, most=7))
    assert seen == list(range(60))


def test_closing_removes_what_is_delivered(journal: FileJournal) -> None:
    fill(journal, 3)
    batch = journal.read(0, 0, 10)
    assert batch is not None
    assert journal.close(batch.segment, batch.end)
    assert not journal.path.exists()


def test_closing_keeps_what_came_after_the_last_look(journal: FileJournal) -> None:
    fill(journal, 3)
    batch = journal.read(0, 0, 10)
    assert batch is not None
    fill(journal, 1, first=3)
    assert not journal.close(batch.segment, batch.end)
    assert rows(read_all(dead(journal))) == [0, 1, 2, 3]


def test_a_closed_journal_takes_nothing(journal: FileJournal) -> None:
    journal.close(1, 0)
    with pytest.raises(JournalError):
        journal.append(frame(HIT, row(1)))


def test_a_descriptor_that_somebody_has_closed_keeps_no_other_open(journal: FileJournal, tmp_path: Path) -> None:
    os.close(journal._fd)
    journal.abandon()
    assert [found.id for found in adopt(tmp_path)] == [journal.id]


def test_a_forked_child_lets_go_without_freeing_its_parents_journal(journal: FileJournal, tmp_path: Path) -> None:
    child = fork.Process(target=journal.abandon)
    child.start()
    child.join(20)
    assert child.exitcode == 0
    assert list(adopt(tmp_path)) == []
    fill(journal, 1)
    assert rows(read_all(journal)) == [0]


def test_a_new_journal_knows_its_size_without_asking(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path, b"j" * 16, COLUMNS, 1 << 20)
    assert journal.size == (journal.path / "00000001.journal").stat().st_size
    journal.abandon()


def test_a_journal_that_is_read_is_not_written_to(journal: FileJournal) -> None:
    """Not even that it was read: that would wait for a disk that hangs."""
    path = path_of(journal.path, 1)
    fill(journal, 3)
    os.utime(path, (1, 1))
    assert len(read_all(journal)) == 3
    assert path.stat().st_atime == 1
