"""What is flushed to the disk, and when: each file once."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from asgi_analytics.batch import HIT
from asgi_analytics.errors import JournalError
from asgi_analytics.record import disk
from asgi_analytics.record.destination import Destination
from asgi_analytics.record.frames import frame
from asgi_analytics.record.journal import FileJournal

from .journals import COLUMNS, NAME, fill, read_all, row, rows


def flushed_by(call: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The inodes of what this thread flushes from now on; keepers of other tests' apps may still be at work."""
    flushed: list[int] = []
    here = threading.get_ident()

    def note(descriptor: int) -> None:
        if threading.get_ident() == here:
            flushed.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, call, note)
    return flushed


def test_a_rotated_segment_is_flushed_too(
    journal: FileJournal, small_segments: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = flushed_by("fdatasync", monkeypatch)
    fill(journal, 40)
    written = {file.stat().st_ino for file in journal.path.glob("*.journal") if int(file.stem) <= journal.segment}
    assert len(written) > 2
    journal.sync()
    assert set(flushed) == written
    journal.sync()
    assert len(flushed) == len(written), "nothing came since"


def test_what_names_a_journal_is_flushed_with_its_first_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power cut leaves a folder in the making, which is removed, or empty files: nobody would adopt it."""
    journal = FileJournal(tmp_path / "j", NAME, COLUMNS, 1 << 20, Destination("here", "there"))
    flushed = flushed_by("fsync", monkeypatch)
    fill(journal, 1)
    journal.sync()
    names = [journal.path / name for name in ("address", "database")]
    assert flushed == [path.stat().st_ino for path in (*names, journal.path, journal.path.parent)]
    journal.sync()
    assert len(flushed) == 4, "nothing came since"
    journal.folder.name_server("itself")
    journal.sync()
    assert (journal.path / "server").stat().st_ino in flushed
    journal.abandon()


def test_what_is_delivered_before_it_was_flushed_is_flushed_no_more(journal: FileJournal, small_segments: None) -> None:
    fill(journal, 40)
    journal.acknowledge(journal.segment, 1.0)
    journal.sync()
    journal.sync()
    assert len(read_all(journal)) == 40


def test_who_syncs_while_another_flushes_waits_for_the_end_of_it(
    journal: FileJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def slow(descriptor: int) -> None:
        begun.set()
        go_on.wait(10)

    monkeypatch.setattr(os, "fdatasync", slow)
    fill(journal, 1)
    threading.Thread(target=journal.sync).start()
    assert begun.wait(10)

    def follow() -> None:
        journal.sync()
        done.set()

    second = threading.Thread(target=follow)
    second.start()
    assert not done.wait(0.05)
    go_on.set()
    second.join(10)
    assert done.is_set()


def test_nothing_is_written_to_a_disk_that_hangs_and_nobody_waits_for_it(
    journal: FileJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hang(descriptor: int) -> None:
        begun.set()
        go_on.wait(10)

    monkeypatch.setattr(os, "fdatasync", hang)
    fill(journal, 1)
    flush = threading.Thread(target=journal.sync)
    flush.start()
    assert begun.wait(10)
    journal.append(frame(HIT, row(1)))
    monkeypatch.setattr(disk, "PATIENCE", 0.0)
    with pytest.raises(JournalError, match="journal_hangs"):
        journal.append(frame(HIT, row(2)))
    with pytest.raises(TimeoutError, match="does not answer"):
        journal.sync()
    go_on.set()
    flush.join(10)
    with pytest.raises(TimeoutError, match="kept in memory"):
        journal.prepare()
    fill(journal, 1, first=3)
    assert rows(read_all(journal)) == [0, 1, 3]
