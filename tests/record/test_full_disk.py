"""Disks and files that take no more: what was refused is known, and nothing is torn."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asgi_analytics.batch import HIT
from asgi_analytics.errors import JournalError
from asgi_analytics.record import journal as module
from asgi_analytics.record.adoption import adopt
from asgi_analytics.record.frames import frame
from asgi_analytics.record.journal import FileJournal

from .journals import COLUMNS, NAME, dead, fill, read_all, row, rows

fork = multiprocessing.get_context("fork")


def in_child(act: Callable[..., None], *arguments: object) -> Any:
    """Return what a process of its own, whose limits are its own, puts into the queue that it is given last."""
    answers = fork.Queue()
    child = fork.Process(target=act, args=(*arguments, answers))
    child.start()
    answer = answers.get(timeout=20)
    child.join(20)
    return answer


def _fill_the_disk(root: Path, most: int, answers: multiprocessing.Queue[tuple[int, str]]) -> None:
    journal = FileJournal(root, NAME, COLUMNS, 1 << 30)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    taken = 0
    try:
        for number in range(1000):
            journal.append(frame(HIT, row(number)))
            taken += 1
    except JournalError as error:
        answers.put((taken, str(error)))


def test_a_full_disk_leaves_no_torn_frame(tmp_path: Path) -> None:
    taken, reason = in_child(_fill_the_disk, tmp_path, 1003)
    assert (taken > 10, reason) == (True, "disk_full")
    (found,) = adopt(tmp_path)
    assert rows(read_all(found)) == list(range(taken))


def _fill_files(root: Path, most: int, answers: multiprocessing.Queue[tuple[int, int]]) -> None:
    journal = FileJournal(root, NAME, COLUMNS, 1 << 30)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    refused = 0
    for number in range(100):
        try:
            journal.append(frame(HIT, row(number)))
        except JournalError:
            refused += 1
            journal.prepare()
            journal.append(frame(HIT, row(number)))
        journal.prepare()
    answers.put((refused, journal.segment))


def test_where_no_file_may_grow_further_another_is_begun(tmp_path: Path) -> None:
    refused, segments = in_child(_fill_files, tmp_path, 1003)
    assert (refused, segments > 3) == (1, True), "from the first time on the next file is there"
    (found,) = adopt(tmp_path)
    assert rows(read_all(found)) == list(range(100))


def test_a_disk_that_takes_nothing_gets_no_files_without_end(
    journal: FileJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(journal, 3)
    with monkeypatch.context() as patch:
        patch.setattr(module, "write", lambda *_: -1)
        patch.setattr(os, "ftruncate", lambda *_: os.close(-1))
        for _ in range(5):
            with pytest.raises(JournalError, match="journal_unwritable"):
                journal.append(frame(HIT, row(3)))
            journal.prepare()
    assert journal.segment == 2
    fill(journal, 3, first=3)
    assert rows(read_all(journal)) == list(range(6))


def test_a_segment_whose_header_has_no_room_is_not_begun(
    journal: FileJournal, small_segments: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        journal.append(frame(HIT, row(number)))
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda handle, data: write(handle, data[:5]))
        for _ in range(2):
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                journal.prepare()
    fill(journal, 20, first=20)
    assert journal.segment > 1
    assert rows(read_all(dead(journal))) == list(range(40))
