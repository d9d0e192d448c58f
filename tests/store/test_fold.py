from __future__ import annotations

import os
import socket
import struct
import time
from contextlib import closing, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Any
from uuid import UUID

import psycopg
import pytest

from asgi_analytics.batch import DAMAGED, HIT, Frame, Frames
from asgi_analytics.errors import RowRejected, StoreMisconfigured, StoreUnavailable
from asgi_analytics.model import Merged
from asgi_analytics.record.frames import frame
from asgi_analytics.store.postgres import PostgresStore
from tests.record.rows import COLUMNS, NOW_US, batch, fetch, hit, one

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


def test_the_position_of_a_worker_that_ended_long_ago_is_forgotten(store: PostgresStore, dsn: str) -> None:
    for journal, days in ((b"old", 91), (b"new", 89)):
        write_hits(store, journal, 1)
        fetch(
            dsn,
            "UPDATE analytics.positions SET updated_at = now() - make_interval(days => %s) WHERE journal = %s",
            days,
            UUID(bytes=name(journal)),
        )
    store.tidy()
    assert [row["journal"] for row in fetch(dsn, "SELECT journal FROM analytics.positions")] == [name(b"new")]


def test_what_is_stored_of_a_journal_is_left_out_where_its_position_was_cleared_away(
    store: PostgresStore, dsn: str
) -> None:
    rows = [hit(f"/{number}") for number in range(10)]
    whole = batch(rows)
    first = replace(whole, frames=whole.frames[:6], end=whole.frames[5].end)
    store.position(whole.journal)
    store.write(first)
    for cleared in ("DELETE FROM analytics.positions", "UPDATE analytics.positions SET segment = 0, position = 0"):
        fetch(dsn, cleared)
        store.position(whole.journal)
        store.write(first)
    fetch(dsn, "DELETE FROM analytics.positions")
    store.position(whole.journal)
    store.write(whole)
    assert sorted(row["path"] for row in fetch(dsn, "SELECT path FROM analytics.hits")) == [f"/{n}" for n in range(10)]
    assert sessions(dsn) == [(name(b"session"), 10)]
    assert store.position(whole.journal) == (whole.segment, whole.end)


def test_a_position_that_went_further_than_its_journal_is_not_believed(store: PostgresStore, dsn: str) -> None:
    whole = batch([hit(f"/{number}") for number in range(10)])
    first = replace(whole, frames=whole.frames[:6], end=whole.frames[5].end)
    store.position(whole.journal)
    store.write(first)
    for advanced in ("segment = 1000", "position = 1000000"):
        fetch(dsn, f"UPDATE analytics.positions SET {advanced}")
        with pytest.raises(StoreUnavailable):  # so that it is read again
            store.write(whole)
        assert store.position(whole.journal, (whole.segment, whole.end)) == (0, 0)
        store.write(whole)
    assert sorted(row["path"] for row in fetch(dsn, "SELECT path FROM analytics.hits")) == [f"/{n}" for n in range(10)]
    assert store.position(whole.journal, (whole.segment, whole.end)) == (whole.segment, whole.end)


def test_where_the_position_cannot_move_on_nothing_gets_in(store: PostgresStore, dsn: str) -> None:
    """Who comes next would send it again."""
    fetch(dsn, "CREATE FUNCTION public.still() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$")
    fetch(dsn, "CREATE TRIGGER still BEFORE UPDATE ON analytics.positions FOR EACH ROW EXECUTE FUNCTION still()")
    with pytest.raises(StoreMisconfigured, match="positions"):
        write_hits(store, b"A", 1)
    assert fetch(dsn, "SELECT FROM analytics.hits") == []


@pytest.mark.parametrize("first", [10, 41])
def test_however_little_of_a_journal_is_still_stored_it_is_known_by_that(
    store: PostgresStore, dsn: str, first: int
) -> None:
    whole = batch([hit(f"/{number:02}") for number in range(100)])
    store.position(whole.journal)
    store.write(replace(whole, frames=whole.frames[:42], end=whole.frames[41].end))
    fetch(dsn, "DELETE FROM analytics.hits WHERE path < %s", f"/{first:02}")  # as retention does
    fetch(dsn, "DELETE FROM analytics.positions")
    store.position(whole.journal)
    store.write(whole)
    counted = one(dsn, "SELECT count(*) AS n, count(DISTINCT id) AS ids FROM analytics.hits")
    assert counted == {"n": 100 - first, "ids": 100 - first}


def test_what_is_stored_is_left_out_though_batches_before_it_are_gone(store: PostgresStore, dsn: str) -> None:
    whole = batch([hit(f"/{number}") for number in range(100)])
    parts = [replace(whole, frames=whole.frames[a : a + 30], end=whole.frames[a + 29].end) for a in (0, 30, 60)]
    store.position(whole.journal)
    store.write(replace(whole, frames=whole.frames[:80], end=whole.frames[79].end))
    fetch(dsn, "DELETE FROM analytics.hits WHERE length(path) = 2 OR path < '/6'")  # as retention does
    fetch(dsn, "DELETE FROM analytics.positions")
    store.position(whole.journal)
    for part in parts:
        store.write(part)
    assert one(dsn, "SELECT count(*) AS n, count(DISTINCT id) AS ids FROM analytics.hits") == {"n": 90, "ids": 90}
    assert whole.journal not in store._doubts


@pytest.mark.parametrize("left", [1, 2])
def test_a_delivered_journal_whose_end_is_torn_off_sets_nothing_aside(
    store: PostgresStore, dsn: str, left: int
) -> None:
    """Its last hit is stored: what is left of it in the file is no damage that anybody need look at."""
    whole = batch([hit(f"/{number}") for number in range(3)])
    store.position(whole.journal)
    store.write(whole)
    last = whole.frames[2]
    remains = Frame(DAMAGED, frame(HIT, last.row)[:-5], last.start, last.end - 5)
    torn = replace(whole, frames=Frames([*whole.frames[3 - left : 2], remains]), end=remains.end)
    assert store.position(whole.journal, (torn.segment, torn.end)) == (0, 0)
    store.write(torn)
    assert fetch(dsn, "SELECT FROM analytics.quarantine") == []
    assert one(dsn, "SELECT count(*) AS hits FROM analytics.hits")["hits"] == 3
    assert store.position(whole.journal, (torn.segment, torn.end)) == (torn.segment, torn.end)


@pytest.mark.parametrize("how", ["deleted", "beyond the end", "set back"])
def test_a_doubt_outlives_who_had_it(store: PostgresStore, dsn: str, how: str) -> None:
    """Whoever delivers the rest may be another process, after a kill."""
    whole = batch([hit(f"/{number:02}", time_us=NOW_US + number) for number in range(30)])
    parts = [replace(whole, frames=whole.frames[a : a + 10], end=whole.frames[a + 9].end) for a in (0, 10, 20)]
    store.position(whole.journal)
    store.write(replace(whole, frames=whole.frames[:25], end=whole.frames[24].end))
    if how == "deleted":
        fetch(dsn, "DELETE FROM analytics.positions")
    elif how == "set back":
        fetch(dsn, "UPDATE analytics.positions SET segment = 0, position = 0")
    store.position(whole.journal, (0, 1) if how == "beyond the end" else None)
    for part in parts:
        with closing(PostgresStore(lambda: dsn)) as successor:
            successor.connect()
            successor.position(whole.journal)
            successor.write(part)
    counted = one(dsn, "SELECT count(*) AS n, count(DISTINCT id) AS ids FROM analytics.hits")
    assert counted == {"n": 30, "ids": 30}
    assert one(dsn, "SELECT doubted FROM analytics.positions")["doubted"] is None


def test_hits_of_one_moment_are_told_apart_by_their_ids(store: PostgresStore, dsn: str) -> None:
    for journal in (b"A", b"B"):
        write_hits(store, journal, 3)
    fetch(dsn, "DELETE FROM analytics.positions")
    for journal, count in ((b"A", 3), (b"B", 5)):
        write_hits(store, journal, count)
    assert one(dsn, "SELECT count(*) AS hits FROM analytics.hits")["hits"] == 14


def test_a_journal_new_to_us_is_in_doubt_until_it_has_what_came_since(store: PostgresStore) -> None:
    now_us = int(time.time() * 1e6)
    for seconds, doubtful in ((-1, True), (1, False)):
        write(store, b"A", hit(time_us=now_us + seconds * 10**6))
        assert (name(b"A") in store._doubts) is doubtful


def test_a_host_whose_name_is_no_text_delivers_too(
    store: PostgresStore, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: os.fsdecode(b"h\xff"))
    write_hits(store, b"A", 1)
    assert one(dsn, "SELECT host FROM analytics.positions")["host"] == "h?"


def test_rows_of_a_later_version_are_stored_where_it_has_migrated_the_database(store: PostgresStore, dsn: str) -> None:
    fetch(dsn, "ALTER TABLE analytics.hits ADD COLUMN of_tomorrow bigint")
    row = hit("/later")
    later = (struct.unpack("!h", row[:2])[0] + 1).to_bytes(2, "big") + row[2:] + struct.pack("!iq", 8, 7)
    moved = replace(batch([later]), columns={**COLUMNS, HIT: (*COLUMNS[HIT], "of_tomorrow")})
    store.position(moved.journal)
    store.write(moved)
    assert [row["of_tomorrow"] for row in fetch(dsn, "SELECT of_tomorrow FROM analytics.hits")] == [7]
