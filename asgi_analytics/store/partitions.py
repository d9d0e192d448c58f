"""The day partitions of hits, made ahead of need. Lock waits are short, for the reason in migrate.py."""

from __future__ import annotations

import time
from datetime import date

import psycopg

from . import queries

DAYS_AHEAD = 7  # for which partitions are made
ATTEMPTS = 5  # to lock the table
LIMIT = "SET LOCAL lock_timeout = '500ms'"


def make_partitions(connection: psycopg.Connection) -> None:
    """Make the day partitions from yesterday to a week ahead, over an autocommit connection; to tomorrow where others
    make some, too.

    If the table is locked, those that are not needed yet are left to a later call. Raises psycopg.Error.
    """
    for attempt in range(ATTEMPTS):
        try:
            with connection.transaction():
                connection.execute(LIMIT)
                connection.execute(queries.load("partitions")["make_partitions"], {"ahead": DAYS_AHEAD})
                return
        except psycopg.errors.LockNotAvailable:
            if not _lacks_one(connection):
                return
            if attempt == ATTEMPTS - 1:
                raise
        time.sleep(0.5)


def make_partitions_of_staging(connection: psycopg.Connection) -> bool:
    """Make those that the rows in staging lack; returns whether there was one to make. Raises psycopg.Error."""
    row = connection.execute(queries.load("partitions")["make_partitions_of_staging"]).fetchone()
    return bool(row and row[0])


def missing_partitions(connection: psycopg.Connection) -> list[date]:
    """Return which of today and tomorrow have none; their hits go to the default one. Raises psycopg.Error."""
    return [day for (day,) in connection.execute(queries.load("partitions")["missing_partitions"]).fetchall()]


def _lacks_one(connection: psycopg.Connection) -> bool:
    """Tell whether today or tomorrow has none; False where the default partition is locked, so unknown."""
    try:
        with connection.transaction():
            connection.execute(LIMIT)
            return bool(missing_partitions(connection))
    except psycopg.errors.LockNotAvailable:
        return False
