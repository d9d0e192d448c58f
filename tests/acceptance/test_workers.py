"""Two worker processes behind one port: what they agree on, and how fast."""

from __future__ import annotations

import itertools
import json
import time
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psycopg

from asgi_analytics.embedded import EmbeddedPostgres
from asgi_analytics.store.migrate import migrate
from tests.acceptance.rig import Load, Server, assert_exactly_once, serving
from tests.record.rows import fetch, one
from tests.waiting import wait_until

LIMIT = 60
BATCH_AGE = 0.1


def wait_for_both(server: Server, company: bool = False) -> int:
    """Wait until each worker answers, and with `company` knows of the other. Returns how often they were cut off."""
    seen: dict[int, dict[str, Any]] = {}
    limited = itertools.count()

    def both() -> bool:
        answer = server.get("/process", user_agent=f"prober {next(limited)}").split(b"\r\n\r\n")[1]
        told = json.loads(answer)
        seen[told["pid"]] = told["stats"]["shared"]
        return len(seen) == 2 and not (company and any(one["workers"] < 2 for one in seen.values()))

    wait_until(both, what="an answer of each worker")
    return sum(one["outages"] for one in seen.values())


def hits(dsn: str, path: str) -> int:
    return int(one(dsn, "SELECT count(*) AS n FROM analytics.hits WHERE path = %s", path)["n"])


def test_one_visitor_of_two_workers_is_one_session_and_one_fingerprint(dsn: str, tmp_path: Path) -> None:
    with serving(dsn, tmp_path / "j", workers=2) as server:
        wait_for_both(server)
        for _ in range(40):
            server.get("/page", user_agent="one")
        wait_until(lambda: hits(dsn, "/page") == 40, what="the arrival of all hits")
    row = one(
        dsn,
        "SELECT count(DISTINCT session_id) AS sessions, count(DISTINCT fingerprint) AS fingerprints,"
        " bool_or(provisional) AS provisional FROM analytics.hits WHERE path = '/page'",
    )
    assert row == {"sessions": 1, "fingerprints": 1, "provisional": False}
    session = one(dsn, "SELECT hits FROM analytics.sessions WHERE entry_path = '/page'")
    assert session["hits"] == 40
    assert one(dsn, "SELECT count(*) AS n FROM analytics.positions WHERE rows > 0")["n"] == 2, "both had a part in it"


def test_a_quota_holds_over_two_workers(dsn: str, tmp_path: Path) -> None:
    """Two workers that know of each other lend no unit twice; one that is cut off keeps to its part of the limit."""
    options = {"limits": f"{LIMIT}/hour", "batch_age": BATCH_AGE, "mode": "enforce"}
    with serving(dsn, tmp_path / "j", workers=2, **options) as server:
        wait_for_both(server, company=True)
        while time.time() % 3600 > 3585:  # the hour must not end in between
            time.sleep(0.5)
        allowed, sent, began = 0, 0, time.monotonic()
        while time.monotonic() - began < 4.0:
            # No page loads: with these the visitor would soon be slowed down as a bot.
            answer = server.get("/quota", user_agent="greedy", x_requested_with="fetch")
            allowed += answer.startswith(b"HTTP/1.1 200")
            sent += 1
            time.sleep(0.02)
        rate = sent / (time.monotonic() - began)
        outages = wait_for_both(server, company=True)
    print(f"{sent} sent at {rate:.0f}/s, {allowed} of {LIMIT} allowed")
    assert sent > 1.5 * LIMIT
    assert 0.85 * LIMIT <= allowed <= LIMIT + outages * LIMIT // 2


def test_a_level_reached_at_one_worker_is_known_to_the_other(dsn: str, tmp_path: Path) -> None:
    with serving(dsn, tmp_path / "j", workers=2, limits="1000/second", batch_age=BATCH_AGE, mode="enforce") as server:
        wait_for_both(server)
        greedy = {"User-Agent": "greedy"}
        with closing(HTTPConnection("127.0.0.1", server.port)) as to_one:
            for number in range(200):
                to_one.request("GET", f"/page/{number}", headers=greedy)
                answer = to_one.getresponse()
                answer.read()
        assert (answer.status, answer.getheader("x-throttle-level")) == (429, "blocked")
        let_in = 0

        def is_blocked() -> bool:
            nonlocal let_in
            answer = server.get("/page", user_agent="greedy")
            let_in += answer.startswith(b"HTTP/1.1 200")
            return b"x-throttle-level: blocked" in answer.lower()

        wait_until(lambda: all(is_blocked() for _ in range(20)), what="the level at both")
    assert let_in < 20, "of one page no level comes: the other worker was told"


def test_a_quota_that_is_spent_is_spent_at_each_worker(dsn: str, tmp_path: Path) -> None:
    with serving(dsn, tmp_path / "j", workers=2, limits="5/hour", batch_age=BATCH_AGE, mode="enforce") as server:
        wait_for_both(server)
        admitted = 0

        def is_spent() -> bool:
            nonlocal admitted
            admitted += server.get("/greedy", user_agent="greedy").startswith(b"HTTP/1.1 200")
            return admitted == 5

        wait_until(is_spent, what="the fifth unit, which may be lent to the other worker")
        answers = [server.get("/greedy", user_agent="greedy") for _ in range(10)]
        assert all(answer.startswith(b"HTTP/1.1 429") for answer in answers)
        assert all(b"retry-after:" in answer.lower() for answer in answers)


def test_all_workers_use_one_salt_even_when_they_start_at_once(empty_dsn: str, tmp_path: Path) -> None:
    with serving(empty_dsn, tmp_path / "j", workers=2) as server:
        wait_for_both(server)
        for _ in range(20):
            server.get("/same", user_agent="one")
        wait_until(lambda: hits(empty_dsn, "/same") == 20, what="the arrival of all hits")
    assert len(fetch(empty_dsn, "SELECT * FROM analytics.salts")) == 3
    query = "SELECT count(DISTINCT fingerprint) AS n FROM analytics.hits WHERE path = '/same' AND NOT provisional"
    assert one(empty_dsn, query)["n"] == 1


def test_while_postgres_is_down_the_app_answers_as_before(own_postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    dsn = own_postgres.dsn
    with serving(dsn, tmp_path / "j") as server, Load(server.port) as load:
        load.more(500)
        healthy = len(load.durations)
        own_postgres.kill()
        down_until = time.monotonic() + 3.0
        while time.monotonic() < down_until:
            load.more(50)
        down = len(load.durations)
        own_postgres.start()
        load.more(300)
    before, during = sorted(load.durations[:healthy]), sorted(load.durations[healthy:down])
    assert assert_exactly_once(dsn, load.answered) >= len(load.answered)
    for what, durations in (("with Postgres", before), ("without", during)):
        p50, p99 = (1e3 * durations[int(len(durations) * part)] for part in (0.5, 0.99))
        print(f"{what}: {len(durations)} requests, p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {durations[-1]:.3f} s")
    assert sorted(load.durations)[int(len(load.durations) * 0.99)] < 0.5
    assert max(load.durations) < 1.0


def test_a_server_starts_and_serves_without_postgres_and_catches_up(
    own_postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    dsn = own_postgres.dsn
    migrate(dsn)
    own_postgres.kill()
    with serving(dsn, tmp_path / "j") as server:
        with Load(server.port) as load:
            load.more(200)
            assert b'"connected": false' in server.get("/process")
            own_postgres.start()
            load.more(100)
        assert_exactly_once(dsn, load.answered)
        assert server.log().count("No Postgres") == 1
    with psycopg.connect(dsn) as connection:
        provisional = connection.execute("SELECT count(*) FROM analytics.hits WHERE provisional").fetchone()
    assert provisional is not None
    assert provisional[0] > 0, "what was seen before the salts were known says so"
