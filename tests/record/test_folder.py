"""The folder of a journal: whose it must be, what it is made with, and what is left where it cannot be made."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import stat
from pathlib import Path

import pytest

from asgi_analytics.commands.doctor.journals import journal_checks
from asgi_analytics.errors import JournalError
from asgi_analytics.folders import fsync_path
from asgi_analytics.record.destination import Destination
from asgi_analytics.record.journal import FileJournal
from asgi_analytics.record.listing import journals
from tests.conftest import data_folder
from tests.waiting import wait_until

from .journals import COLUMNS, NAME
from .rig import Rig


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(tmp_path, 12_345, 12_345)
    monkeypatch.setattr(os, "geteuid", lambda: 12_346)
    with pytest.raises(JournalError, match="another user"):
        FileJournal(tmp_path, NAME, COLUMNS, 1 << 20)


@pytest.mark.skipif(os.geteuid() != 0, reason="what is done as root only")
def test_a_folder_in_one_that_somebody_else_made_where_anybody_may_is_refused(tmp_path: Path) -> None:
    """Who made it could put another in the place of ours, with journals of his."""
    everybodys, others = tmp_path / "tmp", tmp_path / "tmp/asgi-analytics-0"
    everybodys.mkdir()
    everybodys.chmod(0o1777)
    others.mkdir()
    os.chown(others, 12_345, 12_345)
    with pytest.raises(JournalError, match="asgi-analytics-0 belongs to another user"):
        FileJournal(others / "journal", NAME, COLUMNS, 1 << 20)
    assert [check.mark for check in journal_checks(others / "journal")] == ["WRONG"]
    os.chown(others, 0, 0)
    FileJournal(others / "journal", NAME, COLUMNS, 1 << 20).abandon()


@pytest.mark.skipif(os.geteuid() != 0, reason="what is done as root only")
def test_a_volume_of_roots_is_used_unless_anybody_may_write_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Kubernetes mounts one for a group (fsGroup), and an emptyDir."""
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    tmp_path.chmod(0o2775)
    FileJournal(tmp_path, NAME, COLUMNS, 1 << 20).abandon()
    assert "WRONG" not in [check.mark for check in journal_checks(tmp_path)]
    tmp_path.chmod(0o2777)
    with pytest.raises(JournalError, match="is root's, and anybody may write to it: name another, or one in it"):
        FileJournal(tmp_path, b"\x08" * 16, COLUMNS, 1 << 20)
    assert [check.advice for check in journal_checks(tmp_path)] == [
        f"choose a folder by journal_dir, such as {tmp_path / 'journal'}"
    ]


def test_where_folders_are_not_flushed_there_is_a_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on folders that VirtualBox shares; what else a disk refuses to flush is an error."""
    flush, refused = os.fsync, [stat.S_ISDIR]

    def fsync(opened: int) -> None:
        if any(is_kind(os.fstat(opened).st_mode) for is_kind in refused):
            raise OSError(errno.EINVAL, "Invalid argument")
        flush(opened)

    monkeypatch.setattr(os, "fsync", fsync)
    journal = FileJournal(tmp_path, NAME, COLUMNS, 1 << 20, Destination("here"))
    journal.folder.flush()
    journal.abandon()
    refused.append(stat.S_ISREG)
    with pytest.raises(OSError, match="Invalid argument"):
        fsync_path(next(tmp_path.glob("*/*.journal")))


def no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def descriptor() -> int:
    """The lowest one that is free."""
    free = os.dup(0)
    os.close(free)
    return free


@pytest.mark.parametrize("fault", ["locks", "segment", "database"])
def test_a_journal_that_cannot_be_made_leaves_no_descriptor_and_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    before, limits = descriptor(), resource.getrlimit(resource.RLIMIT_FSIZE)
    if fault == "locks":
        monkeypatch.setattr(fcntl, "flock", no_locks)
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0 if fault == "segment" else 4096, limits[1]))
    try:
        with pytest.raises(OSError, match=r"No locks|File too large"):
            FileJournal(tmp_path, NAME, COLUMNS, 1 << 20, Destination("database" * 1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert descriptor() == before
    assert list(tmp_path.iterdir()) == []


def test_what_is_ours_alone_can_be_used_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        journal = FileJournal(tmp_path / "j", b"\x07" * 16, COLUMNS, 1 << 20, Destination("here", "there", "itself"))
    finally:
        os.umask(before)
    for path in (tmp_path / "j", journal.path, *journal.path.iterdir()):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    journal.close(0, 0)


def test_nobody_else_may_write_to_what_is_made_or_made_again_whatever_the_umask(tmp_path: Path) -> None:
    """As of a daemon, whose umask is 0: a journal that somebody put there would be delivered as ours."""
    made = tmp_path / "state" / "j"
    before = os.umask(0)
    try:
        journal = FileJournal(made, NAME, COLUMNS, 1 << 20, Destination("here"))
        modes = made.stat().st_mode, made.parent.stat().st_mode
        shutil.rmtree(made.parent)
        journal.prepare()
    finally:
        os.umask(before)
    assert (made.stat().st_mode, made.parent.stat().st_mode) == modes
    assert [oct(mode & 0o777) for mode in modes] == ["0o700", "0o755"]
    journal.close(0, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="what is done as root only")
def test_a_removed_folder_is_not_made_again_in_one_of_another_user(tmp_path: Path) -> None:
    rig = Rig("", tmp_path / "j")
    journal = rig.recorder.journal
    assert journal is not None
    rig.send(0, 3)
    shutil.rmtree(tmp_path / "j")
    (tmp_path / "j").mkdir()
    os.chown(tmp_path / "j", 12_345, -1)
    rig.writer._keeper._keep_files()
    rig.send(3, 3)
    batch = journal.read(1, 0, 10)
    assert batch is not None
    assert len(batch.frames) == 6
    assert rig.counters.failures == {"journal": 1}
    assert list((tmp_path / "j").iterdir()) == []
    journal.abandon()


@pytest.mark.skipif(os.geteuid() != 0, reason="what is done as root only")
def test_journals_that_another_user_left_are_named_and_keep_nobody_from_the_others(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a container's user was changed."""
    with data_folder() as folder:
        folder.chmod(0o770)
        FileJournal(folder, NAME, COLUMNS, 1 << 20).abandon()
        os.chown(folder / NAME.hex(), 12_345, -1)
        os.seteuid(12_346)
        try:
            with Rig(dsn, folder) as rig:
                rig.send(0, 1)
                wait_until(lambda: rig.counters.failures["left_over"] == 1, what="a word on the journal")
                wait_until(rig.delivered, what="delivery")
            assert journals(folder) == []
            told = [check.text for check in journal_checks(folder) if check.mark == "WRONG"]
        finally:
            os.seteuid(0)
    whose = f"1 journal of user 12345, such as {NAME.hex()}"
    assert told == [f"{whose}, closed to us"]
    assert whose in caplog.text
