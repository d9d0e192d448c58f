"""reclassify writes what the policy finds, says which version did, and can be stopped and taken up again."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
import pytest

from asgi_analytics import cli
from asgi_analytics.model import MAX_SCORE
from asgi_analytics.replay import rewriting
from asgi_analytics.settings import Settings
from asgi_analytics.settings.canonical import canonical, version
from asgi_analytics.store.recorded import Recorded, Rewriter
from tests.commands.hits import ADD_HIT
from tests.drive import rows
from tests.replay.live import LIMITS, PERIOD, record
from tests.replay.test_what_if import remember

HARSH = ("--points", "high_request_count=80", "--thresholds", "high_request_count=20")


def reclassify(dsn: str, *options: str) -> int:
    return cli.main(["reclassify", "--dsn", dsn, *PERIOD, *options])


def harsh() -> Settings:
    return Settings.build(
        limits=LIMITS, signal_points={"high_request_count": 80}, signal_thresholds={"high_request_count": 20}
    )


def hits(dsn: str) -> list[dict[str, Any]]:
    return rows(dsn, "SELECT id, score, level, policy, outcome FROM analytics.hits ORDER BY id")


@pytest.fixture
def recorded(dsn: str) -> str:
    record(dsn, rounds=40)
    remember(dsn, limits=LIMITS)
    return dsn


def test_nothing_is_written_without_yes(recorded: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = hits(recorded)
    assert reclassify(recorded, *HARSH) == 0
    assert "Written     nothing: this was a dry run, --yes writes" in capsys.readouterr().out
    assert hits(recorded) == before
    assert rows(recorded, "SELECT version FROM analytics.policies") == [
        {"version": version(Settings.build(limits=LIMITS))}
    ]


def test_rows_get_the_verdicts_of_the_policy_and_its_version(recorded: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = {row["id"]: row for row in hits(recorded)}
    assert reclassify(recorded, *HARSH, "--yes") == 0
    assert f"Written     {len(before):,} hits and 11 sessions" in capsys.readouterr().out
    after = hits(recorded)
    assert {row["policy"] for row in after} == {version(harsh())}
    assert any(row["score"] >= 80 > before[row["id"]]["score"] for row in after)
    assert [row["outcome"] for row in after] == [before[row["id"]]["outcome"] for row in after]
    stored = rows(recorded, "SELECT settings, in_force_at FROM analytics.policies ORDER BY in_force_at NULLS LAST")
    assert stored[1] == {"settings": canonical(harsh()), "in_force_at": None}


def test_what_is_reclassified_by_an_earlier_policy_does_not_bring_it_into_force(recorded: str) -> None:
    now = remember(recorded, limits="9/minute")
    with psycopg.connect(recorded) as connection:
        connection.execute("UPDATE analytics.hits SET policy = %s", (now,))
        connection.execute("UPDATE analytics.decisions SET detail = detail - 'policy'")
    earlier = version(Settings.build(limits=LIMITS))
    for _ in range(2):  # a run that was stopped is taken up, and comes to the same
        assert reclassify(recorded, "--limits", ",".join(LIMITS), "--yes") == 0
        assert {row["policy"] for row in hits(recorded)} == {earlier}
        found = Recorded(recorded, 0, 1e9, "default").policy()
        assert found is not None
        assert found[0] == now
    remember(recorded, limits=LIMITS)
    with psycopg.connect(recorded) as connection:  # as the next hit that is judged by it
        newest = "(SELECT id FROM analytics.hits ORDER BY time DESC LIMIT 1)"
        connection.execute(f"UPDATE analytics.hits SET time = time + interval '1 year' WHERE id = {newest}".encode())
    remember(recorded, limits="9/minute")
    again = Recorded(recorded, 0, 1e9, "default").policy()
    assert again is not None
    assert again[0] == earlier


def test_a_score_is_as_high_as_a_row_has_it(recorded: str, capsys: pytest.CaptureFixture[str]) -> None:
    many = (*HARSH, "--points", "high_request_count=40000")
    assert reclassify(recorded, *many, "--yes") == 0
    assert max(row["score"] for row in hits(recorded)) == MAX_SCORE
    assert reclassify(recorded, *many) == 0
    assert "Differ      0 scores" in capsys.readouterr().out


def test_sessions_get_the_highest_of_their_hits(recorded: str) -> None:
    assert reclassify(recorded, *HARSH, "--yes") == 0
    differing = """SELECT count(*) FROM analytics.sessions JOIN (
        SELECT session_id, max(score) AS score, max(level) AS level FROM analytics.hits GROUP BY session_id
    ) AS found ON found.session_id = sessions.id
    WHERE (sessions.score, sessions.level) <> (found.score, found.level) OR sessions.policy IS NULL"""
    assert rows(recorded, differing) == [{"count": 0}]


def test_a_run_that_was_stopped_is_taken_up_and_comes_to_the_same(
    recorded: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewriting, "BATCH", 50)
    whole = Rewriter.hits
    written: list[int] = []

    def stop_after_three(self: Rewriter, batch: Any) -> int:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(whole(self, batch))
        return written[-1]

    monkeypatch.setattr(Rewriter, "hits", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        reclassify(recorded, *HARSH, "--yes")
    assert len([row for row in hits(recorded) if row["policy"] == version(harsh())]) == 150
    monkeypatch.setattr(Rewriter, "hits", whole)
    assert reclassify(recorded, *HARSH, "--yes") == 0
    assert "150 of them of this version already" in capsys.readouterr().out
    resumed = hits(recorded)
    with psycopg.connect(recorded) as connection:
        connection.execute("UPDATE analytics.hits SET policy = NULL")
    assert reclassify(recorded, *HARSH, "--yes") == 0
    assert hits(recorded) == resumed


def test_a_session_that_began_before_the_period_stays(recorded: str, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = rows(recorded, "SELECT max(time) AS last FROM analytics.hits")
    assert reclassify(recorded, *HARSH, "--since", row["last"].isoformat(), "--yes") == 0
    said = capsys.readouterr().out
    assert "Judged      1 hit again" in said
    assert "Written     1 hit and 0 sessions; 1 left, which has hits of other versions" in said
    told = list(rewriting.report(rewriting.Rewriting(classes=1, sessions_left=2), True))
    assert told[1:] == [
        "Differ      0 scores, 0 levels, 1 class",
        "Written     0 hits and 0 sessions; 2 left, which have hits of other versions",
    ]
    live, ours = version(Settings.build(limits=LIMITS)), version(harsh())
    assert rows(recorded, "SELECT DISTINCT policy FROM analytics.sessions") == [{"policy": live}]
    assert len([row for row in hits(recorded) if row["policy"] == ours]) == 1


def test_a_site_that_is_not_there_is_no_success(recorded: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert reclassify(recorded, "--site", "defualt", "--yes") == 1
    told = "No hits of site 'defualt' are stored in that period. Sites with visitors: default."
    assert told in capsys.readouterr().err


def test_the_live_policy_changes_nothing_but_the_version(recorded: str) -> None:
    before = hits(recorded)
    assert reclassify(recorded, "--yes") == 0
    live = version(Settings.build(limits=LIMITS))
    assert hits(recorded) == [{**row, "policy": live} for row in before]


def test_a_crawlers_class_is_what_todays_list_says_of_its_name(recorded: str) -> None:
    with psycopg.connect(recorded) as connection:
        connection.execute("UPDATE analytics.hits SET crawler = 'Googlebot', bot_class = 'seo', policy = 'older'")
        connection.execute("UPDATE analytics.sessions SET policy = 'older'")
    assert reclassify(recorded, "--yes") == 0
    assert rows(recorded, "SELECT DISTINCT bot_class FROM analytics.hits") == [{"bot_class": "search-engine"}]
    assert rows(recorded, "SELECT DISTINCT bot_class FROM analytics.sessions") == [{"bot_class": "search-engine"}]


def test_hits_that_are_read_no_further_need_no_server_any_more(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute(ADD_HIT, {"id": uuid4(), "path": "/", "site": "default"})
        hits = Recorded(dsn, 0.0, 4e9, "default").hits()
        next(hits)
        others = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
        other.execute(f"SELECT pg_terminate_backend(pid, 5000) {others}".encode())
    hits.close()  # type: ignore[attr-defined]
