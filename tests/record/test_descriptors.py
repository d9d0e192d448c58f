"""Descriptors of the journal that other code in the process closes, and whose numbers other files get."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from asgi_analytics.database import destination_of
from asgi_analytics.errors import JournalError
from asgi_analytics.record.adoption import adopt
from asgi_analytics.record.descriptors import HIGH, Descriptor
from asgi_analytics.record.journal import FileJournal
from tests.drive import NOWHERE

from .journals import COLUMNS, NAME, dead, fill, read_all, rows

CLOSED = "closed by other code"


def numbers(journal: FileJournal) -> list[int]:
    held = [journal._open, journal.folder.held, journal._next, *journal._kept.values()]
    return [one.number for one in held if one is not None]


def segments(journal: FileJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill three and begin a fourth, the fifth being made."""
    monkeypatch.setattr("asgi_analytics.record.journal.SEGMENT_SIZE", 400)
    fill(journal, 30)
    monkeypatch.undo()
    assert len(numbers(journal)) > 4


def test_what_is_closed_is_opened_again_with_the_next_row(
    journal: FileJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    segments(journal, monkeypatch)
    for number in numbers(journal):
        os.close(number)
    count, segment = 30, journal.segment
    with pytest.raises(OSError, match=f"{CLOSED}.*no hit was lost"):
        fill(journal, 5, first=count)
    fill(journal, 4, first=count + 1)
    journal.sync()
    assert journal.segment == segment, "it goes on in the same file"
    assert list(adopt(journal.path.parent)) == [], "it is held again"
    assert rows(read_all(journal)) == list(range(count + 5))
    assert rows(read_all(dead(journal))) == list(range(count + 5))


@pytest.mark.parametrize("act", ["read", "sync", "prepare"])
def test_whatever_the_background_does_first_finds_it(
    journal: FileJournal, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    segments(journal, monkeypatch)
    for number in numbers(journal):
        os.close(number)
    if act == "read":
        assert rows(read_all(journal)) == list(range(30))
    elif act == "sync":
        journal.sync()
    with pytest.raises(OSError, match=CLOSED):
        journal.prepare()
    journal.prepare()
    fill(journal, 1, first=30)
    assert rows(read_all(dead(journal))) == list(range(31))


def test_who_has_our_numbers_gets_little_and_keeps_his_files(journal: FileJournal, tmp_path: Path) -> None:
    fill(journal, 10)
    theirs = [os.open(tmp_path / f"theirs{place}", os.O_CREAT | os.O_RDWR) for place, _ in enumerate(numbers(journal))]
    for mine, other in zip(numbers(journal), theirs, strict=True):
        os.dup2(other, mine)
    taken = numbers(journal)
    with pytest.raises(OSError, match=rf"{CLOSED}.* \d+ bytes of hits went into another file"):
        fill(journal, 1, first=10)
    size = os.stat(tmp_path / "theirs0").st_size
    fill(journal, 10, first=11)
    journal.sync()
    assert rows(read_all(journal)) == [*range(10), *range(11, 21)]
    assert 0 < os.stat(tmp_path / "theirs0").st_size == size
    assert rows(read_all(dead(journal))) == [*range(10), *range(11, 21)]
    for mine, other in zip(taken, theirs, strict=True):
        assert os.path.sameopenfile(mine, other), "theirs are not closed with ours"
        os.close(mine)
        os.close(other)


def test_the_end_closes_no_file_that_is_not_ours(journal: FileJournal, tmp_path: Path) -> None:
    theirs, mine = os.open(tmp_path, os.O_RDONLY), journal._fd
    os.dup2(theirs, mine)
    journal.abandon()
    assert os.path.sameopenfile(mine, theirs)
    os.close(mine)
    os.close(theirs)


def test_a_strangers_file_that_takes_no_more_is_not_cut(journal: FileJournal, tmp_path: Path) -> None:
    fill(journal, 10)
    (tmp_path / "theirs").write_bytes(bytes(100_000))
    theirs = os.open(tmp_path / "theirs", os.O_RDONLY)
    os.dup2(theirs, journal._fd)
    with pytest.raises(OSError, match="no hit was lost"):
        fill(journal, 1, first=10)
    assert (tmp_path / "theirs").read_bytes() == bytes(100_000)
    assert rows(read_all(dead(journal))) == list(range(11))


def test_a_journal_that_another_delivered_meanwhile_is_begun_anew(journal: FileJournal, tmp_path: Path) -> None:
    fill(journal, 5)
    for number in numbers(journal):
        os.close(number)
    (found,) = adopt(tmp_path)
    assert rows(read_all(found)) == list(range(5))
    found.finish()
    with pytest.raises(OSError, match=f"{CLOSED}.*may be lost"):
        journal.prepare()
    journal.prepare()
    fill(journal, 5, first=5)
    assert rows(read_all(dead(journal))) == list(range(5, 10))


def test_a_closed_journal_stays_closed(journal: FileJournal, tmp_path: Path) -> None:
    fill(journal, 5)
    assert journal.close(1, journal.size)
    journal.prepare()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(JournalError):
        fill(journal, 1)


@pytest.mark.parametrize("most", [64, HIGH, HIGH * 4])
def test_descriptors_are_high_ones_where_there_are_any(tmp_path: Path, most: int) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, limits[1]))
    try:
        journal = FileJournal(tmp_path, NAME, COLUMNS, 1 << 20)
        assert min(numbers(journal)) >= min(HIGH, most // 2)
        journal.abandon()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_where_all_descriptors_are_taken_it_keeps_the_one_it_has(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    file = os.open(tmp_path, os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (file + 1, limits[1]))
    taken = []
    try:
        while True:
            taken.append(os.dup(file))
    except OSError:
        opened = Descriptor.of(file)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for number in taken:
            os.close(number)
    assert opened.number == file
    opened.close()


DAEMON = """
import os, sys, time
from tests.drive import NOWHERE, get, page, wrapped

with wrapped(page(), NOWHERE, journal_dir=sys.argv[1]) as app:
    for _ in range(100):
        get(app)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    others = [open(f"{sys.argv[2]}{number}", "w+b", buffering=0) for number in range(100)]
    for _ in range(200):
        get(app)
        time.sleep(0.003)
    assert app.stats()["failures"].keys() <= {"journal"}, app.stats()
    os._exit(0)
"""


def test_an_app_that_closes_all_descriptors_loses_no_row_and_finds_none_in_its_files(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DAEMON, tmp_path / "j", tmp_path / "other"], check=True, timeout=60)
    (left,) = adopt(tmp_path / "j", destination_of(NOWHERE).key)
    assert len(read_all(left, 1000)) == 300
    assert sum(file.stat().st_size for file in tmp_path.glob("other*")) == 0
