from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest

from asgi_analytics.errors import MigrationError
from asgi_analytics.store import migrate
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
        names = migrate.pending(connection)
        assert migrate.apply(connection) == names != []
        assert migrate.apply(connection) == migrate.pending(connection) == []


def test_of_eight_processes_one_migrates(empty_dsn: str) -> None:
    def run(_: int) -> str:
        done = subprocess.run([sys.executable, "-c", PROGRAM, empty_dsn], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    with ThreadPoolExecutor(8) as pool:
        answers = sorted(pool.map(run, range(8)))
    assert answers == [""] * 7 + [" ".join(one.name for one in migrate.migrations())]


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
