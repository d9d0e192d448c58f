"""Batches of hits that a store folds."""

from __future__ import annotations

from typing import Any

from asgi_analytics.model import Merged
from asgi_analytics.store.postgres import PostgresStore
from tests.record.rows import batch, deliver, fetch, hit

MINUTE = 60_000_000
HOUR = 60 * MINUTE


def name(text: bytes) -> bytes:
    return text.ljust(16, b".")


def write(store: PostgresStore, journal: bytes, *rows: bytes) -> list[Merged]:
    return deliver(store, batch(rows, journal))


def write_hits(store: PostgresStore, journal: bytes, count: int, **changes: Any) -> list[Merged]:
    return write(store, journal, *[hit(**changes) for _ in range(count)])


def sessions(dsn: str) -> list[tuple[bytes, int]]:
    return [
        (row["id"], row["hits"]) for row in fetch(dsn, "SELECT id, hits FROM analytics.sessions ORDER BY started_at")
    ]
