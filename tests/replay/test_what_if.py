"""What-if over a recorded run: nothing differs under the same policy, and what differs under another is told."""

from __future__ import annotations

import json
import time
from typing import Any

import psycopg
import pytest

from asgi_analytics import Signal, cli
from asgi_analytics.settings import Settings
from asgi_analytics.settings.canonical import RULES, canonical, version
from asgi_analytics.store import recorded
from asgi_analytics.store.recorded import remember_policy
from tests.replay.live import LIMITS, PERIOD, record


def what_if(dsn: str, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert cli.main(["what-if", "--dsn", dsn, *PERIOD, "--export", "json", *options]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def remember(dsn: str, **options: Any) -> str:
    settings = Settings.build(**options)
    with psycopg.connect(dsn) as connection:
        remember_policy(connection, version(settings), canonical(settings), in_force=True)
    return version(settings)


@pytest.mark.parametrize("mode", ["enforce", "observe"])
@pytest.mark.parametrize("seed", [1, 2])
def test_what_if_of_the_live_policy_differs_in_nothing(
    dsn: str, capsys: pytest.CaptureFixture[str], seed: int, mode: str
) -> None:
    live = record(dsn, seed, mode=mode)
    assert (429 in live.statuses) is (mode == "enforce")
    remember(dsn, limits=LIMITS)
    found = what_if(dsn, capsys)
    assert found["hits"] == len(live.statuses)
    assert found["refused"]["then"] > 20
    differing = (found["refused"]["newly"], found["refused"]["freed"], found["levels"], found["scores"])
    assert differing == (0, 0, 0, 0)
    assert cli.main(["what-if", "--dsn", dsn, *PERIOD]) == 0
    assert "Nothing differs" in capsys.readouterr().out


def test_it_differs_in_nothing_over_midnight_where_fingerprints_change(
    dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    live = record(dsn, begins=-100.0)
    with psycopg.connect(dsn) as connection:
        names = "SELECT count(DISTINCT fingerprint), count(DISTINCT network) FROM analytics.hits"
        assert connection.execute(names).fetchone() == (22, 20)  # of 11 and 10
    remember(dsn, limits=LIMITS)
    found = what_if(dsn, capsys)
    assert found["refused"]["then"] > 20
    assert (found["refused"], found["levels"], found["scores"]) == (
        {"then": live.statuses.count(429), "now": live.statuses.count(429), "newly": 0, "freed": 0},
        0,
        0,
    )


def test_rows_from_before_inputs_were_recorded_are_judged_as_then(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    record(dsn, rounds=12)
    remember(dsn, limits=LIMITS)
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE analytics.hits SET inputs = NULL, numbers = NULL, path_inputs = NULL")
    found = what_if(dsn, capsys)
    assert (found["refused"]["newly"], found["refused"]["freed"], found["levels"], found["scores"]) == (0, 0, 0, 0)


def test_answers_that_overtake_each_other_are_judged_in_the_order_in_which_they_began(
    dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record(dsn, rounds=12, overlap=8)
    remember(dsn, limits=LIMITS)
    found = what_if(dsn, capsys)
    assert (found["refused"]["newly"], found["refused"]["freed"], found["levels"], found["scores"]) == (0, 0, 0, 0)


def test_tighter_limits_tell_who_is_newly_refused_and_where(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    record(dsn)
    remember(dsn, limits=LIMITS)
    found = what_if(dsn, capsys, "--limits", "5/minute")
    assert found["refused"]["newly"] > 50
    assert found["refused"]["now"] - found["refused"]["then"] > 50
    assert found["newly_refused"]["kinds"]["likely humans"] >= 4
    assert "/api/poll" in found["routes"]
    assert all(one["refused_then"] == 0 < one["refused_now"] for one in found["newly_refused"]["actors"])
    assert any('quota "minute"' in reason for reason in found["newly_refused"]["actors"][0]["reasons"])


def test_a_policy_without_points_frees_who_was_blocked_for_its_score(
    dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record(dsn)
    with psycopg.connect(dsn) as connection:  # as in a database of a version that kept none
        connection.execute("UPDATE analytics.hits SET policy = NULL")
        connection.execute("DELETE FROM analytics.policies")
    off = ",".join(f"{name}=0" for name in Settings().signal_points)
    assert cli.main(["what-if", "--dsn", dsn, *PERIOD, "--points", off, "--limits", ",".join(LIMITS)]) == 0
    answer = capsys.readouterr().out
    assert "no policy is recorded: the defaults, changed as asked" in answer
    assert "with another score" in answer
    assert "Nothing differs" not in answer


def test_the_policy_in_force_is_that_of_the_sites_newest_hit(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    record(dsn, rounds=2)
    older = remember(dsn, limits="7/minute")
    remember(dsn, limits="9/minute")
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE analytics.hits SET policy = %s", (older,))
    found = what_if(dsn, capsys)
    assert found["policy"]["version"] == older
    assert found["judged_by"] == {older: found["hits"]}


def test_visitors_who_asked_not_to_be_told_apart_keep_their_verdicts(
    dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record(dsn, rounds=2)
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE analytics.hits SET fingerprint = NULL, network = NULL, session_id = NULL")
    found = what_if(dsn, capsys, "--limits", "1/minute")
    assert found["kept"] == found["hits"] > 0
    assert found["refused"]["newly"] == 0


@pytest.mark.parametrize("command", ["what-if", "reclassify"])
def test_signals_of_the_site_s_own_are_named_as_not_measured(
    dsn: str, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    record(dsn, rounds=2)
    assert cli.main([command, "--dsn", dsn, *PERIOD]) == 0
    assert "not measured" not in capsys.readouterr().out
    own = Signal("few_inner_steps", lambda *_: None, "{value}", points=20, threshold=10)
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE analytics.hits SET policy = %s", (remember(dsn, signals=[own]),))
    assert cli.main([command, "--dsn", dsn, *PERIOD]) == 0
    assert "without the site's own signals, which are not measured: few_inner_steps\n" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["what-if", "reclassify"])
def test_that_the_rules_have_changed_since_is_told(dsn: str, capsys: pytest.CaptureFixture[str], command: str) -> None:
    record(dsn, rounds=2)
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE analytics.policies SET settings = settings || '{\"rules\": 7}'")
    assert cli.main([command, "--dsn", dsn, *PERIOD]) == 0
    told = f"by the rules {RULES} of this version; then it was 7, which may tell otherwise\n"
    assert told in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--site", "other"), "No hits of site 'other' are stored in that period."),
        (("--points", "nothing=1"), "--points 'nothing=1' is not NAME=NUMBER with a name among"),
        (("--points", "regular_timing=1.5"), "--points 'regular_timing=1.5': '1.5' is no whole number"),
        (("--thresholds", "probing"), "--thresholds 'probing' is not NAME=NUMBER with a name among"),
        (("--since", "yesterday"), "'yesterday' is no moment; allowed:"),
        (("--since", "2101-01-01"), "--since has to be before --until, or now where --until is left out"),
        (("--limits", "many"), "Option limits='many' is not allowed"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    dsn: str, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    assert cli.main(["what-if", "--dsn", dsn, *PERIOD, *options]) == 1
    assert said in capsys.readouterr().err


def test_the_same_policy_has_the_same_version_however_it_was_written() -> None:
    one = Settings.build(limits=("60/minute", "5/second"), cooldown=600, signal_points={"regular_timing": 15})
    other = Settings.build(limits=("5/second", "60/minute"), cooldown=600.0, mode="observe", site="shop")
    assert version(one) == version(other) != version(Settings.build())


def test_a_role_whose_transactions_may_not_idle_can_ask(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two parts that are read, those before are judged, and perhaps written."""
    record(dsn, rounds=12)
    monkeypatch.setattr(recorded, "FETCHED", 20)
    impatient = psycopg.conninfo.make_conninfo(dsn, options="-c idle_in_transaction_session_timeout=20ms")
    hits = recorded.Recorded(impatient, 0.0, 2e10).hits()
    assert next(hits)
    time.sleep(0.2)
    assert len(list(hits)) > 20
