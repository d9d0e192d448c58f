"""Requests that are refused: by quota, level and network, and what they are told."""

from __future__ import annotations

import asyncio
import json

import pytest
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Mount

from asgi_analytics import Analytics, AnalyticsMiddleware
from asgi_analytics.decide.explain import Verdict, detail, reproduce
from asgi_analytics.facts import Throttle, ThrottleLevel
from asgi_analytics.middleware import Scope
from asgi_analytics.record import refusals
from asgi_analytics.testing import FakeClock

from .decide.test_rulings import on_network
from .drive import NOWHERE, OLD, STRICT, ask, block, found, get, http_scope, look, page, rows, start, wrapped


def test_a_used_up_quota_refuses_without_asking_the_app(dsn: str) -> None:
    asked: list[Scope] = []
    with wrapped(look(page(), asked.append), dsn, clock=FakeClock(), limits="2/minute") as wrap:
        statuses = [get(wrap).status for _ in range(3)]
    assert (statuses, len(asked)) == ([200, 200, 429], 2)
    assert sorted(row["outcome"] for row in rows(dsn)) == ["complete", "complete", "refused"]
    (decision,) = rows(dsn, "SELECT * FROM analytics.decisions")
    assert (decision["refused"], decision["enforced"], decision["detail"]["violated"]) == (True, True, ["minute"])


def test_a_refusal_tells_the_id_under_which_its_reasons_are_stored(dsn: str) -> None:
    with wrapped(page(), dsn, clock=FakeClock(), limits="1/minute") as wrap:
        get(wrap)
        reply = get(wrap)
    problem = json.loads(reply.body)
    (decision,) = rows(dsn, "SELECT * FROM analytics.decisions")
    (hit,) = rows(dsn, "SELECT * FROM analytics.hits WHERE outcome = 'refused'")
    assert problem["decision"] == str(decision["id"]) == str(hit["decision_id"])
    assert problem["reasons"] == decision["detail"]["reasons"]
    assert reply.header("content-type") == "application/problem+json"
    assert (hit["status"], hit["bytes_sent"]) == (429, len(reply.body))
    assert reply.header("retry-after") == str(decision["retry_after"]) == str(problem["retry-after"])


def test_a_blocked_visitor_is_refused_until_it_has_cooled_down() -> None:
    clock = FakeClock()
    with wrapped(page(), clock=clock, cooldown=60, **STRICT) as wrap:
        block(wrap)
        refused = get(wrap, "/d", OLD)
        clock.advance(int(refused.header("retry-after") or 0))
        reply = get(wrap, "/d.txt", {**OLD, "sec-fetch-dest": "image"})
    assert (refused.status, refused.header("retry-after")) == (429, "61")
    assert (reply.status, reply.header("x-throttle-level")) == (200, "severe")


def test_head_is_refused_with_the_headers_of_get_and_no_body() -> None:
    with wrapped(page(), clock=FakeClock(), limits="1/minute") as wrap:
        get(wrap)
        by_get, by_head = get(wrap), get(wrap, method="HEAD")
    assert (by_head.status, by_head.body) == (429, b"")
    assert [name for name, _ in by_head.headers] == [name for name, _ in by_get.headers]


def test_a_network_is_bound_whatever_its_visitors_call_themselves() -> None:
    with wrapped(page(), clock=FakeClock(), network_limits="5/minute") as wrap:
        statuses = [get(wrap, headers={"user-agent": f"agent {number}"}).status for number in range(7)]
        elsewhere = get(wrap, client=("198.51.100.8", 1)).status
    assert (statuses, elsewhere) == ([200] * 5 + [429] * 2, 200)


def test_observe_mode_records_what_enforcing_would_do_and_refuses_nobody(dsn: str) -> None:
    seen: list[Analytics] = []
    with wrapped(found(page(), seen), dsn, clock=FakeClock(), mode="observe", limits="1/minute") as wrap:
        statuses = [get(wrap).status for _ in range(3)]
    assert statuses == [200] * 3
    assert [analytics.decision.refused for analytics in seen] == [False, True, True]
    assert {row["outcome"] for row in rows(dsn)} == {"complete"}
    assert [row["enforced"] for row in rows(dsn, "SELECT * FROM analytics.decisions")] == [False, False]


def test_refine_refusal_words_the_body_and_its_own_error_costs_nothing() -> None:
    with wrapped(page(), limits="1/day", refine_refusal=lambda problem: {"status": problem["status"]}) as wrap:
        get(wrap)
        assert json.loads(get(wrap).body) == {"status": 429}
    with wrapped(page(), limits="1/day", refine_refusal=lambda problem: problem["nothing"]) as wrap:
        get(wrap)
        assert json.loads(get(wrap).body)["status"] == 429
        assert wrap.stats()["failures"] == {"refine_refusal": 1}


def test_a_script_of_another_origin_reads_a_refusal_where_cors_is_further_out() -> None:
    site = Starlette(routes=[Mount("/", app=page())])
    site.add_middleware(AnalyticsMiddleware, dsn=NOWHERE, durability="memory", limits="1/day")
    site.add_middleware(CORSMiddleware, allow_origins=["*"], expose_headers=["Retry-After", "RateLimit"])
    origin = {"origin": "https://app.example"}
    preflight = get(site, method="OPTIONS", headers={**origin, "access-control-request-method": "GET"})
    assert [get(site, headers=origin).status for _ in range(2)] == [200, 429]
    refused = get(site, headers=origin)
    assert (preflight.status, refused.header("access-control-allow-origin")) == (200, "*")
    assert refused.header("access-control-expose-headers") == "Retry-After, RateLimit"


def test_a_part_that_is_excluded_further_out_has_limits_of_its_own() -> None:
    with wrapped(page(), limits="1/day") as part, wrapped(page(), limits="2/day") as other:
        site = Starlette(routes=[Mount("/part", app=part), Mount("/", app=other)])
        with wrapped(site, limits="3/day", exclude="/part") as wrap:
            assert [get(wrap, "/part/x").status for _ in range(3)] == [200, 429, 429]
            assert [get(wrap, "/x").status for _ in range(4)] == [200, 200, 200, 429]


def test_in_observe_mode_a_flood_of_what_would_be_refusals_fills_no_table_of_decisions(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "ROWS_PER_VISITOR", 3)
    clock, other = FakeClock(), ("203.0.113.9", 1)
    with wrapped(page(), dsn, clock=clock, mode="observe", limits="1/hour") as wrap:
        start(wrap)
        for _ in range(2):
            for _ in range(10):
                assert get(wrap).status == 200
            get(wrap, client=other)
            clock.advance(60)
    counted = "SELECT count(*) AS hits, count(decision_id) AS refused, count(DISTINCT decision_id) AS told"
    assert rows(dsn, f"{counted} FROM analytics.hits") == [{"hits": 22, "refused": 20, "told": 7}]
    assert rows(dsn, "SELECT count(*) AS told FROM analytics.decisions") == [{"told": 7}]
    alike = "SELECT bool_and(hits.fingerprint = decisions.fingerprint AND refused) AS alike"
    assert rows(dsn, f"{alike} FROM analytics.hits JOIN analytics.decisions ON decisions.id = decision_id") == [
        {"alike": True}
    ]


def test_who_is_blocked_again_with_the_request_that_a_cool_down_is_noted_with_is_one_of_the_blocked(dsn: str) -> None:
    clock = FakeClock()
    with wrapped(page(), dsn, clock=clock, **STRICT) as wrap:
        start(wrap)
        block(wrap)
        clock.advance(601)
        again, state = get(wrap, "/d", OLD), wrap._engine.state
        assert (again.status, again.header("x-throttle-level")) == (200, "blocked")
        assert (len(state._flagged), len(state._blocked)) == (0, 1)
    found = rows(dsn, "SELECT count(*) AS times FROM analytics.incidents WHERE kind = 'blocked'")
    assert found == [{"times": 2}]


def test_what_is_told_of_a_level_that_cooled_down_is_what_the_answer_raised_too() -> None:
    clock, seen = FakeClock(), list[Analytics]()
    with wrapped(found(page(), seen), clock=clock) as wrap:
        get(wrap, "/", OLD, method="HEAD")
        seen[0]._visitor.actor.throttle = Throttle(ThrottleLevel.SEVERE, clock.monotonic() - 650.0)
        get(wrap, "/", OLD)
    decision = seen[1].decision
    assert decision.previous_level == ThrottleLevel.SEVERE
    stored = detail(decision, decision.findings, decision.inputs, "policy")
    assert reproduce(stored) == Verdict(False, 1, 10, ())


def test_what_is_told_of_a_ban_is_what_the_visitors_score_is_made_of_too() -> None:
    clock, scope = FakeClock(), http_scope(headers=OLD, state={})
    with wrapped(page(), clock=clock) as wrap:
        get(wrap, "/", OLD)
        now = clock.monotonic()
        wrap._engine.rulings.learn_rulings([on_network("198.51.100.7/32", made_at=now, until=now + 60.0)], now)
        assert asyncio.run(ask(wrap, scope)).status == 429
    decision = scope["state"]["analytics"].decision
    stored = detail(decision, decision.findings, decision.inputs, "policy")
    assert reproduce(stored) == Verdict(True, 3, 10, ("ban",))
