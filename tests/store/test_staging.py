"""The temporary tables of a transfer: all rows get in, also what later versions name, and nothing stays."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from asgi_analytics.store.doubt import KEY, keys
from asgi_analytics.store.postgres import PostgresStore
from asgi_analytics.store.staging import SLICE, TEMPORARY, Staging
from tests.record.rows import batch, deliver, fetch, hit, one

NAMES = [query.removeprefix("create_") for query in TEMPORARY]


@pytest.fixture
def connection(dsn: str) -> Iterator[psycopg.Connection]:
    """A connection with the temporary tables."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        Staging().make(connection)
        yield connection


def count(connection: psycopg.Connection, name: str) -> int:
    query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("pg_temp", name))
    (found,) = connection.execute(query).fetchone() or (0,)
    return int(found)


def test_of_many_rows_none_is_left_behind(store: PostgresStore, dsn: str) -> None:
    deliver(store, batch([hit(f"/{number}") for number in range(2 * SLICE + 1)]))
    assert one(dsn, "SELECT count(DISTINCT path) AS n FROM analytics.hits")["n"] == 2 * SLICE + 1


@pytest.mark.parametrize(("name", "table"), [("staging", "hits"), ("decided", "decisions")])
def test_all_that_a_later_version_names_is_taken_in(
    connection: psycopg.Connection, dsn: str, name: str, table: str
) -> None:
    fetch(dsn, f"ALTER TABLE analytics.{table} ADD COLUMN of_tomorrow bigint, ADD COLUMN later_still varchar(3)")
    row = struct.pack("!hi16siqi", 3, 16, b"i" * 16, 8, 7, 3) + b"new"
    with connection.transaction():
        Staging().fill(connection, name, ["id", "of_tomorrow", "later_still"], [row])
        found = connection.execute(f"SELECT of_tomorrow, later_still FROM pg_temp.{name}".encode()).fetchall()
    assert found == [(7, "new")]


@pytest.mark.parametrize("name", NAMES)
def test_what_one_transfer_put_there_the_next_does_not_find(connection: psycopg.Connection, name: str) -> None:
    needed = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnotnull AND attnum > 0",
        [f"pg_temp.{name}"],
    ).fetchall()
    for (column,) in needed:
        query = sql.SQL("ALTER TABLE {} ALTER {} DROP NOT NULL")
        connection.execute(query.format(sql.Identifier("pg_temp", name), sql.Identifier(column)))
    with connection.transaction():
        connection.execute(sql.SQL("INSERT INTO {} DEFAULT VALUES").format(sql.Identifier("pg_temp", name)))
        assert count(connection, name) == 1
    assert count(connection, name) == 0


def test_all_of_them_are_dropped_and_made_again(connection: psycopg.Connection) -> None:
    def there() -> list[str]:
        query = "SELECT to_regclass(%s) IS NOT NULL"
        return [name for name in NAMES if connection.execute(query, [f"pg_temp.{name}"]).fetchone() == (True,)]

    staging = Staging()
    assert there() == NAMES
    staging.drop(connection)
    assert there() == []
    staging.make(connection)
    assert there() == NAMES


def test_who_looks_for_stored_hits_locks_the_partitions_of_their_days_only(connection: psycopg.Connection) -> None:
    """Of years of days, each with its indexes, there may be more than a server has locks, and no worker would start."""
    connection.execute("SELECT analytics.ensure_partitions(current_date - 40, current_date)")
    locked = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation::regclass::text ~ 'hits_2[0-9]*$'"
    known = list(keys(batch([hit(f"/{number}") for number in range(3)])).values())
    staging = Staging()
    for _ in range(12):  # the driver, and then the server, has one plan for what comes often
        with connection.transaction():
            staging.stored(connection, KEY, known)
            assert connection.execute(locked).fetchone() == (1,)
