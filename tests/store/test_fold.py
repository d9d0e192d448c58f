from __future__ import annotations

import struct
import time
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Any

import psycopg
import pytest

from asgi_analytics.batch import HIT, Batch
from asgi_analytics.errors import RowRejected, StoreMisconfigured, StoreUnavailable
from asgi_analytics.model import Merged
from asgi_analytics.store import postgres, staging
from asgi_analytics.store.postgres import PostgresStore
from tests.record.rows import COLUMNS, NOW_US, batch, deliver, fetch, hit, one
from tests.waiting import wait_until

from .folding import HOUR, name, sessions, write, write_hits


def test_hits_sessions_and_fingerprints_are_written_together(store: PostgresStore, dsn: str) -> None:
    now_us = int(time.time() * 1e6)  # charges are those of the last two minutes
    write(
        store,
        b"A",
        hit("/in", page_view=True, time_us=now_us - 3, score=10),
        hit("/missing", status=404, time_us=now_us - 2),
        hit("/out", page_view=True, time_us=now_us - 1),
        hit("/", status=429, outcome="refused", level=2, time_us=now_us),
    )
    session = one(dsn, "SELECT * FROM analytics.sessions")
    assert (session["hits"], session["page_views"], session["errors"], session["refusals"]) == (4, 2, 1, 1)
    assert (session["entry_path"], session["exit_path"], session["bytes_sent"]) == ("/in", "/out", 40)
    assert (session["score"], session["level"]) == (10, 2)
    assert session["last_seen_at"] - session["started_at"] == timedelta(microseconds=3)
    seen = one(dsn, "SELECT * FROM analytics.fingerprints")
    assert (seen["hits"], seen["page_views"], seen["refusals"], seen["sessions"]) == (4, 2, 1, 1)
    assert (seen["charges"], seen["score"], seen["network"]) == (3, 10, name(b"network"))


def test_the_level_of_a_batch_is_that_of_its_last_change_by_time(store: PostgresStore) -> None:
    write_hits(store, b"A", 1, time_us=NOW_US - 5000)
    (merged,) = write(
        store,
        b"B",
        hit(level=2, level_before=1, time_us=NOW_US),
        hit(level=1, level_before=0, time_us=NOW_US - 1000),  # ended later
    )
    assert (merged.level, merged.level_changed_us) == (2, NOW_US)


def test_untracked_hits_are_stored_without_session_and_visitor(store: PostgresStore, dsn: str) -> None:
    from tests.record.rows import identity

    assert write(store, b"A", hit(visitor=identity(tracked=False), session=None)) == []
    assert one(dsn, "SELECT count(*) AS n FROM analytics.hits")["n"] == 1
    assert sessions(dsn) == []


def test_each_worker_learns_exactly_what_others_charged(store: PostgresStore) -> None:
    told = []
    for journal, count in ((b"A", 5), (b"B", 3), (b"A", 2), (b"B", 4), (b"B", 6), (b"A", 1)):
        merged = write_hits(store, journal, count, time_us=time.time_ns() // 1000)
        told.append(merged[0].remote if merged else None)
    # A alone; B learns A's 5; A learns B's 3; B learns A's 2; nothing new; A learns B's 4 + 6.
    assert told == [None, 5, 3, 2, 0, 10]


def write_in_one_minute(store: PostgresStore, *counts: tuple[bytes, int]) -> list[Merged]:
    """Write fresh hits by journal, in one transaction: its now() stands still, however long all that takes."""
    merged: list[Merged] = []
    with store._connected().transaction():
        row = store._connected().execute("SELECT (extract(epoch FROM now()) * 1000000)::bigint").fetchone()
        assert row is not None
        for journal, count in counts:
            merged = write_hits(store, journal, count, time_us=row[0])
            store._connected().execute("TRUNCATE staging, named, begun, noticed")  # as COMMIT does
    return merged


def test_a_third_worker_learns_the_charges_of_this_minute(store: PostgresStore) -> None:
    (merged,) = write_in_one_minute(store, (b"A", 5), (b"B", 3), (b"C", 1))
    assert merged.remote == 8


def test_old_hits_and_refusals_charge_nobody(store: PostgresStore) -> None:
    write_hits(store, b"A", 5, time_us=NOW_US - HOUR)
    (merged,) = write_hits(store, b"B", 3, outcome="refused")
    assert merged.remote == 0
    (merged,) = write_hits(store, b"A", 1)
    assert merged.remote == 0


def test_what_is_kept_of_workers_is_bounded(store: PostgresStore, dsn: str) -> None:
    for number in range(260):
        write_hits(store, b"%d" % number, 1)
    assert one(dsn, "SELECT length(seen::text) AS n FROM analytics.fingerprints")["n"] < 7000


def test_the_level_that_changed_last_counts(store: PostgresStore) -> None:
    write_hits(store, b"A", 1, level=1, level_before=0, time_us=NOW_US - 1000)
    (merged,) = write_hits(store, b"B", 1, level=2, level_before=1, time_us=NOW_US)
    assert (merged.level, merged.level_changed_us) == (2, NOW_US)
    (merged,) = write_hits(store, b"C", 1, level=0, level_before=1, time_us=NOW_US - 500)
    assert (merged.level, merged.level_changed_us) == (2, NOW_US)
    (merged,) = write_hits(store, b"A", 1, level=1)
    assert merged.level == 2, "a hit that changed no level says nothing new"


def test_a_high_score_flags_the_visitor_once(store: PostgresStore, dsn: str) -> None:
    query = "SELECT reputation, flagged, flag_reason, flagged_at FROM analytics.fingerprints"
    write_hits(store, b"A", 1, score=49)
    assert list(one(dsn, query).values()) == [50, False, None, None]
    write_hits(store, b"A", 1, score=50, time_us=NOW_US)
    flagged = one(dsn, query)
    assert list(flagged.values())[:3] == [40, True, "behavioural_score"]
    write_hits(store, b"B", 1, score=80, time_us=NOW_US + 1000)
    assert one(dsn, query) == flagged


def test_each_block_is_an_incident(store: PostgresStore, dsn: str) -> None:
    write(
        store,
        b"A",
        hit(level=3, level_before=2, time_us=NOW_US),
        hit(level=2, level_before=3, time_us=NOW_US + 1),
        hit(level=3, level_before=2, time_us=NOW_US + 2),
        hit(level=2, level_before=3, time_us=NOW_US + 3),
    )
    write_hits(store, b"B", 1, level=3, level_before=2, time_us=NOW_US - 1000)
    row = one(dsn, "SELECT abuse_incidents, last_abuse_at, level FROM analytics.fingerprints")
    assert (row["abuse_incidents"], row["level"]) == (3, 2)
    assert row["last_abuse_at"] == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=NOW_US + 2)


def test_the_peak_is_that_of_one_minute(store: PostgresStore, dsn: str) -> None:
    write_in_one_minute(store, (b"A", 4), (b"A", 2), (b"A", 3))
    assert one(dsn, "SELECT peak_per_minute FROM analytics.fingerprints")["peak_per_minute"] == 9


def test_a_batch_that_is_in_already_is_left_out(store: PostgresStore, dsn: str) -> None:
    moved = batch([hit(), hit()])
    store.position(moved.journal)
    for _ in range(2):
        assert store.write(moved) == []
        store.quarantine(moved, "no", None)
    assert one(dsn, "SELECT count(*) AS n FROM analytics.hits")["n"] == 2
    assert one(dsn, "SELECT count(*) AS n FROM analytics.quarantine")["n"] == 0
    assert store.position(moved.journal) == (1, moved.end)


def test_of_a_batch_that_is_partly_in_the_rest_is_written(store: PostgresStore, dsn: str) -> None:
    whole = batch([hit(f"/{n}") for n in range(5)])
    store.position(whole.journal)
    first, _ = whole.halves()
    store.write(first)
    store.write(whole)
    paths = [row["path"] for row in fetch(dsn, "SELECT path FROM analytics.hits ORDER BY path")]
    assert paths == ["/0", "/1", "/2", "/3", "/4"]


def test_a_batch_waits_for_the_ghost_of_its_predecessor(store: PostgresStore, dsn: str) -> None:
    """A commit that is still under way when the writer is back has moved fewer rows than the journal has by now."""
    whole = batch([hit(f"/{n}") for n in range(4)])
    store.position(whole.journal)
    ghost = PostgresStore(lambda: dsn)
    ghost.connect()
    with ghost._connected().transaction():
        ghost.write(whole.halves()[0])  # in a savepoint: not committed yet
        successor = Thread(target=store.write, args=(whole,))
        successor.start()
        successor.join(0.3)
        assert successor.is_alive()
    successor.join(10)
    ghost.close()
    assert one(dsn, "SELECT count(*) AS n, count(DISTINCT path) AS paths FROM analytics.hits") == {"n": 4, "paths": 4}


def begin(dsn: str, moved: Batch) -> None:
    """Lock the position of a journal and send the rows of a batch."""
    ghost = PostgresStore(lambda: dsn)
    ghost.connect()
    with ghost._transfer() as connection:
        ghost._positions.lock(connection, moved)
        ghost._staging.fill(connection, "staging", moved.columns[HIT], moved.frames.rows(HIT))


def take_over(store: PostgresStore, moved: Batch, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Move a batch, once the server waits for more rows of another."""
    monkeypatch.undo()
    waiting = (
        "SELECT count(*) AS n FROM pg_stat_activity WHERE starts_with(query, 'COPY') AND wait_event = 'ClientRead'"
    )
    wait_until(lambda: one(dsn, waiting)["n"] == 1)
    monkeypatch.setattr(postgres, "VANISHED", 0.0)
    store.connect()
    store.write(moved)


def test_a_ghost_whose_connection_lives_is_ended(
    store: PostgresStore, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a proxy that froze leaves it: the server waits for more rows, and no time-out of it ends that."""
    moved = batch([hit()])
    store.position(moved.journal)
    monkeypatch.setattr(staging, "release_gil", lambda: take_over(store, moved, dsn, monkeypatch))
    with pytest.raises(StoreUnavailable, match="terminating connection"):
        begin(dsn, moved)
    assert len(fetch(dsn, "SELECT id FROM analytics.hits")) == 1


def test_a_rejected_batch_leaves_nothing_behind(store: PostgresStore, dsn: str) -> None:
    moved = batch([hit(), hit()[:-3] + b"xxx"])
    before = store.position(moved.journal)
    with pytest.raises(RowRejected):
        store.write(moved)
    assert store.position(moved.journal) == before
    assert sessions(dsn) == []


def test_workers_whose_clock_is_behind_agree_on_salts_too(store: PostgresStore, dsn: str) -> None:
    periods = ["2020-01-01", "2020-01-02", "2020-01-03"]
    first = store.exchange_salts([], periods)
    assert sorted(salt.period for salt in first) == periods
    assert {salt.key for salt in store.exchange_salts([], periods)} == {salt.key for salt in first}
    store.exchange_salts([], ["2100-01-01"])  # who is in time forgets them
    assert [row["period"].year for row in fetch(dsn, "SELECT period FROM analytics.salts")] == [2100]


def test_partitions_are_there_before_their_day(store: PostgresStore, dsn: str) -> None:
    store.make_partitions()
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "SELECT tablename FROM pg_tables WHERE tablename LIKE 'hits\\_2%' ORDER BY 1"
        ).fetchall()
    today = datetime.now(UTC).date()
    wanted = [f"hits_{today + timedelta(days=shift):%Y%m%d}" for shift in range(-1, 8)]
    assert [table for (table,) in rows][: len(wanted)] == wanted
    store.make_partitions()


def test_hits_outside_all_partitions_are_stored_too(store: PostgresStore, dsn: str) -> None:
    store.make_partitions()
    write(store, b"A", hit("/old", time_us=0), hit("/now"), hit("/future", time_us=NOW_US + 1000 * 24 * HOUR))
    query = "SELECT path FROM analytics.hits_default ORDER BY path"
    assert [row["path"] for row in fetch(dsn, query)] == ["/future", "/old"]


@pytest.mark.parametrize(
    ("column", "kept"),
    [
        ("text NOT NULL DEFAULT 'x'", "x"),
        ("text DEFAULT 'x'", "x"),
        ("integer GENERATED ALWAYS AS (length(path)) STORED", 4),
    ],
    ids=["not-null", "default", "generated"],
)
def test_a_column_that_an_operator_added_to_hits_gets_what_it_is_declared_with(
    store: PostgresStore, dsn: str, column: str, kept: Any
) -> None:
    fetch(dsn, f"ALTER TABLE analytics.hits ADD COLUMN added {column}")
    write(store, b"A", hit("/old"))  # over a connection from before
    store.connect()
    write(store, b"A", hit("/new"))
    assert [row["added"] for row in fetch(dsn, "SELECT added FROM analytics.hits")] == [kept, kept]


def test_human_traffic_is_without_bots_and_refusals(store: PostgresStore, dsn: str) -> None:
    from asgi_analytics.model import Agent
    from tests.record.rows import identity

    crawler = identity(b"crawler", agent=Agent(bot_class="search-engine", crawler="Examplebot"))
    nameless = identity(b"nameless", agent=Agent(os="Linux"))
    write(
        store,
        b"A",
        hit("/person", visitor=b"1", session=b"1", page_view=True),
        hit("/script", visitor=b"2", session=b"2", page_view=True, score=50),
        hit("/blocked", visitor=b"3", session=b"3", page_view=True, level=3),
        hit("/refused", visitor=b"4", session=b"4", status=429, outcome="refused"),
        hit("/crawled", visitor=crawler, session=b"5", page_view=True),
        hit("/api", visitor=b"6", session=b"6"),
        hit("/program", visitor=nameless, session=b"7", page_view=True),
    )
    hits = fetch(dsn, "SELECT path FROM analytics.human_hits ORDER BY path")
    assert [row["path"] for row in hits] == ["/api", "/person"]
    assert [row["entry_path"] for row in fetch(dsn, "SELECT entry_path FROM analytics.human_sessions")] == ["/person"]


@pytest.mark.parametrize("clears", [True, False])
def test_a_writer_that_lives_long_does_not_keep_the_database_from_being_frozen(
    store: PostgresStore, dsn: str, clears: bool
) -> None:
    """Nor does one that cannot clear away what is old."""
    write_hits(store, b"A", 1)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DO $$ BEGIN FOR i IN 1..2000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
        fetch(dsn, "SELECT 1" if clears else "ALTER TABLE analytics.networks RENAME TO kept")
        with nullcontext() if clears else pytest.raises(StoreMisconfigured):
            store.tidy()
        connection.execute("VACUUM (FREEZE)")
        age = connection.execute("SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database()")
        (found,) = age.fetchone() or (None,)
    assert found is not None
    assert found < 1000
    fetch(dsn, "ALTER TABLE IF EXISTS analytics.kept RENAME TO networks")
    write_hits(store, b"A", 1)
    assert sessions(dsn) == [(name(b"session"), 2)]


@pytest.mark.parametrize("table", ["positions", "salts"])
def test_without_its_primary_key_a_table_gets_no_row_twice(store: PostgresStore, dsn: str, table: str) -> None:
    fetch(dsn, f"ALTER TABLE analytics.{table} DROP CONSTRAINT {table}_pkey")
    with pytest.raises(StoreMisconfigured):
        store.position(b"j" * 16) if table == "positions" else store.exchange_salts([], ["2026-01-01"])


def test_rows_of_a_later_version_are_stored_where_it_has_migrated_the_database(store: PostgresStore, dsn: str) -> None:
    fetch(dsn, "ALTER TABLE analytics.hits ADD COLUMN of_tomorrow bigint")
    row = hit("/later")
    later = (struct.unpack("!h", row[:2])[0] + 1).to_bytes(2, "big") + row[2:] + struct.pack("!iq", 8, 7)
    moved = replace(batch([later]), columns={**COLUMNS, HIT: (*COLUMNS[HIT], "of_tomorrow")})
    deliver(store, moved)
    assert [row["of_tomorrow"] for row in fetch(dsn, "SELECT of_tomorrow FROM analytics.hits")] == [7]
