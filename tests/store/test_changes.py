"""What an operator changes in our tables, and changes back, leaves no trace in a connection that lives on."""

from __future__ import annotations

from contextlib import closing
from typing import LiteralString

import psycopg
import pytest

from asgi_analytics.store.postgres import PostgresStore
from tests.record.rows import batch, fetch, hit, one

from .folding import name, write_hits

COUNT = "SELECT count(*) AS n FROM analytics.hits"


def test_hits_get_in_again_when_a_rule_that_took_them_is_gone(store: PostgresStore, dsn: str) -> None:
    for _ in range(10):  # the driver has its own plans for what comes often
        write_hits(store, b"A", 1)
    fetch(dsn, "CREATE RULE away AS ON INSERT TO analytics.hits DO INSTEAD NOTHING")
    write_hits(store, b"A", 1)
    fetch(dsn, "DROP RULE away ON analytics.hits")
    before = one(dsn, COUNT)["n"]
    write_hits(store, b"A", 3)
    assert one(dsn, COUNT)["n"] == before + 3


@pytest.mark.parametrize("kind", ["numeric", "text"])
def test_a_position_is_a_number_whatever_type_its_column_has(
    store: PostgresStore, dsn: str, kind: LiteralString
) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "ALTER TABLE analytics.positions ALTER segment TYPE " + kind + ", ALTER position TYPE " + kind
        )
    moved = batch([hit()] * 2)
    assert store.position(moved.journal) == (0, 0)
    store.write(moved)
    store.write(moved)
    assert [type(part) for part in store.position(moved.journal)] == [int, int]
    assert one(dsn, COUNT)["n"] == 2


def test_a_position_is_kept_for_as_long_as_its_worker_lives(store: PostgresStore, dsn: str) -> None:
    store.position(name(b"A"), own=True)  # the other is of a worker that has ended
    for journal in (b"A", b"B"):
        write_hits(store, journal, 1)
    fetch(dsn, "UPDATE analytics.positions SET updated_at = now() - interval '91 days'")
    store.tidy()
    assert [row["journal"] for row in fetch(dsn, "SELECT journal FROM analytics.positions")] == [name(b"A")]


def test_sequences_that_logical_replication_left_behind_are_caught_up_with(dsn: str) -> None:
    """It carries rows, and no sequences: what was counted by them met the rows that there were."""
    fetch(dsn, "INSERT INTO analytics.rulings (kind, fingerprint, reason, made_by, until)"
               " SELECT 'ban', gen_random_uuid(), '', '', 'infinity' FROM generate_series(1, 5)")  # fmt: skip
    fetch(dsn, "INSERT INTO analytics.quarantine (journal, segment, position, kind, columns, raw, error)"
               " SELECT gen_random_uuid(), 1, 0, 'hit', '{}', '', '' FROM generate_series(1, 5)")  # fmt: skip
    fetch(dsn, "ALTER SEQUENCE analytics.ruling_revisions RESTART; ALTER SEQUENCE analytics.quarantine_id_seq RESTART")
    poison = batch([hit()])
    with closing(PostgresStore(lambda: dsn)) as store:
        store.connect()
        store.position(poison.journal)
        store.quarantine(poison, "no", "22021")
        fetch(dsn, "UPDATE analytics.rulings SET lifted_at = now()")
        store.connect()
    assert [row["id"] for row in fetch(dsn, "SELECT id FROM analytics.quarantine ORDER BY id")] == [*range(1, 7)]
    revisions = fetch(dsn, "SELECT revision FROM analytics.rulings ORDER BY 1")
    assert [row["revision"] for row in revisions] == [*range(6, 11)]
