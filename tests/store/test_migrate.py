from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
from psycopg import sql

from asgi_analytics.commands.doctor.postgres import database_checks
from asgi_analytics.embedded.programs import find_servers
from asgi_analytics.errors import MigrationError, StoreError, StoreMisconfigured, StoreUnavailable
from asgi_analytics.store import command_session, health, migrate
from asgi_analytics.store.postgres import PostgresStore

TABLES = {
    *("cases", "counters", "decisions", "fingerprints", "hits", "incidents", "migrations", "networks", "policies"),
    *("positions", "quarantine", "refusals", "rulings", "salts", "sessions", "workers"),
}
PROGRAM = "import sys; from asgi_analytics.store.migrate import migrate; print(*migrate(sys.argv[1]))"


def tables(dsn: str) -> set[str]:
    query = "SELECT tablename FROM pg_tables WHERE schemaname = 'analytics' AND tablename NOT LIKE 'hits\\_%'"
    with psycopg.connect(dsn) as connection:
        return {name for (name,) in connection.execute(query)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of migrations of our own, in place of the shipped one."""
    (tmp_path / "0001_one.sql").write_text(
        "CREATE TABLE analytics.one (a integer); INSERT INTO analytics.one VALUES (1)"
    )
    monkeypatch.setattr(migrate, "_folder", lambda: tmp_path)
    return tmp_path


def test_an_empty_database_gets_the_whole_schema(empty_dsn: str) -> None:
    applied = migrate.migrate(empty_dsn)
    assert applied == [one.name for one in migrate.migrations()]
    assert tables(empty_dsn) == TABLES


def test_the_second_time_there_is_nothing_to_do(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        names = migrate.schema_state(connection).pending
        assert migrate.apply(connection) == names != []
        assert migrate.apply(connection) == migrate.schema_state(connection).pending == []


def test_of_eight_processes_one_applies_each_migration(empty_dsn: str) -> None:
    def run(_: int) -> str:
        done = subprocess.run([sys.executable, "-c", PROGRAM, empty_dsn], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    with ThreadPoolExecutor(8) as pool:
        answers = " ".join(pool.map(run, range(8)))
    assert sorted(answers.split()) == [one.name for one in migrate.migrations()]


def test_eight_stores_that_connect_at_once_all_succeed(empty_dsn: str) -> None:
    stores = [PostgresStore(lambda: empty_dsn) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(PostgresStore.connect, stores))
    for store in stores:
        store.close()
    assert tables(empty_dsn) == TABLES


def test_a_migration_added_later_is_applied_alone(empty_dsn: str, folder: Path) -> None:
    migrate.migrate(empty_dsn)
    (folder / "0009_two.sql").write_text("CREATE TABLE analytics.two (a integer)")
    (folder / "notes.sql").write_text("not a migration")
    assert migrate.migrate(empty_dsn) == ["0009_two.sql"]


def test_a_changed_migration_is_refused(empty_dsn: str, folder: Path) -> None:
    migrate.migrate(empty_dsn)
    (folder / "0001_one.sql").write_text("CREATE TABLE analytics.one (a bigint)")
    with pytest.raises(MigrationError, match=r"0001_one\.sql was applied with checksum"):
        migrate.migrate(empty_dsn)


def test_a_migration_that_fails_leaves_nothing_behind(empty_dsn: str, folder: Path) -> None:
    (folder / "0009_two.sql").write_text("CREATE TABLE analytics.two (a integer); SELECT 1 / 0")
    for _ in range(2):  # the lock is free again
        with pytest.raises(psycopg.errors.DivisionByZero):
            migrate.migrate(empty_dsn)
    assert tables(empty_dsn) == {"migrations", "one"}


def test_after_a_migration_that_failed_a_server_that_says_nothing_is_frozen_again(empty_dsn: str, folder: Path) -> None:
    (folder / "0009_two.sql").write_text("SELECT 1 / 0")
    store = PostgresStore(lambda: empty_dsn)
    with pytest.raises(StoreError):
        store.connect()
    assert store.migrating is False
    store.close()


def test_migrations_in_a_wheel_come_before_those_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = [one.name for one in migrate.migrations()]
    assert checkout[0] == "0001_schema.sql"
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "0001_shipped.sql").write_text("SELECT 1")
    monkeypatch.setattr(migrate, "files", lambda _: SimpleNamespace(joinpath=lambda name: tmp_path / name))
    assert [one.name for one in migrate.migrations()] == ["0001_shipped.sql"]


def test_numbers_follow_each_other() -> None:
    numbers = [one.number for one in migrate.migrations()]
    assert numbers == list(range(1, len(numbers) + 1))


# While others hold what we need


@contextmanager
def holding(dsn: str, *statements: str) -> Iterator[None]:
    """Another session in a transaction that has run these statements."""
    with psycopg.connect(dsn) as other:
        for statement in statements:
            other.execute(statement.encode())
        yield
        other.rollback()


READING = "LOCK TABLE analytics.hits IN ACCESS SHARE MODE"  # what a dump holds, or a long report


def assert_can_be_read(dsn: str) -> None:
    """A report comes through, or waits no longer than a reader can bear."""
    with psycopg.connect(dsn) as connection:
        connection.execute("SET statement_timeout = '4s'")
        connection.execute("SELECT count(*) FROM analytics.hits")


def lack_partition(dsn: str, ahead: int) -> None:
    """Make all partitions but that of a day."""
    command_session.migrate_all(dsn)
    name = f"hits_{datetime.now(UTC).date() + timedelta(days=ahead):%Y%m%d}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier("analytics", name)))


def missing(dsn: str) -> list[str]:
    with health.examine(dsn) as reader:
        return [day.isoformat() for day in reader.missing_partitions()]


def test_where_nothing_is_pending_the_lock_of_migrations_is_not_asked_for(dsn: str) -> None:
    with holding(dsn, f"SELECT pg_advisory_lock({migrate.LOCK})"):
        assert migrate.migrate(dsn) == []


def test_somebody_who_migrates_for_ever_is_named(empty_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "PATIENCE", 0.2)
    with (
        holding(empty_dsn, "SET application_name = 'them'", f"SELECT pg_advisory_lock({migrate.LOCK})"),
        pytest.raises(StoreUnavailable, match=r"Another process migrates this database: process \d+ \(them\)"),
    ):
        migrate.migrate(empty_dsn)
    assert migrate.migrate(empty_dsn) != []


def test_a_migration_that_waits_for_a_reader_lets_other_readers_through(
    dsn: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "PAUSE", 0.1)  # once the reader is gone there is nobody to let through
    monkeypatch.setattr(migrate, "_missing", lambda done: migrate.migrations() if 9999 not in done else [])
    (folder / "0001_one.sql").rename(folder / "9999_wider.sql")
    (folder / "9999_wider.sql").write_text("ALTER TABLE analytics.hits ADD COLUMN wider integer")
    with ThreadPoolExecutor(1) as pool:
        with holding(dsn, READING):
            applied = pool.submit(migrate.migrate, dsn)
            while not waiting(dsn):
                assert not applied.done()
            assert_can_be_read(dsn)
        assert applied.result(20) == ["9999_wider.sql"]


def waiting(dsn: str) -> bool:
    """Whether somebody waits for a lock on a table of ours."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation > 0)").fetchone()
    return bool(row and row[0])


def test_a_reader_who_never_ends_fails_the_migration_in_time(
    dsn: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "PATIENCE", 0.0)
    monkeypatch.setattr(migrate, "_missing", lambda done: migrate.migrations())
    (folder / "0001_one.sql").write_text("ALTER TABLE analytics.hits ADD COLUMN wider integer")
    with holding(dsn, READING), pytest.raises(StoreUnavailable, match=r"0001_one\.sql waits for somebody"):
        migrate.migrate(dsn)


def test_a_migration_takes_what_it_takes(empty_dsn: str, folder: Path) -> None:
    (folder / "0002_slow.sql").write_text("SELECT pg_sleep(0.3)")
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("SET statement_timeout = '100ms'")
        assert migrate.apply(connection) == ["0001_one.sql", "0002_slow.sql"]


def test_a_schema_that_was_renamed_before_the_worker_started_is_not_made_anew(dsn: str) -> None:
    """Else it could not get its name back, and what comes meanwhile would be in the other one."""
    store = PostgresStore(lambda: dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ALTER SCHEMA analytics RENAME TO kept")
        with pytest.raises(StoreMisconfigured, match="renamed to kept"):
            store.connect()
        connection.execute("ALTER SCHEMA kept RENAME TO analytics")
        store.connect()
        connection.execute("ALTER SCHEMA analytics RENAME TO kept")
    command_session.migrate_all(dsn)
    store.connect()
    store.close()


def test_a_schema_that_another_worker_has_just_made_was_not_renamed(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([False])
    monkeypatch.setattr(migrate, "is_begun", lambda connection: next(found, True))
    store = PostgresStore(lambda: dsn)
    store.connect()
    store.close()


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_a_migration_runs_at_its_own_level_of_isolation(empty_dsn: str, folder: Path, isolation: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("SET default_transaction_isolation = {}").format(isolation))
        assert migrate.apply(connection) == ["0001_one.sql"]


def test_a_partition_that_is_not_needed_yet_waits_for_a_reader_and_nobody_else_does(dsn: str) -> None:
    lack_partition(dsn, 7)
    store = PostgresStore(lambda: dsn)
    store.connect()
    with holding(dsn, READING), ThreadPoolExecutor(1) as pool:
        made = pool.submit(store.make_partitions)
        while not waiting(dsn) and not made.done():
            pass
        assert_can_be_read(dsn)
        made.result(5)
    store.make_partitions()
    store.close()
    with psycopg.connect(dsn) as connection:
        connection.execute("SET timezone = 'UTC'")
        row = connection.execute("SELECT analytics.ensure_partitions(current_date, current_date + 7)").fetchone()
    assert row == (0,), "it was made when the reader was gone"


@pytest.mark.parametrize("ahead", [0, 1], ids=["today", "tomorrow"])
def test_a_partition_that_is_needed_is_waited_for_in_bounded_time(dsn: str, ahead: int) -> None:
    lack_partition(dsn, ahead)
    store = PostgresStore(lambda: dsn)
    store.connect()
    began = time.monotonic()
    with holding(dsn, READING), pytest.raises(StoreUnavailable, match="lock timeout"):
        store.make_partitions()
    assert time.monotonic() - began < 15
    assert len(missing(dsn)) == 1
    command_session.migrate_all(dsn)
    assert missing(dsn) == []


def test_a_dump_made_as_the_table_says_has_no_salts(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("INSERT INTO analytics.salts VALUES ('2026-01-01', decode(repeat('ab', 32), 'hex'))")
        row = connection.execute("SELECT obj_description('analytics.salts'::regclass)").fetchone()
        major = connection.info.server_version // 10_000
    (option,) = re.findall(r"pg_dump (--\S+)", row[0] if row and row[0] else "")
    programs = [server.programs / "pg_dump" for server in find_servers() if server.major >= major]  # it reads no later
    program = next((path for path in programs if path.exists()), None)
    if program is None:
        pytest.skip("no pg_dump for this server here")

    def dump(*options: str) -> str:
        return subprocess.run([program, *options, dsn], check=True, capture_output=True, text=True).stdout

    assert "abababab" in dump("--data-only", "--table=analytics.salts"), "else the option would say nothing"
    assert "abababab" not in dump(option)


def test_doctor_says_how_dumps_are_made_without_salts(dsn: str) -> None:
    told = [check.text for check in database_checks(dsn, time.time())]
    assert [text for text in told if "pg_dump --exclude-table-data=analytics.salts" in text] != []
