from __future__ import annotations

from datetime import timedelta
from threading import Thread

import pytest

from asgi_analytics.model import Referral
from asgi_analytics.store.postgres import PostgresStore
from tests.record.rows import NOW_US, batch, fetch, hit, one

from .folding import HOUR, MINUTE, name, sessions, write, write_hits


def test_one_visitor_seen_by_two_workers_is_one_session(store: PostgresStore, dsn: str) -> None:
    write_hits(store, b"A", 2, session=b"a")
    (told,) = write_hits(store, b"B", 3, session=b"b")
    assert told.session == name(b"a")
    assert sessions(dsn) == [(name(b"a"), 5)]
    assert one(dsn, "SELECT count(DISTINCT session_id) AS n FROM analytics.hits")["n"] == 1
    assert one(dsn, "SELECT sessions FROM analytics.fingerprints")["sessions"] == 1


def test_hits_that_move_to_another_session_keep_their_order(store: PostgresStore, dsn: str) -> None:
    write_hits(store, b"A", 1, session=b"a")
    rows = [hit(f"/{n}", page_view=True, session=b"b", time_us=NOW_US + n) for n in range(300)]
    write(store, b"B", *rows)
    session = one(dsn, "SELECT entry_path, exit_path FROM analytics.sessions")
    assert (session["entry_path"], session["exit_path"]) == ("/0", "/299")


PAID = Referral(channel="paid", source="google", utm_campaign="spring")


# A visit as it was: what came when, whether it is a page view, what the visitor came from.
VISIT = {
    "pixel": (0, False, Referral(source="pixel")),
    "landing": (1, True, PAID),
    "picture": (2, False, None),
    "pricing": (3, True, None),
    "checkout": (4, True, None),
    "call": (5, False, None),
}
ASKED = "SELECT hits, page_views, entry_path, exit_path, channel, source, utm_campaign FROM analytics.sessions"


def visit(*parts: str, session: bytes = b"a") -> list[bytes]:
    """Rows of a visit, in the order of arrival."""
    rows = []
    for part in parts:
        second, page_view, referral = VISIT[part]
        time_us = NOW_US + second * 1_000_000
        rows.append(hit(f"/{part}", session=session, time_us=time_us, page_view=page_view, referral=referral))
    return rows


@pytest.mark.parametrize(
    "transfers",
    [
        [tuple(VISIT)],
        [tuple(reversed(VISIT))],
        [("pricing", "checkout"), ("landing",), ("picture", "pixel", "call")],
        [("checkout", "picture"), ("call", "pricing"), ("pixel", "landing")],
        [("pixel", "call"), ("checkout",), ("picture",), ("pricing",), ("landing",)],
        [("landing", "call", "pricing"), ("checkout", "picture", "pixel")],
    ],
)
def test_entry_exit_and_referral_go_by_time_in_whatever_order_hits_arrive(
    store: PostgresStore, dsn: str, transfers: list[tuple[str, ...]]
) -> None:
    for number, parts in enumerate(transfers):
        write(store, b"%d" % number, *visit(*parts, session=b"%d" % number))
    session = one(dsn, ASKED)
    assert list(session.values()) == [6, 3, "/landing", "/checkout", "paid", "google", "spring"]


def test_without_a_page_view_the_referral_is_that_of_the_first_hit(store: PostgresStore, dsn: str) -> None:
    write(store, b"A", *visit("call"))
    write(store, b"B", *visit("picture", "pixel"))
    session = one(dsn, ASKED)
    assert (session["entry_path"], session["exit_path"], session["source"]) == (None, None, "pixel")


def test_hits_under_two_names_of_one_session_are_ordered_by_time(store: PostgresStore, dsn: str) -> None:
    write(store, b"A", *visit("picture", session=b"a"))
    write(store, b"B", *visit("landing", session=b"b"), *visit("pricing", "checkout", session=b"a"))
    session = one(dsn, ASKED)
    assert (session["entry_path"], session["exit_path"], session["channel"]) == ("/landing", "/checkout", "paid")


def test_a_session_from_before_keeps_the_entry_that_it_has(store: PostgresStore, dsn: str) -> None:
    write(store, b"A", *visit("landing"))
    fetch(dsn, "UPDATE analytics.sessions SET entry_at = NULL, exit_at = NULL")
    write(store, b"A", *visit("pricing"))
    session = one(dsn, ASKED)
    assert (session["entry_path"], session["exit_path"], session["channel"]) == ("/landing", "/pricing", "paid")


def test_two_transfers_at_once_begin_one_session_for_a_visitor_that_both_meet(store: PostgresStore, dsn: str) -> None:
    other = PostgresStore(lambda: dsn)
    other.connect()
    first, second = batch(visit("landing", session=b"a"), b"A"), batch(visit("pricing", session=b"b"), b"B")
    for writer, moved in ((store, first), (other, second)):
        writer.position(moved.journal)
    with store._connected().transaction():
        store.write(first)  # in a savepoint: not committed yet
        successor = Thread(target=other.write, args=(second,))
        successor.start()
        successor.join(0.3)
    successor.join(10)
    other.close()
    assert sessions(dsn) == [(name(b"a"), 2)]


def test_an_older_session_that_two_transfers_name_at_once_is_followed_by_one(store: PostgresStore, dsn: str) -> None:
    write_hits(store, b"A", 1, session=b"a", time_us=NOW_US - 5 * HOUR)
    other = PostgresStore(lambda: dsn)
    other.connect()
    moved = batch([hit(session=b"a", time_us=NOW_US)], b"B")
    other.position(moved.journal)
    with store._connected().transaction():
        write(store, b"A", hit(session=b"a", time_us=NOW_US))
        successor = Thread(target=other.write, args=(moved,))
        successor.start()
        successor.join(0.3)
    successor.join(10)
    other.close()
    assert [hits for _, hits in sessions(dsn)] == [1, 2]


def test_two_transfers_at_once_of_visitors_that_are_known_wait_for_no_session(store: PostgresStore, dsn: str) -> None:
    write(store, b"A", *visit("landing"))
    write(store, b"A", hit(visitor=b"other", session=b"b"))
    with store._connected().transaction():
        write(store, b"A", *visit("pricing"))
        locks = one(dsn, "SELECT count(*) AS n FROM pg_locks WHERE locktype = 'advisory'")
    assert locks["n"] == 0


def test_after_half_an_hour_it_is_another_session(store: PostgresStore, dsn: str) -> None:
    write_hits(store, b"A", 1, session=b"a", time_us=NOW_US - 31 * MINUTE)
    write_hits(store, b"B", 1, session=b"b", time_us=NOW_US)
    assert sessions(dsn) == [(name(b"a"), 1), (name(b"b"), 1)]


def test_a_session_goes_on_over_half_an_hour_of_other_workers_hits(store: PostgresStore, dsn: str) -> None:
    for minutes, journal in ((60, b"A"), (40, b"B"), (20, b"C"), (0, b"A")):
        write_hits(store, journal, 1, session=journal, time_us=NOW_US - minutes * MINUTE)
    assert sessions(dsn) == [(name(b"A"), 4)]


def test_an_id_of_an_older_session_is_not_used_again(store: PostgresStore, dsn: str) -> None:
    write_hits(store, b"A", 1, session=b"a", time_us=NOW_US - 5 * HOUR)
    (told,) = write_hits(store, b"A", 2, session=b"a")
    (old, _), (new, hits) = sessions(dsn)
    assert (old, hits, told.session) == (name(b"a"), 2, new)
    assert new != old


def test_who_is_told_of_two_sessions_in_one_transfer_goes_on_with_the_later_one(store: PostgresStore) -> None:
    write(store, b"A", hit(session=b"a", time_us=NOW_US - 100 * MINUTE))
    waited = [hit(session=b"b", time_us=NOW_US - 95 * MINUTE), hit(session=b"c", time_us=NOW_US)]
    (told,) = write(store, b"B", *waited)
    assert told.session == name(b"c")


def test_a_session_ends_after_a_day(store: PostgresStore, dsn: str) -> None:
    for hours in range(24, -1, -1):
        write_hits(store, b"A", 3, session=b"a", time_us=NOW_US - hours * HOUR)
        write_hits(store, b"A", 3, session=b"a", time_us=NOW_US - hours * HOUR + HOUR // 2)
    spans = fetch(dsn, "SELECT last_seen_at - started_at AS span, hits FROM analytics.sessions ORDER BY started_at")
    assert [row["hits"] for row in spans] == [144, 6]
    assert all(row["span"] <= timedelta(hours=24) for row in spans)


def test_late_hits_of_a_dead_worker_extend_the_session_backwards(store: PostgresStore, dsn: str) -> None:
    write_hits(store, b"A", 1, session=b"a", time_us=NOW_US)
    write_hits(store, b"B", 1, session=b"b", time_us=NOW_US - 10 * MINUTE)
    assert sessions(dsn) == [(name(b"a"), 2)]
    row = one(
        dsn,
        "SELECT f.first_seen_at = s.started_at AS first, s.last_seen_at - s.started_at AS span"
        " FROM analytics.sessions s JOIN analytics.fingerprints f USING (fingerprint)",
    )
    assert (row["first"], row["span"]) == (True, timedelta(minutes=10))


def test_visitors_do_not_share_sessions(store: PostgresStore, dsn: str) -> None:
    write(store, b"A", hit(visitor=b"one", session=b"1"), hit(visitor=b"two", session=b"2"))
    write(store, b"B", hit(visitor=b"one", session=b"3"), hit(visitor=b"two", session=b"4"))
    assert sorted(sessions(dsn)) == [(name(b"1"), 2), (name(b"2"), 2)]
