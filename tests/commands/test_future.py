"""Hits of the future, which a worker whose clock was ahead has left: no figure counts them, and they hide no others."""

from __future__ import annotations

import json

import psycopg

from tests.drive import called

from .hits import add_hit

MOVE = "UPDATE analytics.hits SET time = now() + %s::interval WHERE path = %s"


def test_hits_of_the_future_are_told_apart_and_hide_no_others(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for number in range(30):
            add_hit(dsn, f"/ahead/{number}")
        connection.execute("UPDATE analytics.hits SET time = timestamptz '2099-12-31 23:59:59Z'")
        for path, moved in (("/now", "0"), ("/skewed", "30 seconds"), ("/before", "-2 hours")):
            add_hit(dsn, path)
            connection.execute(MOVE, (moved, path))
    shown = called("stats", "--dsn", dsn).stdout
    assert "hits            2 in the last minute, 2 in the last hour" in shown
    assert "of the future   30 hits, up to 2099-12-31 23:59:59 UTC: a worker's clock was ahead" in shown
    assert json.loads(called("stats", "--json", "--dsn", dsn).stdout)["last_hour"]["ahead"] == 30
    paths = [line.split()[2] for line in called("tail", "-n", "5", "--dsn", dsn).stdout.splitlines()]
    assert paths[:3] == ["/before", "/now", "/skewed"]
    assert [path[:7] for path in paths[3:]] == ["/ahead/"] * 2
    assert "/now" in called("tail", "-n", "2", "--dsn", dsn).stdout


def test_where_no_clock_is_ahead_nothing_is_said_of_the_future(dsn: str) -> None:
    add_hit(dsn, "/now")
    assert "future" not in called("stats", "--dsn", dsn).stdout
