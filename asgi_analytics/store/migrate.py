"""Applies the numbered files of `migrations/`: forward only, checksummed, one process at a time."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import LiteralString

import psycopg

from ..errors import MigrationError

LOCK = 0x6173_6769  # "asgi"
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
    """Bring the database up to date and return the names applied. Raises MigrationError, psycopg.Error."""
    with psycopg.connect(dsn, autocommit=True, application_name="asgi-analytics migrate") as connection:
        return apply(connection)


def apply(connection: psycopg.Connection) -> list[str]:
    """Apply what is missing over an autocommit connection."""
    with _only_one(connection):
        done = _applied(connection)
        applied = []
        for migration in migrations():
            if migration.number in done:
                _compare(migration, done[migration.number])
                continue
            with connection.transaction():
                connection.execute(migration.text.encode())
                connection.execute(
                    "INSERT INTO analytics.migrations (number, name, checksum) VALUES (%s, %s, %s)",
                    (migration.number, migration.name, migration.checksum),
                )
            applied.append(migration.name)
    return applied


@dataclass(frozen=True, slots=True)
class Standing:
    """How a database compares with the files: what it lacks, what a later version applied, what was changed since."""

    pending: list[str]
    newer: list[str]
    changed: list[str]


def standing(connection: psycopg.Connection) -> Standing:
    """Compare a database with the files; writes nothing."""
    table = connection.execute("SELECT to_regclass('analytics.migrations')").fetchone()
    done = {} if table is None or table[0] is None else _read(connection)
    known = {migration.number: migration for migration in migrations()}
    return Standing(
        [one.name for one in known.values() if one.number not in done],
        [f"{number:04}" for number in sorted(done.keys() - known.keys())],
        [one.name for one in known.values() if done.get(one.number, one.checksum) != one.checksum],
    )


def pending(connection: psycopg.Connection) -> list[str]:
    """Return the names that `apply` would apply; writes nothing."""
    return standing(connection).pending


def _folder() -> Traversable:
    packaged = files("asgi_analytics").joinpath("migrations")
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "migrations"


@contextmanager
def _only_one(connection: psycopg.Connection) -> Iterator[None]:
    # Polled: a session that waits inside pg_advisory_lock() holds a snapshot and can deadlock with index builds.
    while not _flag(connection, "SELECT pg_try_advisory_lock(%s)"):
        time.sleep(0.05)
    try:
        yield
    finally:
        connection.execute("SELECT pg_advisory_unlock(%s)", (LOCK,))


def _flag(connection: psycopg.Connection, query: LiteralString) -> bool:
    row = connection.execute(query, (LOCK,)).fetchone()
    return bool(row and row[0])


def _applied(connection: psycopg.Connection) -> dict[int, str]:
    table = connection.execute("SELECT to_regclass('analytics.migrations')").fetchone()
    if table is None or table[0] is None:
        connection.execute("CREATE SCHEMA IF NOT EXISTS analytics")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS analytics.migrations (number integer PRIMARY KEY, name text NOT NULL,"
            " checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
    return _read(connection)


def _read(connection: psycopg.Connection) -> dict[int, str]:
    return dict(connection.execute("SELECT number, checksum FROM analytics.migrations").fetchall())


def _compare(migration: Migration, checksum: str) -> None:
    if migration.checksum != checksum:
        raise MigrationError(
            f"Migration {migration.name} was applied with checksum {checksum[:12]}…, the file has "
            f"{migration.checksum[:12]}…: applied migrations must not change; restore the file."
        )
