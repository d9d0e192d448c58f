"""Applies the numbered files of `migrations/`: forward only, checksummed, one process at a time.

Whoever waits for an exclusive lock blocks all later queries, and a dump or a report may hold the table for hours: so
lock waits here are short, and repeated.
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import LiteralString

import psycopg

from ..errors import MigrationError, StoreUnavailable
from .connection import check_encoding, connect_command, local_settings

LOCK = 0x6173_6769  # "asgi"
PATIENCE = 30.0  # seconds to wait for another process that migrates, and for locks that others hold
PAUSE = 3.0  # seconds between two attempts to lock a table: time for queries queued behind us
# A migration takes as long as it must, and sees what was committed while it waited.
LIMITS = (
    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '2s'; SET LOCAL statement_timeout = 0"
)
EXISTS = (
    *(psycopg.errors.DuplicateTable, psycopg.errors.DuplicateColumn, psycopg.errors.DuplicateFunction),
    *(psycopg.errors.DuplicateObject, psycopg.errors.DuplicateSchema),
)
OTHERS = (
    "Migration {} was not applied by analytics.migrations, and finds what it makes: {}. Restore the rows of that "
    "table, or rename what is not ours."
)
SINCE_17 = "SELECT set_config(name, '0', true) FROM pg_settings WHERE name = 'transaction_timeout'"  # of PostgreSQL
_FILE = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number, name, text and SHA-256."""

    number: int
    name: str
    text: str
    checksum: str


def migrations() -> list[Migration]:
    """Return all migrations in order; they are in the wheel, or beside the package in a checkout."""
    found = []
    for file in _folder().iterdir():
        if match := _FILE.fullmatch(file.name):
            text = file.read_text("utf-8")
            found.append(Migration(int(match[1]), file.name, text, hashlib.sha256(text.encode()).hexdigest()))
    return sorted(found, key=lambda migration: migration.number)


def migrate(dsn: str) -> list[str]:
    """Bring the database up to date and return the names applied. Raises StoreError, psycopg.Error."""
    with connect_command(dsn, "asgi-analytics migrate") as connection:
        check_encoding(connection)
        return apply(connection)


def apply(connection: psycopg.Connection) -> list[str]:
    """Apply what is missing over an autocommit connection. Takes no lock if nothing is.

    Raises MigrationError, StoreUnavailable when others hold the locks, psycopg.Error.
    """
    applied: list[str] = []
    while missing := _missing(_known(connection)):
        applied += _patiently(connection, missing[0].name)
    return applied


def is_behind(connection: psycopg.Connection) -> bool:
    """Tell whether `apply` has something to apply. Raises MigrationError, psycopg.Error."""
    return bool(_missing(_known(connection)))


def _patiently(connection: psycopg.Connection, name: str) -> list[str]:
    """Apply the next migration and return its name, none where another process did."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return _next(connection)
        except _Busy:
            pause, problem = 0.05, f"Another process migrates this database: {_holder(connection)}."
        except psycopg.errors.LockNotAvailable as error:
            pause, problem = PAUSE, f"Migration {name} waits for somebody who holds a lock on our tables: {error}"
        if time.monotonic() > until:
            raise StoreUnavailable(problem)
        time.sleep(pause)


def _next(connection: psycopg.Connection) -> list[str]:
    with connection.transaction():
        connection.execute(LIMITS)  # before any query, which fixes the isolation level
        connection.execute(local_settings(connection))
        connection.execute(SINCE_17)
        # Tried, not waited for: a session that waits for such a lock can deadlock with index builds.
        if not _flag(connection, "SELECT pg_try_advisory_xact_lock(%s)"):
            raise _Busy
        _begin(connection)
        missing = _missing(_read(connection))
        if not missing:
            return []
        try:
            connection.execute(missing[0].text.encode())
        except EXISTS as error:
            raise MigrationError(OTHERS.format(missing[0].name, error.diag.message_primary)) from error
        connection.execute(
            "INSERT INTO analytics.migrations (number, name, checksum) VALUES (%s, %s, %s)",
            (missing[0].number, missing[0].name, missing[0].checksum),
        )
        return [missing[0].name]


class _Busy(Exception):
    """Another process is migrating."""


@dataclass(frozen=True, slots=True)
class SchemaState:
    """How a database compares with the files: what it lacks, what a later version applied, what was changed since."""

    pending: list[str]
    newer: list[str]
    changed: list[str]


def schema_state(connection: psycopg.Connection) -> SchemaState:
    """Compare a database with the files; writes nothing."""
    done = _known(connection)
    known = {migration.number: migration for migration in migrations()}
    return SchemaState(
        [one.name for one in known.values() if one.number not in done],
        [f"{number:04}" for number in sorted(done.keys() - known.keys())],
        [one.name for one in known.values() if done.get(one.number, one.checksum) != one.checksum],
    )


def _folder() -> Traversable:
    packaged = files("asgi_analytics").joinpath("migrations")
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "migrations"


def _flag(connection: psycopg.Connection, query: LiteralString) -> bool:
    row = connection.execute(query, (LOCK,)).fetchone()
    return bool(row and row[0])


def _holder(connection: psycopg.Connection) -> str:
    row = connection.execute(
        "SELECT format('process %%s%%s', locks.pid, coalesce(' (' || nullif(application_name, '') || ')', ''))"
        " FROM pg_locks AS locks LEFT JOIN pg_stat_activity AS held USING (pid) WHERE locks.granted"
        " AND locktype = 'advisory' AND classid = 0 AND objid = %s AND objsubid = 1"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        (LOCK,),
    ).fetchone()
    return str(row[0]) if row else "just now"


def _begin(connection: psycopg.Connection) -> None:
    if not is_begun(connection):
        connection.execute("CREATE SCHEMA IF NOT EXISTS analytics")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS analytics.migrations (number integer PRIMARY KEY, name text NOT NULL,"
            " checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )


def is_begun(connection: psycopg.Connection) -> bool:
    """Tell whether our schema is there."""
    table = connection.execute("SELECT to_regclass('analytics.migrations')").fetchone()
    return table is not None and table[0] is not None


def renamed(connection: psycopg.Connection) -> str:
    """Return a schema of another name that has tables like ours, "" where there is none."""
    row = connection.execute(
        # Ours may have been made since it was looked for, by another worker that starts.
        "SELECT nspname FROM pg_namespace WHERE nspname <> 'analytics'"
        " AND (SELECT count(*) FROM pg_class WHERE relnamespace = pg_namespace.oid"
        " AND relname IN ('migrations', 'hits', 'sessions', 'fingerprints', 'positions')) = 5 ORDER BY 1"
    ).fetchone()
    return str(row[0]) if row else ""


def _known(connection: psycopg.Connection) -> dict[int, str]:
    return _read(connection) if is_begun(connection) else {}


def _read(connection: psycopg.Connection) -> dict[int, str]:
    try:
        return dict(connection.execute("SELECT number, checksum FROM analytics.migrations").fetchall())
    except psycopg.errors.UndefinedColumn as error:
        raise MigrationError("The database has a table analytics.migrations that is not ours: rename it.") from error


def _missing(done: dict[int, str]) -> list[Migration]:
    """Return what is not done yet. Raises MigrationError where a file was changed since."""
    found = migrations()
    for migration in found:
        if (checksum := done.get(migration.number, migration.checksum)) != migration.checksum:
            raise MigrationError(
                f"Migration {migration.name} was applied with checksum {checksum[:12]}…, the file has "
                f"{migration.checksum[:12]}…: applied migrations must not change; restore the file."
            )
    return [migration for migration in found if migration.number not in done]
