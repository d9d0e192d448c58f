from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from asgi_analytics.commands.doctor import journals
from asgi_analytics.commands.doctor.options import address_checks, crawler_checks
from asgi_analytics.commands.doctor.postgres import database_checks
from asgi_analytics.database import destination_of
from asgi_analytics.errors import JournalError
from asgi_analytics.identify.operators import SOURCES
from asgi_analytics.protocols import Ask
from asgi_analytics.record.destination import Destination
from asgi_analytics.record.journal import FileJournal
from asgi_analytics.record.recorder import COLUMNS
from asgi_analytics.settings import Settings
from asgi_analytics.shared import postgres as shared
from asgi_analytics.store.postgres import PostgresStore
from tests.drive import NOWHERE, called
from tests.record.rows import batch, deliver, fetch, hit, hit_frame

PARTITIONS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'analytics.hits'::regclass"


def test_doctor_finds_nothing_wrong_with_a_migrated_database(dsn: str) -> None:
    answer = called("doctor", "--dsn", dsn)
    assert answer.returncode == 0, answer.stdout
    for text in ("PostgreSQL", "schema: up to date", "all that a writer needs", "quota: ", 'durability: "journal"'):
        assert text in answer.stdout


def test_doctor_says_that_the_schema_is_missing(empty_dsn: str) -> None:
    answer = called("doctor", "--dsn", empty_dsn)
    assert answer.returncode == 1
    assert "WRONG schema: not applied: 0001_schema.sql" in answer.stdout
    assert "run `asgi-analytics migrate`" in answer.stdout


@contextmanager
def clerk(dsn: str) -> Iterator[tuple[str, psycopg.Connection]]:
    """The DSN of a user who may do nothing in the schema, and the connection of one who may grant."""
    role = f"clerk_{os.getpid()}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
        connection.execute(f"GRANT USAGE ON SCHEMA analytics TO {role}")
        try:
            yield psycopg.conninfo.make_conninfo(dsn, user=role, password="x"), connection
        finally:
            connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_folder_that_cannot_be_written_is_nothing_wrong_where_hits_are_kept_in_memory(
    dsn: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    command = ("doctor", "--journal-dir", str(tmp_path / "file" / "journal"), "--dsn", dsn)
    assert "WRONG journal: " in called(*command).stdout
    answer = called(*command, "--durability", "memory")
    assert (answer.returncode, f"note  journal: {tmp_path}/file is not writable\n" in answer.stdout) == (0, True)


def test_doctor_says_which_privileges_a_user_lacks(dsn: str) -> None:
    with clerk(dsn) as (address, connection):
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA analytics TO clerk_{os.getpid()}")
        answer = called("doctor", "--dsn", address)
    assert answer.returncode == 1
    assert "INSERT on analytics.hits" in answer.stdout


def test_a_user_who_may_not_use_the_schema_or_make_temporary_tables_is_told_what_grants_it(dsn: str) -> None:
    with clerk(dsn) as (address, connection):
        role = f"clerk_{os.getpid()}"
        connection.execute(f"REVOKE USAGE ON SCHEMA analytics FROM {role}")
        connection.execute(f"REVOKE TEMPORARY ON DATABASE {connection.info.dbname} FROM PUBLIC")
        refused = called("stats", "--dsn", address).stderr
        granted = [check.advice for check in database_checks(address, time.time()) if check.advice]
        for advice in granted:
            connection.execute(advice)
        left = [check.text for check in database_checks(address, time.time()) if check.advice]
    assert refused == "asgi-analytics: permission denied for schema analytics\n"
    assert len(granted) == 2
    assert left[0].startswith("missing: ")


def test_what_doctor_says_a_user_lacks_is_all_that_a_worker_needs(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "TIDY", 1)
    stored, refused = batch([hit("/granted")]), batch([hit("/refused")])
    with clerk(dsn) as (address, connection):
        (lacking,) = [check for check in database_checks(address, time.time()) if check.advice]
        assert lacking.advice is not None
        connection.execute(lacking.advice)
        assert [check.text for check in database_checks(address, time.time()) if check.advice] == []
        store = PostgresStore(lambda: address, bans=True, policy=("0123", {}))
        with closing(store), closing(shared.PostgresQuotas(lambda: address)) as quotas:
            store.connect()
            store.make_partitions()
            store.exchange_salts([], ["2026-01-01"])
            deliver(store, stored)
            store.position(refused.journal)
            store.quarantine(refused, "refused", None)
            store.tidy()
            assert quotas.exchange(bytes(16), 0, [Ask(bytes(20), 60.0, 10, 5, 1, 1, 1)]).workers == 1
            quotas.leave(bytes(16))
    assert fetch(dsn, "SELECT path FROM analytics.hits") == [{"path": "/granted"}]


@pytest.mark.parametrize(
    ("proxies", "status", "address"),
    [((), 1, "10.0.0.5: the forwarding header is not believed"), (("10.0.0.0/8",), 0, "84.130.1.2")],
)
def test_doctor_resolves_the_client_address(dsn: str, proxies: tuple[str, ...], status: int, address: str) -> None:
    trusted = ("--trusted-proxies", *proxies) if proxies else ()
    header = ("--header", "X-Forwarded-For: 84.130.1.2", "--client", "10.0.0.5")
    answer = called("doctor", "--dsn", dsn, *header, *trusted)
    assert answer.returncode == status
    assert f"client address: {address}" in answer.stdout


@pytest.mark.parametrize("words", [(), ("forwarded",)])
def test_a_word_that_says_how_proxies_write_trusts_none(words: tuple[str, ...]) -> None:
    (first, *_) = address_checks(Settings.build(trusted_proxies=words), None, ())
    assert first.text == "none: headers are not believed"
    (named, *_) = address_checks(Settings.build(trusted_proxies=(*words, "10.0.0.0/8")), None, ())
    assert named.text == ", ".join((*words, "10.0.0.0/8"))


def test_doctor_says_that_the_journal_folder_is_no_folder(dsn: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = called("doctor", "--dsn", dsn, "--journal-dir", str(tmp_path / "file" / "journal"))
    assert answer.returncode == 1
    assert "WRONG journal: " in answer.stdout


def test_a_lock_in_a_copy_of_the_database_is_none_in_this_one(dsn: str) -> None:
    """Copies have tables of the same numbers, and pg_locks tells of all databases."""
    copy = f"copy_{os.getpid()}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        name = connection.info.dbname
    with psycopg.connect(psycopg.conninfo.make_conninfo(dsn, dbname="postgres"), autocommit=True) as server:
        server.execute(f'CREATE DATABASE {copy} TEMPLATE "{name}"'.encode())
        try:
            with psycopg.connect(psycopg.conninfo.make_conninfo(dsn, dbname=copy)) as holder:
                holder.execute("LOCK TABLE analytics.hits IN ACCESS EXCLUSIVE MODE")
                answer = called("doctor", "--dsn", dsn)
        finally:
            server.execute(f"DROP DATABASE {copy}".encode())
    assert answer.returncode == 0, answer.stdout


def test_a_lock_that_is_held_for_a_moment_is_nothing_wrong(dsn: str) -> None:
    """As when a partition is made, or a table that was vacuumed is cut."""
    with psycopg.connect(dsn) as holder:
        holder.execute("LOCK TABLE analytics.counters IN ACCESS EXCLUSIVE MODE")
        threading.Timer(0.2, holder.rollback).start()
        found = list(database_checks(dsn, time.time()))
    assert [check for check in found if check.advice] == []


def test_doctor_says_that_no_partition_takes_the_hits_of_today(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        for (name,) in connection.execute(PARTITIONS).fetchall():
            connection.execute(f"DROP TABLE {name}".encode())
    answer = called("doctor", "--dsn", dsn)
    assert "WRONG partitions: " in answer.stdout
    assert "`asgi-analytics migrate`, makes" in answer.stdout
    called("migrate", "--dsn", dsn)
    assert called("doctor", "--dsn", dsn).returncode == 0


def test_a_journal_that_is_delivered_while_doctor_looks_is_nothing_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (b"a" * 16, b"b" * 16):
        FileJournal(tmp_path, name, COLUMNS, 64 << 20, Destination("one")).abandon()
    read = journals._is_readable

    def delivered(segment: Path) -> bool:
        for other in set(tmp_path.iterdir()) - {segment.parent}:
            shutil.rmtree(other)
        return read(segment)

    monkeypatch.setattr(journals, "_is_readable", delivered)
    assert [check for check in journals.journal_checks(tmp_path) if check.advice] == []


def test_doctor_names_a_journal_that_has_reached_its_limit(dsn: str, tmp_path: Path) -> None:
    journal = FileJournal(tmp_path, b"a" * 16, COLUMNS, 1 << 20, destination_of(dsn))
    try:
        with contextlib.suppress(JournalError):
            while True:
                journal.append(hit_frame("/full"))
        asked = ("doctor", "--dsn", dsn, "--journal-dir", str(tmp_path))
        assert called(*asked).returncode == 0
        answer = called(*asked, "--journal-limit", "1048576")
    finally:
        journal.abandon()
    assert answer.returncode == 1
    assert (
        "WRONG journal: 1 in use hold more than journal_limit (1,048,576 bytes): new hits are dropped" in answer.stdout
    )


@pytest.mark.parametrize("dsn", ["postgresql://host:port/shop", "shop"])
def test_where_the_dsn_is_none_doctor_looks_at_the_journals_all_the_same(tmp_path: Path, dsn: str) -> None:
    FileJournal(tmp_path, b"a" * 16, COLUMNS, 1 << 20, Destination("one")).abandon()
    answer = called("doctor", "--dsn", dsn, "--journal-dir", str(tmp_path))
    assert f"ok    journal: {tmp_path}\n" in answer.stdout
    assert "note  journal: 1 left over, " in answer.stdout
    assert "WRONG database: " in answer.stdout
    assert answer.returncode == 1


def test_doctor_names_a_disk_that_cannot_be_read_and_goes_on(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(folder))

    monkeypatch.setattr(journals, "journals", fail)
    answer = called("doctor", "--dsn", dsn, "--journal-dir", str(tmp_path))
    assert f"WRONG journal: [Errno 5] Input/output error: '{tmp_path}' → mend the disk" in answer.stdout
    assert "ok    schema: up to date" in answer.stdout


def test_doctor_names_who_makes_an_index_while_no_row_gets_in(dsn: str) -> None:
    with psycopg.connect(dsn, application_name="indexing") as holder:
        holder.execute("LOCK TABLE analytics.sessions IN SHARE MODE")
        answer = called("doctor", "--dsn", dsn)
    assert "WRONG lock: ShareLock on analytics.sessions, held by process " in answer.stdout
    assert " (indexing) for " in answer.stdout


def test_doctor_tells_of_address_ranges_that_are_missing_old_or_damaged(tmp_path: Path) -> None:
    def told() -> list[tuple[str, str]]:
        settings = Settings.build(crawler_dir=tmp_path / "ranges")
        return [(check.mark, check.text) for check in crawler_checks(settings, time.time())]

    folder, advice = tmp_path / "ranges", "`asgi-analytics data update` gets them"
    assert told() == [("note", f"no address ranges in {folder}: {advice}")]
    folder.mkdir()
    first, second, *_, last = sorted(SOURCES)
    for name in sorted(SOURCES):
        assert (f"no address ranges of {last} in {folder}: {advice}" in str(told())) == (name == last)
        (folder / f"{name}.json").write_text('{"prefixes": [{"ipv4Prefix": "192.0.2.0/24"}]}')
    assert told() == [("ok", f"{len(SOURCES)} files of address ranges in {folder}")]
    os.utime(folder / f"{first}.json", (0, time.time() - 15 * 86_400))
    (folder / f"{second}.json").write_text("<html>")
    (damaged, old, rest) = told()
    assert damaged[0] == "WRONG"
    assert damaged[1].startswith(f"{second}: ")
    assert old == ("WRONG", f"older than 14 days: {first}; such a file refutes no claim any more")
    assert rest[1].startswith(f"{len(SOURCES) - 2} files")
    answer = called("doctor", "--crawler-dir", str(folder), "--dsn", NOWHERE)
    assert f"WRONG crawlers: {old[1]} → run `asgi-analytics data update` daily" in answer.stdout
