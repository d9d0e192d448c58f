"""Rows that are set aside: with their bytes, once, and together with the position behind them."""

from __future__ import annotations

import pytest

from asgi_analytics.batch import DAMAGED, DECISION, HIT, REFUSED, Batch, Frame, Frames
from asgi_analytics.errors import RowRejected
from asgi_analytics.store.postgres import PostgresStore
from tests.record.rows import COLUMNS, batch, deliver, fetch, hit, one


def test_damaged_frames_are_set_aside_with_their_bytes(store: PostgresStore, dsn: str) -> None:
    sound = batch([hit()])
    broken = Batch(
        sound.journal,
        1,
        COLUMNS,
        Frames([*sound.frames, Frame(DAMAGED, b"\0\xff", sound.end, sound.end + 2)]),
        sound.end + 2,
    )
    deliver(store, broken)
    row = one(dsn, "SELECT kind, raw, position FROM analytics.quarantine")
    assert row == {"kind": "frame", "raw": b"\0\xff", "position": sound.end}
    assert one(dsn, "SELECT rows, quarantined FROM analytics.positions") == {"rows": 1, "quarantined": 1}


def test_what_was_set_aside_is_not_set_aside_again(store: PostgresStore, dsn: str) -> None:
    moved = batch([hit("/poison")])
    store.position(moved.journal)
    store.quarantine(moved, "no", "22021")
    fetch(dsn, "DELETE FROM analytics.positions")
    store.position(moved.journal)
    store.quarantine(moved, "no", "22021")
    assert len(fetch(dsn, "SELECT id FROM analytics.quarantine")) == 1


@pytest.mark.parametrize(
    ("kind", "name"), [(HIT, "hit"), (DECISION, "decision"), (REFUSED, "refusal"), (DAMAGED, "frame")]
)
def test_what_is_set_aside_says_of_what_kind_it_is_and_which_columns_it_has(
    store: PostgresStore, dsn: str, kind: bytes, name: str
) -> None:
    moved = batch([b"poison"], kind=kind)
    store.position(moved.journal)
    store.quarantine(moved, "no", "22021")
    row = one(dsn, "SELECT kind, columns, raw FROM analytics.quarantine")
    assert (row["kind"], tuple(row["columns"]), row["raw"]) == (name, COLUMNS.get(kind, ()), b"poison")


def test_a_row_is_set_aside_with_the_position_behind_it_or_not_at_all(store: PostgresStore, dsn: str) -> None:
    moved = batch([hit("/poison")])
    store.position(moved.journal)
    fetch(dsn, "ALTER TABLE analytics.positions ADD CHECK (quarantined = 0)")
    with pytest.raises(RowRejected):
        store.quarantine(moved, "no", "22021")
    assert fetch(dsn, "SELECT id FROM analytics.quarantine") == []
