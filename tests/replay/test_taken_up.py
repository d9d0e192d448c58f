"""reclassify beside writers and other sites, and taken up where all hits were rewritten already."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from asgi_analytics.settings import Settings
from asgi_analytics.settings.canonical import version
from asgi_analytics.store import recorded
from asgi_analytics.store.recorded import Recorded, rewriter
from tests.drive import rows
from tests.record.rows import fetch
from tests.replay.live import LIMITS, PERIOD, record
from tests.replay.test_reclassify import HARSH, harsh, reclassify
from tests.replay.test_what_if import remember
from tests.waiting import wait_until

FROM, UNTIL = 4_102_358_400.0, 4_102_704_000.0  # PERIOD


@pytest.fixture
def two_sites(dsn: str) -> str:
    """A database with hits of one site, and the policy of another, whose app was started last."""
    record(dsn, rounds=40)
    remember(dsn, limits="9/minute")
    return dsn


@pytest.mark.parametrize("since", ["2100-01-01", "2100-01-01T00:00:30"])
def test_the_same_command_goes_on_with_the_policy_of_its_site(
    two_sites: str, capsys: pytest.CaptureFixture[str], since: str
) -> None:
    if since > "2100-01-01":  # then no decision is left to tell
        fetch(two_sites, "DELETE FROM analytics.decisions")
    assert reclassify(two_sites, *HARSH, "--since", since, "--yes") == 0
    (last,) = rows(two_sites, "SELECT policy FROM analytics.hits ORDER BY time DESC LIMIT 1")
    assert last == {"policy": version(harsh())}
    capsys.readouterr()
    fetch(two_sites, "UPDATE analytics.sessions SET policy = NULL")  # as if it had been stopped before these
    assert reclassify(two_sites, *HARSH, "--since", since, "--yes") == 0
    told = capsys.readouterr().out
    assert f"Policy      {version(harsh())}" in told
    assert "Written     0 hits and" in told


def test_a_session_that_goes_on_meanwhile_keeps_what_its_writer_found(two_sites: str) -> None:
    fetch(two_sites, "UPDATE analytics.hits SET policy = 'new', score = 7")
    (busy,) = rows(two_sites, "SELECT session_id AS id, min(id::text) AS hit FROM analytics.hits "
                   "WHERE session_id IS NOT NULL GROUP BY session_id ORDER BY session_id LIMIT 1")  # fmt: skip
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with psycopg.connect(two_sites) as writer, rewriter(two_sites, "new") as ours, ThreadPoolExecutor(1) as thread:
        writer.execute("UPDATE analytics.sessions SET score = 90, policy = 'live' WHERE id = %(id)s", busy)
        writer.execute("UPDATE analytics.hits SET score = 90, policy = 'live' WHERE id = %(hit)s::uuid", busy)
        done = thread.submit(lambda: list(ours.sessions(FROM, UNTIL)))
        wait_until(lambda: len(fetch(two_sites, waiting)) == 1)
        writer.commit()
        ((looked_at, written),) = done.result(10)
    assert looked_at == written + 1
    kept = rows(two_sites, "SELECT id, score FROM analytics.sessions WHERE policy IS DISTINCT FROM 'new'")
    assert kept == [{"id": busy["id"], "score": 90}]


def test_sessions_are_rewritten_batch_by_batch(two_sites: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(two_sites, "UPDATE analytics.hits SET policy = 'new', score = 7")
    monkeypatch.setattr(recorded, "SESSIONS", 4)
    with rewriter(two_sites, "new") as ours:
        assert list(ours.sessions(FROM, UNTIL)) == [(4, 4), (4, 4), (3, 3)]
        assert list(ours.sessions(FROM, UNTIL)) == []
    assert rows(two_sites, "SELECT DISTINCT policy, score FROM analytics.sessions") == [{"policy": "new", "score": 7}]


def test_many_hits_may_take_longer_than_other_statements_of_the_role(dsn: str) -> None:
    record(dsn, rounds=1)
    policy = remember(dsn, limits=LIMITS)
    fetch(dsn, "ALTER TABLE analytics.hits RENAME TO parts")
    fetch(dsn, "CREATE VIEW analytics.hits AS SELECT parts.* FROM pg_sleep(0.6), analytics.parts")
    hits = Recorded(make_conninfo(dsn, options="-c statement_timeout=300ms"), FROM, UNTIL)
    found = hits.policy()
    assert found is not None
    assert (found[0], hits.count()) == (policy, len(list(hits.hits())))
    assert policy == version(Settings.build(limits=LIMITS))
    assert PERIOD == ("--since", "2099-12-31", "--until", "2100-01-04")
