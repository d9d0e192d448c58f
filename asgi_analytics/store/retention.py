"""Retention: what is older than the time to keep is deleted: hits by partitions, other rows in batches."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import timedelta

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from . import queries
from .command_session import command_errors
from .connection import ServerSession, connect_command

# Hits last: where a long reader or a publication blocks dropping them, all else is deleted by then.
TABLES = ("sessions", "fingerprints", "decisions", "refusals", "quarantine", "hits")
PARTITIONS = "partitions"
MAX_ROWS = 10_000  # of a table in one call: the writer has hits to deliver, too
MAX_PARTITIONS = 30  # dropped in one call
COUNTING = {"statement_timeout": "0", "transaction_timeout": "0"}  # counting all hits may take long
PATIENCE = 86_400.0  # seconds


@contextlib.contextmanager
def connect(dsn: str) -> Iterator[ServerSession]:
    """Open a session for the command `purge`. Raises StoreUnavailable, StoreMisconfigured."""
    with command_errors(), contextlib.closing(connect_command(dsn, patience=PATIENCE)) as connection:
        yield ServerSession(connection, COUNTING)


def forget(
    session: ServerSession, kept: timedelta, waits: bool = True, total: Counter[str] | None = None
) -> Mapping[str, int]:
    """Delete a part of what is older than `kept`: about MAX_ROWS of each table, and hits when all else is deleted.

    Returns how many partitions of hits were dropped, and how many rows of each of TABLES were deleted, and adds that to
    a `total`, also before an error. Unless it `waits`, it leaves what another is about to delete to that one.
    Raises psycopg.Error, such as for a partition that somebody reads.
    """
    done = Counter(dict.fromkeys((PARTITIONS, *TABLES), 0))
    try:
        with contextlib.suppress(_Busy):
            for table in TABLES:
                if table == "hits":
                    if not may_be_more(done):
                        _drop_partitions(session, kept, waits, done)
                    if may_be_more(done):
                        break
                with _transaction(session, waits) as connection:
                    query = queries.load("retention")[f"forget_{table}"]
                    done[table] = connection.execute(query, {"kept": kept, "most": MAX_ROWS}).rowcount
    finally:
        if total is not None:
            total.update(done)
    return done


class _Busy(Exception):
    """Another deletes."""


def may_be_more(done: Mapping[str, int]) -> bool:
    """Tell whether `forget`, which returned this, may have left rows that were outdated when it began."""
    return done[PARTITIONS] >= MAX_PARTITIONS or any(done[table] >= MAX_ROWS for table in TABLES)


def outdated(session: ServerSession, kept: timedelta) -> Mapping[str, int]:
    """Count what is older than `kept`, by the keys of `forget`; hits of whole partitions are among the hits.

    Raises psycopg.Error.
    """
    with _transaction(session, deletes=False) as connection, connection.cursor(row_factory=dict_row) as cursor:
        partitions = cursor.execute(queries.load("retention")["outdated_partitions"], {"kept": kept}).fetchall()
        rows = cursor.execute(queries.load("retention")["outdated_rows"], {"kept": kept}).fetchone()
    return {PARTITIONS: len(partitions), **(rows or {})}


def _drop_partitions(session: ServerSession, kept: timedelta, waits: bool, done: Counter[str]) -> None:
    with _transaction(session, waits) as connection:
        outdated = connection.execute(queries.load("retention")["outdated_partitions"], {"kept": kept}).fetchall()
    for name in outdated[:MAX_PARTITIONS]:  # a transaction each: dropping one locks the whole table for a moment
        with _transaction(session, waits) as connection:
            connection.execute("LOCK TABLE ONLY analytics.hits")
            # Dropped meanwhile by another, which counts it, or detached: then it is an operator's to keep.
            if name in connection.execute(queries.load("retention")["outdated_partitions"], {"kept": kept}).fetchall():
                connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(*name)))
                done[PARTITIONS] += 1


@contextlib.contextmanager
def _transaction(session: ServerSession, waits: bool = True, deletes: bool = True) -> Iterator[psycopg.Connection]:
    with session.transaction() as connection:
        begin = queries.load("retention")["begin_retention"]
        *_, is_alone = connection.execute(begin, {"deletes": deletes, "waits": waits}).fetchone() or (None,)
        if is_alone is False:
            raise _Busy
        yield connection
