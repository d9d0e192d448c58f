"""Journals that were left over for a database of another name: delivered where it is the same, else named."""

from __future__ import annotations

import os
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from asgi_analytics.commands.adopt import _adopt
from asgi_analytics.commands.doctor.journals import journal_checks
from asgi_analytics.errors import CommandError
from asgi_analytics.record import adoption
from asgi_analytics.record import journal as journals
from asgi_analytics.record.adoption import adopt
from asgi_analytics.record.destination import DATABASE, Destination, read_destination
from asgi_analytics.record.journal import FileJournal
from asgi_analytics.store import reading
from asgi_analytics.store.dsn import database_address, database_key
from tests.acceptance.faults.test_disk import small_disk
from tests.drive import NOWHERE, called, get, page, rows, wrapped
from tests.record.rows import COLUMNS, fetch, hit_frame
from tests.waiting import wait_until

ELSEWHERE = "host=old.example dbname=app"


def alias(dsn: str) -> str:
    """The same database by the name of its address."""
    return make_conninfo(dsn, host="localhost", hostaddr=str(conninfo_to_dict(dsn)["host"]))


def server_of(dsn: str) -> str:
    with reading.connect(dsn) as reader:
        return reader.identity()


def left_over(folder: Path, dsn: str, server: str = "", name: bytes = b"l" * 16) -> FileJournal:
    """A dead worker's journal with one hit."""
    journal = FileJournal(folder, name, COLUMNS, 64 << 20, Destination(database_key(dsn), database_address(dsn)))
    journal.folder.name_server(server)
    journal.append(hit_frame("/left"))
    journal.abandon()
    return journal


@contextmanager
def working(dsn: str, folder: Path) -> Iterator[None]:
    """A worker that has looked at the folder once, and has delivered what is for its database."""
    with wrapped(page(), dsn, journal_dir=folder) as app:
        get(app)
        wait_until(lambda: app.stats()["written"] >= 1, what="a delivered hit")
        yield


def paths(dsn: str) -> list[str]:
    return [row["path"] for row in rows(dsn, "SELECT path FROM analytics.hits WHERE path = '/left'")]


def test_a_journal_for_the_same_database_under_another_name_is_delivered_once(dsn: str, tmp_path: Path) -> None:
    assert database_key(alias(dsn)) != database_key(dsn)
    with wrapped(page(), alias(dsn), journal_dir=tmp_path) as app:
        get(app)
        journal = app._engine.recorder.journal
        assert journal is not None
        wait_until(lambda: journal.folder.destination.server != "", what="the server's word")
        told = read_destination(journal.path)
    assert told == Destination(database_key(alias(dsn)), database_address(alias(dsn)), server_of(dsn))
    left = left_over(tmp_path, alias(dsn), told.server)
    with working(dsn, tmp_path):
        wait_until(lambda: not left.path.exists(), what="its delivery")
    assert paths(dsn) == ["/left"]


def test_a_journal_is_left_to_a_worker_that_lives_under_its_name(tmp_path: Path) -> None:
    left_over(tmp_path, ELSEWHERE, "7 16384")
    living = FileJournal(tmp_path, b"m" * 16, COLUMNS, 64 << 20, Destination(database_key(ELSEWHERE)))
    assert list(adopt(tmp_path, "ours", "7 16384")) == []
    living.close(1, living.size)
    (found,) = adopt(tmp_path, "ours", "7 16384")
    found.release()
    for server in ("", "7 16385"):
        assert list(adopt(tmp_path, "ours", server)) == []


def test_who_lives_under_another_name_is_asked_once_however_many_journals_it_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        left_over(tmp_path, ELSEWHERE, "7 16384", b"%016d" % number)
    living = FileJournal(tmp_path, b"m" * 16, COLUMNS, 64 << 20, Destination(database_key(ELSEWHERE)))
    asked = Counter[Path]()

    def counted(path: Path) -> Destination | None:
        asked[path] += 1
        return read_destination(path)

    monkeypatch.setattr(adoption, "read_destination", counted)
    assert list(adopt(tmp_path, "ours", "7 16384")) == []
    assert max(asked.values()) <= 2
    living.close(1, living.size)


def test_journals_whose_server_nobody_knows_are_not_taken_for_ours(tmp_path: Path) -> None:
    left_over(tmp_path, ELSEWHERE)
    assert list(adopt(tmp_path, "ours", "")) == []


def test_a_database_that_does_not_tell_who_it_is_takes_rows_as_before(dsn: str, tmp_path: Path) -> None:
    fetch(dsn, "ALTER FUNCTION pg_control_system() RENAME TO pg_hidden_system")
    assert server_of(dsn) == ""
    left = left_over(tmp_path, dsn)
    with working(dsn, tmp_path):
        wait_until(lambda: not left.path.exists(), what="its delivery")
    assert paths(dsn) == ["/left"]


def test_what_lies_for_another_database_is_named_and_can_be_delivered(dsn: str, tmp_path: Path) -> None:
    left = left_over(tmp_path, ELSEWHERE + " user=me password=secret")
    for command in ("doctor", "stats", "adopt"):
        told = called(command, "--dsn", dsn, "--journal-dir", str(tmp_path)).stdout
        size = sum(path.stat().st_size for path in left.path.glob("*.journal"))
        assert f"for {ELSEWHERE}" in told, told
        assert f"{size:,} bytes" in told
        assert "secret" not in told
        assert "since 20" in told
    with working(dsn, tmp_path):
        pass
    assert paths(dsn) == []
    assert called("adopt", "abcd", "--dsn", dsn, "--journal-dir", str(tmp_path)).returncode == 1
    answer = called("adopt", left.path.name[:8], "--dsn", dsn, "--journal-dir", str(tmp_path))
    assert "1 journal, " in answer.stdout, answer
    with working(dsn, tmp_path):
        wait_until(lambda: not left.path.exists(), what="its delivery")
    assert paths(dsn) == ["/left"]
    assert "nothing is left over" in called("adopt", "--dsn", dsn, "--journal-dir", str(tmp_path)).stdout
    for command in ("adopt", "stats"):
        shown = called(command, "--dsn", dsn, "--journal-dir", str(tmp_path / "slip")).stdout
        assert f"in {tmp_path}/slip, which is not there" in shown
        assert "not there" not in called(command, "--dsn", dsn, "--journal-dir", str(tmp_path)).stdout


def test_a_journal_of_an_earlier_version_is_named_too(dsn: str, tmp_path: Path) -> None:
    left = FileJournal(tmp_path, b"l" * 16, COLUMNS, 64 << 20, Destination("f" * 32))
    left.append(hit_frame("/left"))
    left.abandon()
    told = called("doctor", "--dsn", dsn, "--journal-dir", str(tmp_path)).stdout
    assert "1 left over for a database that is not named (key ffffffff)" in told
    assert "1 journal, " in called("adopt", "--all", "--dsn", dsn, "--journal-dir", str(tmp_path)).stdout
    assert read_destination(left.path) == Destination(database_key(dsn), database_address(dsn), server_of(dsn))


def test_a_living_journal_is_not_taken_away(dsn: str, tmp_path: Path) -> None:
    living = FileJournal(tmp_path, b"m" * 16, COLUMNS, 64 << 20, Destination("f" * 32))
    answer = called("adopt", "--all", "--dsn", dsn, "--journal-dir", str(tmp_path))
    assert "0 journals" in answer.stdout
    assert (living.path / DATABASE).read_text() == "f" * 32
    living.abandon()


def test_a_journal_of_another_user_is_left_to_that_user_whose_workers_could_not_read_what_root_writes(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_over(tmp_path, ELSEWHERE)
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    answer = called("adopt", "--all", "--dsn", dsn, "--journal-dir", str(tmp_path))
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.endswith(f"belongs to user {os.getuid()}: run this command as that user.\n")
    assert read_destination(tmp_path / (b"l" * 16).hex()) == Destination(database_key(ELSEWHERE), ELSEWHERE)


def test_where_no_database_answers_a_journal_is_named_and_left(tmp_path: Path) -> None:
    left_over(tmp_path, ELSEWHERE)
    told = called("doctor", "--dsn", NOWHERE, "--journal-dir", str(tmp_path)).stdout
    assert f"1 left over for {ELSEWHERE}" in told
    assert called("adopt", "--all", "--dsn", NOWHERE, "--journal-dir", str(tmp_path)).returncode == 1
    assert read_destination(tmp_path / (b"l" * 16).hex()) == Destination(database_key(ELSEWHERE), ELSEWHERE)


def test_a_full_disk_takes_no_journal_its_name(tmp_path: Path) -> None:
    with small_disk() as disk:
        journal = FileJournal(disk / "j", b"j" * 16, COLUMNS, 64 << 20, Destination("key", "address"))
        with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 4096)
        with pytest.raises(OSError, match="No space"):
            journal.folder.name_server("7 16384")
        assert read_destination(journal.path) == Destination("key", "address")
        (disk / "filler").unlink()
        journal.folder.name_server("7 16384")
        assert read_destination(journal.path) == Destination("key", "address", "7 16384")
        journal.abandon()


def test_an_address_in_words_has_neither_user_nor_password() -> None:
    told = database_address("postgresql://me:secret@DB.example:5433/app?options=-csearch_path%3Dx")
    assert told == "host=db.example port=5433 dbname=app"


def test_another_database_of_the_same_server_is_another_one(dsn: str) -> None:
    copied = server_of(make_conninfo(dsn, dbname="template1"))
    assert copied.split(" ")[0] == server_of(dsn).split(" ")[0] != ""
    assert copied != server_of(dsn)


def test_without_a_dsn_not_all_journals_go_to_the_embedded_postgres(dsn: str, tmp_path: Path) -> None:
    """As where the variable that names the database of the apps is not set: they would not come back by themselves."""
    left = left_over(tmp_path, ELSEWHERE)
    options = Namespace(all=True, names=[], journal_dir=tmp_path, dsn=None)
    with pytest.raises(CommandError, match="embedded Postgres"):
        list(_adopt(options, dsn))
    assert read_destination(left.path) == Destination(database_key(ELSEWHERE), ELSEWHERE)


def test_what_was_set_aside_is_delivered_once_it_is_put_back_as_doctor_says(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker of another version has delivered the segments behind it, and the journal's position is past it."""
    monkeypatch.setattr(journals, "SEGMENT_SIZE", 500)
    left = FileJournal(tmp_path, b"l" * 16, COLUMNS, 64 << 20, Destination(database_key(dsn), database_address(dsn)))
    for path in ("/left", "/behind"):
        left.prepare()
        left.append(hit_frame(path))
    left.abandon()
    (first,) = (one for one in left.path.glob("*.journal") if b"/left" in one.read_bytes())
    version = first.read_bytes()[:8]
    first.write_bytes(b"ASGIAJ\x00\n" + first.read_bytes()[8:])
    with working(dsn, tmp_path):
        wait_until(lambda: not left.path.exists(), what="its delivery")
    assert paths(dsn) == []
    (aside,) = tmp_path.glob("*.unreadable")
    (advice,) = [check.advice for check in journal_checks(tmp_path) if check.advice]
    back = tmp_path / str(advice).split(" as ")[1].split(",")[0]
    back.parent.mkdir()
    back.write_bytes(version + aside.read_bytes()[8:])
    aside.unlink()
    assert called("adopt", left.path.name[:8], "--journal-dir", str(tmp_path), "--dsn", dsn).stdout.startswith("1 jour")
    with working(dsn, tmp_path):
        wait_until(lambda: not left.path.exists(), what="its delivery")
    assert paths(dsn) == ["/left"]
    assert len(rows(dsn, "SELECT path FROM analytics.hits WHERE path = '/behind'")) == 1
