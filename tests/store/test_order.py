"""The order in which transfers, pardons and transfers of refusals lock rows: none waits for another in a circle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any
from uuid import UUID

import psycopg

from asgi_analytics.batch import REFUSED, Batch, Frames
from asgi_analytics.record.refusals import Refusals
from asgi_analytics.store import rulings
from asgi_analytics.store.postgres import PostgresStore
from asgi_analytics.store.rulings import Reach, Target
from tests.record.rows import COLUMNS, NOW_US, batch, fetch, finished, hit, identity, one
from tests.waiting import wait_until

from .folding import name, write
from .test_incidents import block

WAITING = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted) AS waits"
UUID_OF = "SELECT fingerprint FROM analytics.fingerprints WHERE fingerprint = encode(%s, 'hex')::uuid FOR UPDATE NOWAIT"


@contextmanager
def held_up(dsn: str, task: Any, query: str, *parameters: Any) -> Iterator[psycopg.Connection]:
    """A session that holds what a query locks, with a thread that waits for it in the block."""
    with psycopg.connect(dsn) as other:
        other.execute(query.encode(), parameters)
        waiter = Thread(target=task)
        waiter.start()
        wait_until(lambda: bool(one(dsn, WAITING)["waits"]))
        yield other
    waiter.join(10)


def refusal(visitor: bytes) -> bytes:
    """A row of a refusal past the rate."""
    counted, row = Refusals("default"), None
    done = finished(identity(visitor), 0, 3, NOW_US * 1000)
    while row is None:
        row = counted.count(done)
    return row


def with_refusals(hits: list[bytes], refused: list[bytes]) -> Batch:
    """A batch with rows of both kinds."""
    served, counted = batch(hits), batch(refused, kind=REFUSED)
    return Batch(served.journal, 1, COLUMNS, Frames([*served.frames, *counted.frames]), counted.end)


def test_visitors_of_hits_and_of_refusals_are_locked_in_one_order(store: PostgresStore, dsn: str) -> None:
    write(store, b"A", hit(visitor=b"a", session=b"a"), hit(visitor=b"z", session=b"z"))
    moved = with_refusals([hit(visitor=b"z", session=b"z")], [refusal(b"a")])
    store.position(moved.journal)
    with held_up(dsn, lambda: store.write(moved), UUID_OF, name(b"a")) as other:
        other.execute(UUID_OF, (name(b"z"),))
    rows = fetch(dsn, "SELECT hits, refusals FROM analytics.fingerprints ORDER BY fingerprint")
    assert [tuple(row.values()) for row in rows] == [(2, 1), (2, 0)]


def test_a_pardon_waits_for_client_networks_before_it_numbers_rulings(store: PostgresStore, dsn: str) -> None:
    block(store)
    visitor = Target("visitor", "visitor", fingerprint=UUID(bytes=name(b"visitor")))
    with rulings.connect(dsn) as registry:
        registry.rule("ban", visitor, rulings.PARDON_LENGTH, "scraping", "me")

        def pardon() -> None:
            registry.pardon(visitor, Reach(), "ours", "me")

        with held_up(dsn, pardon, "SELECT FROM analytics.networks FOR UPDATE") as other:
            free = other.execute("SELECT pg_try_advisory_xact_lock(hashtext('analytics.rulings'))").fetchone()
    assert free == (True,), "a transfer that bans has the network, and numbers its ruling next"
    assert one(dsn, "SELECT count(*) AS n FROM analytics.rulings WHERE lifted_at IS NOT NULL")["n"] == 1
