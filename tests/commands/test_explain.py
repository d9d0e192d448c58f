"""`explain` as operators run it: what is stored of a decision, told and decided again."""

from __future__ import annotations

import json
from math import inf
from typing import Any
from uuid import UUID

import psycopg
import pytest

from asgi_analytics.clock import random_bytes
from asgi_analytics.decide import explain
from asgi_analytics.decide.admission import admit
from asgi_analytics.facts import Finding
from asgi_analytics.model import MAX_SCORE, Decision
from asgi_analytics.store.postgres import PostgresStore
from tests.decide.visits import Visit, policy_of
from tests.drive import called


def test_explain_prints_what_is_stored_and_decides_again(store: PostgresStore, dsn: str) -> None:
    decision, detail = decided()
    put(dsn, decision, detail)
    shown = told(decision, "--dsn", dsn)
    assert 'under 3 requests in 60 s (quota "minute"), or wait 50 s' in shown
    assert f"Policy {detail['policy']}; decided again, the stored inputs give the same verdict" in shown


def test_explain_tells_all_as_json(store: PostgresStore, dsn: str) -> None:
    decision, detail = decided()
    put(dsn, decision, detail, enforced=False)
    found = json.loads(told(decision, "--json", "--dsn", dsn))
    assert (found["reproduced"], found["detail"]) == (True, detail)
    assert found["verdict"] == "served; mode enforce would have refused it with 429"
    assert found["passes"] == detail["passes"]


@pytest.mark.parametrize(("below", "told_of_limit"), [(False, "at most 10"), (True, "at least 10")])
def test_a_signal_of_the_sites_own_is_told_on_its_side_of_the_limit_also_without_a_finite_value(
    store: PostgresStore, dsn: str, below: bool, told_of_limit: str
) -> None:
    decision, detail = decided()
    signal = Finding("steps_per_page", 20, -inf if below else inf, 10.0, "steps per page", below)
    put(dsn, decision, explain.detail(decision, [signal], detail["inputs"], "v1"))
    (row,) = (line for line in told(decision, "--dsn", dsn).splitlines() if line.startswith("  steps_per_page"))
    assert row.split(maxsplit=4) == ["steps_per_page", "-", "10", "20", told_of_limit]


def test_a_score_that_is_higher_than_a_row_has_it_is_the_same_again(store: PostgresStore, dsn: str) -> None:
    decision, detail = decided()
    signal = Finding("probing", 40_000, 3.0, 1.0, "probing")
    decision.score = MAX_SCORE
    put(dsn, decision, explain.detail(decision, [signal], detail["inputs"], "v1"))
    assert "the stored inputs give the same verdict" in told(decision, "--dsn", dsn)


def told(decision: Decision, *arguments: str) -> str:
    answer = called("explain", (decision.id or b"").hex(), *arguments)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def decided() -> tuple[Decision, dict[str, Any]]:
    """A refusal by quota with its stored detail."""
    visit = Visit(policy_of(limits="3/minute"), now=60_000.0)
    for _ in range(3):
        visit.call()
    visit.now += 10.0
    decision = admit(visit.visitor, visit.network, visit.policy, visit.now)
    decision.id = random_bytes(16)
    inputs = explain.inputs_of_admission(visit.visitor, visit.network, decision, visit.policy, visit.now)
    return decision, explain.detail(decision, (), inputs, "v1")


def put(dsn: str, decision: Decision, detail: dict[str, Any], enforced: bool = True) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "INSERT INTO analytics.decisions"
            " (id, time, site, hit_id, refused, enforced, level, score, retry_after, detail)"
            " VALUES (%s, now(), 'default', gen_random_uuid(), %s, %s, %s, %s, %s, %s)",
            (
                UUID(bytes=decision.id),
                decision.refused,
                enforced,
                int(decision.level),
                decision.score,
                decision.retry_after,
                json.dumps(detail),
            ),
        )
