"""How commands reach a database, or bring it up to date: a connection each, with errors worded for the operator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg.rows import class_row

from ..columns import one_line
from ..errors import StoreError, StoreMisconfigured, StoreUnavailable
from . import migrate, partitions, queries
from .connection import GRACE, ServerSession, connect_command

MISSING = ("42P01", "42703", "42883", "3F000")  # SQLSTATEs: table, column, function, schema
LOCKED = "55P03"  # SQLSTATE lock_not_available, after lock_timeout
HELD = "Another session holds a table or row that this needs: see pg_locks and pg_stat_activity, and try again."
LOCK_PATIENCE = "10s"  # that a command waits for a lock
PATIENCE = 300.0  # seconds that a statement of a command may take
NO_SCHEMA = (
    "The database has no schema of this version ({}): run `asgi-analytics migrate`, and where that finds nothing to "
    "do, `doctor`."
)
READ_ONLY = "25006"
GONE = ("08", "53", "57")  # SQLSTATEs: connection lost, too many of them, server shutting down or starting, too slow
Row = TypeVar("Row")


class Migrated(NamedTuple):
    """The names of the migrations applied, and the numbers of those that only a later version knows."""

    applied: Sequence[str]
    newer: Sequence[str]


class CommandQueries:
    """The queries of one file, for a command. Raises StoreUnavailable, StoreMisconfigured."""

    def __init__(self, session: ServerSession, file: str) -> None:
        self._session = session
        self._queries = queries.load(file)

    def _all(self, query: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        with command_errors(), self._session.statement() as connection:
            return connection.execute(self._queries[query], parameters).fetchall()

    def _rows(self, kind: type[Row], query: str, parameters: Mapping[str, Any] | None = None) -> list[Row]:
        with command_errors(), self._session.statement() as connection:
            cursor = connection.cursor(row_factory=class_row(kind))
            return cursor.execute(self._queries[query], parameters).fetchall()


@contextlib.contextmanager
def opened(dsn: str, patience: float = PATIENCE, **settings: str) -> Iterator[ServerSession]:
    """Open a session with these settings for the block. Raises StoreUnavailable, StoreMisconfigured if that fails.

    A statement may take `patience` seconds: the server ends one that takes longer, and if it is frozen, we do.
    """
    with command_errors():
        connection = connect_command(dsn, patience=patience + GRACE)
    with contextlib.closing(connection):
        with command_errors():
            limits = {"lock_timeout": LOCK_PATIENCE, "statement_timeout": f"{patience * 1e3:.0f}ms"}
            session = ServerSession(connection, {**limits, **settings})
        yield session


def migrate_all(dsn: str) -> Migrated:
    """Bring the database up to date, partitions included. Raises StoreError."""
    with command_errors():
        applied = migrate.migrate(dsn)
        with opened(dsn) as session, session.statement() as connection:
            partitions.make_partitions(connection)
            return Migrated(applied, migrate.schema_state(connection).newer)


@contextlib.contextmanager
def command_errors() -> Iterator[None]:
    """Turn the driver's errors into ours, worded for whoever gave the command."""
    try:
        yield
    except psycopg.Error as error:
        raise _ours(error) from error
    except UnicodeEncodeError as error:  # an argument of bytes that are not UTF-8
        raise StoreMisconfigured(f"{error.object!r} is not UTF-8, which all text in the database is.") from None


def _ours(error: psycopg.Error) -> StoreError:
    text = one_line(error.diag.message_primary or error)  # without the position in our query
    if error.sqlstate == LOCKED:
        return StoreUnavailable(HELD)
    if error.sqlstate in MISSING:
        return StoreMisconfigured(NO_SCHEMA.format(text))
    if error.sqlstate == READ_ONLY:
        return StoreMisconfigured(f"{text}: name the primary in the DSN, or SET default_transaction_read_only = off")
    if error.sqlstate is None and isinstance(error, psycopg.OperationalError):
        return StoreUnavailable(f"No connection to Postgres: {text}")
    if (error.sqlstate or "").startswith(GONE):
        return StoreUnavailable(text)
    return StoreMisconfigured(text)
