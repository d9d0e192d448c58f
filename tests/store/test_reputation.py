from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgi_analytics.reputation import LOW_REASON, LOW_REPUTATION, ReputationRules

from .reputation import CALM, HALF_LIFE, decayed, flag_reasons, lowered

NOW = 1_800_000_000.0
scores = st.floats(0, 100)
spans = st.floats(-1e6, 1e9)


@pytest.mark.parametrize(("score", "days", "left"), [(0, 0, 0), (0, 1, 25), (100, 1, 75), (0, 2, 37.5), (50, 9, 50)])
def test_half_of_the_distance_to_fifty_goes_within_a_day_from_both_sides(
    score: float, days: float, left: float
) -> None:
    assert decayed(score, NOW, NOW + days * HALF_LIFE) == pytest.approx(left)


@pytest.mark.parametrize("score", [0.0, 100.0])
def test_a_calm_week_restores_a_reputation(score: float) -> None:
    assert round(decayed(score, NOW, NOW + CALM)) == 50


@given(scores, spans, st.floats(0, 1e7))
def test_the_score_stays_within_bounds_and_never_leaves_its_side(score: float, passed: float, more: float) -> None:
    first, later = decayed(score, NOW, NOW + passed), decayed(score, NOW, NOW + passed + more)
    assert 0 <= first <= 100
    assert abs(later - 50) <= abs(first - 50) + 1e-9
    assert (first - 50) * (score - 50) >= 0


def test_a_clock_that_went_back_changes_nothing() -> None:
    assert decayed(10, NOW, NOW - 5000) == 10
    assert lowered(10, NOW, 5, NOW - 5000) == (5, NOW)


@given(scores, st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 100)), max_size=20))
def test_incidents_never_lead_below_zero(score: float, incidents: list[tuple[float, float]]) -> None:
    since: float | None = None
    at = NOW
    for gap, points in incidents:
        at += gap
        before = decayed(score, since, at)
        score, since = lowered(score, since, points, at)
        assert 0 <= score <= before


@pytest.fixture(scope="module")
def connection(unchanged_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(unchanged_dsn, autocommit=True) as connection:
        yield connection


@settings(max_examples=150, deadline=None)
@given(scores, st.one_of(st.none(), st.integers(-10_000, 200_000_000)))
def test_the_store_has_the_same_formula(connection: psycopg.Connection, score: float, passed: int | None) -> None:
    at = datetime(2026, 6, 1, tzinfo=UTC)
    since = None if passed is None else at - timedelta(seconds=passed)
    row = connection.execute("SELECT analytics.decayed(%s::float8, %s::timestamptz, %s)", (score, since, at)).fetchone()
    assert row is not None
    wanted = decayed(score, None if since is None else since.timestamp(), at.timestamp())
    assert row[0] == pytest.approx(wanted, rel=1e-12, abs=1e-9)


def test_flags_are_told_by_recent_incidents_and_a_low_score() -> None:
    incidents = {"blocked": NOW - 10, "behavioural_score": NOW - CALM - 1}
    assert flag_reasons(incidents, 40, NOW, NOW) == ("blocked",)
    assert flag_reasons({}, LOW_REPUTATION - 1, NOW, NOW) == (LOW_REASON,)
    assert flag_reasons({}, LOW_REPUTATION - 1, NOW, NOW + CALM) == ()


def test_no_incident_makes_a_flag_for_a_low_score_by_itself() -> None:
    assert LOW_REASON not in ReputationRules().points
