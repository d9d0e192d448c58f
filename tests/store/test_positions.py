"""Positions of journals: how far each is stored, and what is known where one was lost."""

from __future__ import annotations

import os
import socket
import time
from contextlib import closing
from dataclasses import replace
from uuid import UUID

import pytest

from asgi_analytics.batch import DAMAGED, DECISION, HIT, Frames
from asgi_analytics.errors import StoreMisconfigured, StoreUnavailable
from asgi_analytics.record.frames import beginnings, frame, parse
from asgi_analytics.store.postgres import PostgresStore
from tests.record.rows import batch, deliver, fetch, hit, one

from .folding import name, sessions, write, write_hits


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
    deliver(store, whole)
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
    assert fetch(dsn, "SELECT id FROM analytics.hits") == []


@pytest.mark.parametrize("first", [10, 41])
def test_however_little_of_a_journal_is_still_stored_it_is_known_by_that(
    store: PostgresStore, dsn: str, first: int
) -> None:
    whole = batch([hit(f"/{number:02}") for number in range(100)])
    store.position(whole.journal)
    store.write(replace(whole, frames=whole.frames[:42], end=whole.frames[41].end))
    fetch(dsn, "DELETE FROM analytics.hits WHERE path < %s", f"/{first:02}")  # as retention does
    fetch(dsn, "DELETE FROM analytics.positions")
    deliver(store, whole)
    counted = one(dsn, "SELECT count(*) AS n, count(DISTINCT id) AS ids FROM analytics.hits")
    assert counted == {"n": 100 - first, "ids": 100 - first}


def test_what_is_stored_is_left_out_though_batches_before_it_are_gone(store: PostgresStore, dsn: str) -> None:
    # Those from 80 on came when the position was gone already.
    now_us = int(time.time() * 1e6)
    whole = batch([hit(f"/{number}", time_us=now_us + (number >= 80) * 10**9) for number in range(100)])
    parts = [replace(whole, frames=whole.frames[a : a + 30], end=whole.frames[a + 29].end) for a in (0, 30, 60)]
    store.position(whole.journal)
    store.write(replace(whole, frames=whole.frames[:80], end=whole.frames[79].end))
    fetch(dsn, "DELETE FROM analytics.hits WHERE length(path) = 2 OR path < '/6'")  # as retention does
    fetch(dsn, "DELETE FROM analytics.positions")
    store.position(whole.journal)
    for part in parts:
        store.write(part)
    assert one(dsn, "SELECT count(*) AS n, count(DISTINCT id) AS ids FROM analytics.hits") == {"n": 90, "ids": 90}
    assert whole.journal not in store._positions.doubts


@pytest.mark.parametrize("left", [1, 2])
@pytest.mark.parametrize("more", [b"", b"from before the power cut"])
def test_a_delivered_journal_whose_end_is_torn_off_sets_none_of_it_aside(
    store: PostgresStore, dsn: str, left: int, more: bytes
) -> None:
    """Its last hit is stored: what is left of it in the file is no damage that anybody need look at."""
    whole = batch([hit(f"/{number}") for number in range(3)])
    deliver(store, whole)
    last = whole.frames[2]
    remains = parse(frame(HIT, last.row)[:-5] + more, last.start, True, beginnings(whole.columns))
    frames = Frames([*whole.frames[3 - left : 2], *remains])
    torn = replace(whole, frames=frames, end=frames[-1].end)
    if torn.end > whole.end:
        fetch(dsn, "DELETE FROM analytics.positions")  # else it may be right
    assert store.position(whole.journal, (torn.segment, torn.end)) == (0, 0)
    store.write(torn)
    aside = [row["raw"] for row in fetch(dsn, "SELECT raw FROM analytics.quarantine")]
    assert aside == ([more[5:]] if more else [])
    assert one(dsn, "SELECT count(*) AS hits FROM analytics.hits")["hits"] == 3
    assert store.position(whole.journal, (torn.segment, torn.end)) == (torn.segment, torn.end)


def test_of_several_stored_hits_in_one_damaged_piece_none_is_set_aside(store: PostgresStore, dsn: str) -> None:
    whole = batch([hit(f"/{number}") for number in range(3)])
    deliver(store, whole)
    first, second, third = (frame(HIT, one.row) for one in whole.frames)
    turned = second[:-1] + bytes([second[-1] ^ 1])
    pieces = Frames(parse(first + turned + third[:-5], 0, True, beginnings(whole.columns)))
    assert [one.kind for one in pieces] == [HIT, DAMAGED]
    torn = replace(whole, frames=pieces, end=pieces[-1].end)
    assert store.position(whole.journal, (torn.segment, torn.end)) == (0, 0)
    store.write(torn)
    assert fetch(dsn, "SELECT id FROM analytics.quarantine") == []


@pytest.mark.parametrize(("cut", "more", "aside"), [(5, b"", 0), (200, b"", 0), (5, b"from before the power cut", 1)])
def test_a_stored_hit_whose_decision_is_torn_off_sets_none_of_it_aside(
    store: PostgresStore, dsn: str, cut: int, more: bytes, aside: int
) -> None:
    hits, decision = batch([hit("/1"), hit("/2")]), b"\0\x0d" + bytes(300)
    deliver(store, hits)
    data = b"".join(frame(HIT, one.row) for one in hits.frames) + frame(DECISION, decision)[:-cut] + more
    pieces = Frames(parse(data, 0, True, beginnings(hits.columns)))
    assert [one.kind for one in pieces] == [HIT, HIT, DAMAGED]
    torn = replace(hits, frames=pieces, end=pieces[-1].end)
    assert store.position(hits.journal, (torn.segment, torn.end)) == (0, 0)
    store.write(torn)
    assert len(fetch(dsn, "SELECT id FROM analytics.quarantine")) == aside


@pytest.mark.parametrize("how", ["deleted", "beyond the end", "set back"])
def test_a_doubt_outlives_who_had_it(store: PostgresStore, dsn: str, how: str) -> None:
    """Whoever delivers the rest may be another process, after a kill."""
    # Those from 25 on came when the position was gone already.
    now_us = int(time.time() * 1e6)
    whole = batch([hit(f"/{number:02}", time_us=now_us + (number >= 25) * 10**9 + number) for number in range(30)])
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
        assert (name(b"A") in store._positions.doubts) is doubtful


def test_a_host_whose_name_is_no_text_delivers_too(
    store: PostgresStore, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: os.fsdecode(b"h\xff"))
    write_hits(store, b"A", 1)
    assert one(dsn, "SELECT host FROM analytics.positions")["host"] == "h?"


def test_a_position_that_went_back_unnoticed_is_read_again(store: PostgresStore, dsn: str) -> None:
    """As by a fail-over that lost the last commits, behind a pooler: the connection to it lives on."""
    whole = batch([hit(f"/{number}") for number in range(9)])
    parts = [replace(whole, frames=whole.frames[a : a + 3], end=whole.frames[a + 2].end) for a in (0, 3, 6)]
    store.position(whole.journal)
    store.write(parts[0])
    store.write(parts[1])
    fetch(dsn, "DELETE FROM analytics.hits WHERE path BETWEEN '/3' AND '/5'")
    fetch(dsn, "UPDATE analytics.positions SET position = %s, doubted = NULL", parts[0].end)
    with pytest.raises(StoreUnavailable, match="went back"):
        store.write(parts[2])
    assert store.position(whole.journal) == (whole.segment, parts[0].end)
    store.write(parts[1])
    store.write(parts[2])
    assert sorted(row["path"] for row in fetch(dsn, "SELECT path FROM analytics.hits")) == [f"/{n}" for n in range(9)]


def test_a_position_that_was_only_read_went_back_too(store: PostgresStore, dsn: str) -> None:
    whole = batch([hit(f"/{number}") for number in range(6)])
    first, rest = (replace(whole, frames=whole.frames[a : a + 3], end=whole.frames[a + 2].end) for a in (0, 3))
    with closing(PostgresStore(lambda: dsn)) as predecessor:
        predecessor.connect()
        predecessor.position(whole.journal)
        predecessor.write(first)
    store.position(whole.journal)
    fetch(dsn, "DELETE FROM analytics.hits")
    fetch(dsn, "UPDATE analytics.positions SET segment = 1, position = 1, doubted = NULL")
    with pytest.raises(StoreUnavailable, match="went back"):
        store.write(rest)


def test_a_position_that_was_set_back_while_nobody_looked_is_in_doubt(store: PostgresStore, dsn: str) -> None:
    """Who adopts a dead worker's journal knows of no later one."""
    whole = batch([hit(f"/{number}") for number in range(3)])
    deliver(store, whole)
    fetch(dsn, "UPDATE analytics.positions SET segment = 0, position = 0, doubted = NULL")
    with closing(PostgresStore(lambda: dsn)) as successor:
        successor.connect()
        assert successor.position(whole.journal) == (0, 0)
        successor.write(whole)
    assert one(dsn, "SELECT count(*) AS hits FROM analytics.hits")["hits"] == 3


@pytest.mark.parametrize("how", ["deleted", "kept out"])
def test_rows_that_an_operator_deletes_or_keeps_out_end_no_doubt(store: PostgresStore, dsn: str, how: str) -> None:
    """Where a batch ends with some of them, what comes after them is stored all the same."""
    whole = batch([hit(f"/{number:02}") for number in range(40)])
    parts = [replace(whole, frames=whole.frames[a : a + 10], end=whole.frames[a + 9].end) for a in (0, 10, 20, 30)]
    if how == "kept out":
        fetch(
            dsn,
            "CREATE FUNCTION keep_out() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RETURN CASE WHEN NEW.path ~ '[359]$' THEN NULL ELSE NEW END; END $$",
        )
        fetch(dsn, "CREATE TRIGGER keep_out BEFORE INSERT ON analytics.hits FOR EACH ROW EXECUTE FUNCTION keep_out()")
    deliver(store, whole)
    fetch(dsn, "DELETE FROM analytics.hits WHERE path ~ '[359]$'")
    fetch(dsn, "DELETE FROM analytics.positions")
    store.position(whole.journal)
    for part in parts:
        store.write(part)
    counted = one(dsn, "SELECT count(*) AS n, count(DISTINCT id) AS ids FROM analytics.hits")
    assert counted["n"] == counted["ids"]
    assert whole.journal in store._positions.doubts


@pytest.mark.parametrize("count", [1, 4, 5, 9])
def test_the_rows_of_one_visitor_that_were_deleted_at_the_end_of_a_batch_end_no_doubt(
    store: PostgresStore, dsn: str, count: int
) -> None:
    """As an operator may at any time: what comes after them is stored."""
    whole = batch([hit(f"/{number:02}") for number in range(40)])
    parts = [replace(whole, frames=whole.frames[a : a + 10], end=whole.frames[a + 9].end) for a in (0, 10, 20, 30)]
    deliver(store, whole)
    fetch(dsn, "DELETE FROM analytics.hits WHERE path < '/10' AND path >= %s", f"/{10 - count:02}")
    fetch(dsn, "DELETE FROM analytics.positions")
    store.position(whole.journal)
    for part in parts:
        store.write(part)
    counted = one(dsn, "SELECT count(*) AS n, count(DISTINCT id) AS ids FROM analytics.hits")
    assert counted == {"n": 40, "ids": 40}
