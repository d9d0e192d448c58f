"""Commands against a schema that is missing, older, partly there, read-only, or of somebody else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql

from asgi_analytics.store import migrate
from tests.drive import called

HELD = """
SELECT relname FROM pg_class WHERE relnamespace = 'analytics'::regnamespace AND relkind IN ('r', 'p', 'v', 'S')
    AND NOT relispartition AND relname <> 'quarantine_id_seq'
UNION SELECT proname || '()' FROM pg_proc WHERE pronamespace = 'analytics'::regnamespace
"""
READING = (
    *(("tail",), ("stats",), ("actors",), ("actors", "--banned"), ("quarantine", "list"), ("purge", "--older", "1d")),
    *(("what-if",), ("explain", "0" * 32)),
)


def change(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


@contextmanager
def read_only(dsn: str) -> Iterator[None]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
        yield


def test_doctor_names_each_part_of_the_schema_that_is_gone(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        names = {name for (name,) in connection.execute(HELD)}
    change(dsn, "ALTER SCHEMA analytics RENAME TO theirs", "CREATE SCHEMA analytics")
    change(dsn, "CREATE TABLE analytics.migrations AS SELECT * FROM theirs.migrations")
    (line,) = [one for one in called("doctor", "--dsn", dsn).stdout.splitlines() if one.startswith("WRONG schema")]
    told = line.removeprefix("WRONG schema: missing: ").partition(" →")[0].split(", ")
    assert set(told) == {f"analytics.{name}" for name in names - {"migrations"}}


@pytest.mark.parametrize(
    ("gone", "statement", "command"),
    [
        ("analytics.rulings", "DROP TABLE analytics.rulings CASCADE", ("actors",)),
        ("analytics.quarantine", "DROP TABLE analytics.quarantine CASCADE", ("stats",)),
        ("analytics.decayed", "DROP FUNCTION analytics.decayed CASCADE", ("actors",)),
    ],
)
def test_a_part_that_is_gone_is_named_by_the_command_that_needs_it_and_by_doctor(
    dsn: str, gone: str, statement: str, command: tuple[str, ...]
) -> None:
    change(dsn, statement)
    answer = called(*command, "--dsn", dsn)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert gone in answer.stderr
    assert "`doctor`" in answer.stderr
    assert called("migrate", "--dsn", dsn).stdout == "up to date\n"
    assert f"WRONG schema: missing: {gone}" in called("doctor", "--dsn", dsn).stdout


def test_a_schema_that_is_there_without_its_list_of_migrations_is_told_so(dsn: str) -> None:
    change(dsn, "DELETE FROM analytics.migrations")
    answer = called("migrate", "--dsn", dsn)
    assert answer.returncode == 1
    assert "Migration 0001_schema.sql was not applied by analytics.migrations, and finds what it makes" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["migrate", "doctor"])
def test_a_table_of_migrations_of_another_program_is_told_so(empty_dsn: str, command: str) -> None:
    change(empty_dsn, "CREATE SCHEMA analytics", "CREATE TABLE analytics.migrations (version text)")
    answer = called(command, "--dsn", empty_dsn)
    assert answer.returncode == 1
    assert "a table analytics.migrations that is not ours: rename it" in answer.stdout + answer.stderr


@pytest.mark.parametrize("command", READING)
def test_what_only_reads_reads_a_database_that_takes_no_writes(dsn: str, command: tuple[str, ...]) -> None:
    with read_only(dsn):
        answer = called(*command, "--dsn", dsn)
    assert "read-only" not in answer.stderr


@pytest.mark.parametrize("command", [("quarantine", "purge", "--all"), ("allow", "192.0.2.1")])
def test_what_writes_says_what_to_do_about_a_database_that_takes_no_writes(dsn: str, command: tuple[str, ...]) -> None:
    with read_only(dsn):
        answer = called(*command, "--dsn", dsn)
    assert answer.returncode == 1
    assert "in a read-only transaction: name the primary in the DSN" in answer.stderr


@pytest.mark.parametrize("command", [*READING[2:], ("allow", "192.0.2.1"), ("quarantine", "purge", "--all")])
def test_an_older_schema_is_to_be_migrated(
    empty_dsn: str, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = migrate.migrations
    monkeypatch.setattr(migrate, "migrations", lambda: whole()[:2])
    migrate.migrate(empty_dsn)
    monkeypatch.undo()
    answer = called(*command, "--dsn", empty_dsn)
    assert answer.returncode == 0 or "run `asgi-analytics migrate`" in answer.stderr
    assert "SQLSTATE" not in answer.stderr
