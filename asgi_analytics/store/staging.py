"""The temporary tables that rows go through on their way in, and how they get there: COPY in binary format."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from uuid import UUID

import psycopg
from psycopg import sql

from ..clock import release_gil
from . import queries

COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
COPY_TRAILER = struct.pack("!h", -1)
SLICE = 1_000  # rows that are sent before other threads may run
TEMPORARY = ("create_staging", "create_decided", "create_named", "create_begun", "create_noticed", "create_refused")
BEHIND = {"staging": "analytics.hits", "decided": "analytics.decisions"}  # staging table → the table that it feeds


class Staging:
    """Makes and fills the temporary tables of whatever connection it is given."""

    def __init__(self) -> None:
        self._queries = queries.load("staging")
        self._known = {table: set(re.findall(r"\w+", self._queries[f"create_{table}"])) for table in BEHIND}

    def make(self, connection: psycopg.Connection) -> None:
        """Create those that are missing. Raises psycopg.Error."""
        for query in TEMPORARY:
            connection.execute(self._queries[query])

    def drop(self, connection: psycopg.Connection) -> None:
        """Drop all of them. Raises psycopg.Error."""
        connection.execute(self._queries["drop_temporary"])

    def fill(self, connection: psycopg.Connection, table: str, columns: Sequence[str], rows: Sequence[bytes]) -> None:
        """Copy rows in. Raises psycopg.Error."""
        if table in BEHIND and not self._known[table].issuperset(columns):
            self._widen(connection, table, columns)
        place = sql.Identifier("pg_temp", table)
        query = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(place, listed(columns))
        with connection.cursor() as cursor, cursor.copy(query) as copy:
            copy.write(COPY_HEADER)
            for at in range(0, len(rows), SLICE):
                copy.write(b"".join(rows[at : at + SLICE]))
                release_gil()
            copy.write(COPY_TRAILER)

    def stored(self, connection: psycopg.Connection, columns: Sequence[str], hits: Sequence[bytes]) -> set[bytes]:
        """Return ids of stored hits, those of `hits` among them, and leave staging empty. Raises psycopg.Error."""
        self.fill(connection, "staging", columns, hits)
        first, last = connection.execute(self._queries["times_in_staging"]).fetchone() or (None, None)
        # Not prepared: a generic plan knows no times.
        rows = connection.execute(self._queries["stored_at"], {"first": first, "last": last}, prepare=False)
        found = {UUID(row[0]).bytes for row in rows}
        connection.execute(self._queries["clear_staging"])
        return found

    def _widen(self, connection: psycopg.Connection, table: str, columns: Sequence[str]) -> None:
        """Add columns that a later version's journal names, if that version has migrated the database."""
        wanted = {"staged": f"pg_temp.{table}", "table": BEHIND[table], "columns": list(columns)}
        for name, kind in connection.execute(self._queries["columns_of_later_versions"], wanted).fetchall():
            add = sql.SQL("ALTER TABLE {} ADD COLUMN {} {}")
            connection.execute(add.format(sql.Identifier("pg_temp", table), sql.Identifier(name), sql.SQL(kind)))


def listed(columns: Sequence[str]) -> sql.Composed:
    """Return column names as a comma-separated list."""
    return sql.SQL(", ").join(map(sql.Identifier, columns))
