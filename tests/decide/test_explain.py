from __future__ import annotations

import json
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_analytics.decide import explain, verdict
from asgi_analytics.decide.actor import adopt_level
from asgi_analytics.decide.admission import admit
from asgi_analytics.decide.explain import detail, inputs_of_admission, inputs_of_ban, inputs_of_rise
from asgi_analytics.decide.signal import Signal
from asgi_analytics.facts import Finding, ThrottleLevel
from asgi_analytics.model import Decision
from tests.build import COMPILED, DIRECT
from tests.decide.test_rulings import NOW, A, blocked_visit, ruling

from .visits import Visit, policy_of

VERSION = "0123456789ab"


def again(stored: dict[str, Any]) -> explain.Verdict:
    """Decide on what came out of the database: JSON."""
    return explain.reproduce(json.loads(json.dumps(stored, allow_nan=False)))


def told(decision: Decision) -> explain.Verdict:
    return explain.Verdict(decision.refused, int(decision.level), decision.score, decision.violated)


@pytest.fixture
def rises(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], Decision]]:
    """The inputs of each rise, taken where the engine takes them, and its decision."""
    if COMPILED:
        pytest.skip(DIRECT)
    found: list[tuple[dict[str, Any], Decision]] = []
    escalate = verdict.Judge._escalate

    def watched(judge: verdict.Judge, judged: Any, *others: Any) -> None:
        decision: Decision = others[3]
        escalate(judge, judged, *others)
        found.append((detail(decision, judged.signals, decision.inputs, VERSION), decision))

    monkeypatch.setattr(verdict.Judge, "_escalate", watched)
    return found


def refusal_of(visit: Visit) -> tuple[dict[str, Any], Decision]:
    decision = admit(visit.visitor, visit.network, visit.policy, visit.now)
    assert decision.refused
    inputs = inputs_of_admission(visit.visitor, visit.network, decision, visit.policy, visit.now)
    return detail(decision, visit.visitor.signals, inputs, VERSION), decision


def test_every_rise_is_reproduced_from_its_inputs(rises: list[tuple[dict[str, Any], Decision]]) -> None:
    blocked_visit()
    assert [decision.level for _, decision in rises] == [1, 2, 3]
    for stored, decision in rises:
        assert again(stored) == told(decision)


def test_a_rise_for_its_score_says_what_would_have_kept_the_level(
    rises: list[tuple[dict[str, Any], Decision]],
) -> None:
    visit = Visit()
    for number in range(80):
        visit.load(f"/{number:04}", after=5.0)
    stored, decision = rises[0]
    assert (decision.score, stored["passes"]) == (
        50,
        [
            "a score below 50: 1 point fewer of",
            "  at most 80 per cent of the steps in alphabetical or numerical order (20 points)",
            "  page loads less regular than a coefficient of variation of 0.1 (15 points)",
            "  at most 5 page loads per minute over five minutes (15 points)",
        ],
    )


def test_a_score_that_was_spent_before_is_no_reason_for_a_rise_without_further_pages(
    rises: list[tuple[dict[str, Any], Decision]],
) -> None:
    visit = Visit()
    for number in range(80):
        visit.load(f"/{number:04}", after=5.0)
    stored, decision = rises[0]
    inputs = {**stored["inputs"], "spent_score": decision.score, "further_loads": 1000}
    assert again({**stored, "inputs": inputs}) == explain.Verdict(False, decision.level - 1, decision.score, ())
    inputs = {**inputs, "further_loads": inputs["page_loads"]}
    assert again({**stored, "inputs": inputs}) == told(decision)


def test_a_rise_for_errors_says_how_many_would_have_passed(rises: list[tuple[dict[str, Any], Decision]]) -> None:
    visit = Visit()
    for number in range(25):
        visit.fail(f"/missing/{number}", after=1.0)
    stored, decision = rises[0]
    assert stored["passes"] == ["at most 10 of the 21 requests answered with an error"]
    assert again(stored) == told(decision)


def test_a_rise_of_who_was_blocked_and_goes_on_failing_is_reproduced(
    rises: list[tuple[dict[str, Any], Decision]],
) -> None:
    visit = Visit()
    for number in range(70):
        visit.fail(f"/missing/{number}", after=600.0 if number == 63 else 1.0)
    assert [decision.level for _, decision in rises] == [1, 2, 3, 3]
    assert again(rises[-1][0]) == told(rises[-1][1])


def test_a_signal_of_the_sites_own_that_is_raised_below_its_limit_is_reproduced(
    rises: list[tuple[dict[str, Any], Decision]],
) -> None:
    few = Signal("few_inner_steps", lambda *_: 5.0, "{value:.0f} % (limit {limit:g} %)", True, points=60, threshold=10)
    Visit(policy_of(signals=[few])).load("/")
    ((stored, decision),) = rises
    assert again(stored) == told(decision) == explain.Verdict(False, 1, 60, ())
    assert stored["passes"][1:] == ["  few_inner_steps not below 10 (60 points)"]


def test_a_block_is_reproduced_and_says_how_long_to_wait() -> None:
    visit = blocked_visit()
    visit.now += 100.0
    stored, decision = refusal_of(visit)
    assert again(stored) == told(decision) == explain.Verdict(True, 3, decision.score, ("throttle",))
    assert stored["passes"] == ["wait 9 min: then the level cools down to severe"]


@given(st.integers(1, 30), st.floats(0, 200), st.integers(0, 40))
def test_a_used_up_quota_is_reproduced_at_any_moment(limit: int, pause: float, before: int) -> None:
    visit = Visit(policy_of(limits=f"{limit}/minute", network_limits="25/minute"))
    for _ in range(before):
        visit.call()
    visit.now += pause
    decision = visit.call()
    inputs = inputs_of_admission(visit.visitor, visit.network, decision, visit.policy, visit.now)
    if decision.refused:
        stored = detail(decision, (), inputs, VERSION)
        assert again(stored) == told(decision)
        assert stored["passes"]


def test_a_level_that_cools_down_with_the_last_unit_of_a_quota_is_reproduced() -> None:
    visit = Visit(policy_of(limits="4/minute", network_limits=(), cooldown=600))
    adopt_level(visit.visitor, ThrottleLevel.BLOCKED, visit.now - 600.0)
    decision = admit(visit.visitor, visit.network, visit.policy, visit.now)
    assert (decision.refused, decision.level, decision.remaining) == (False, 2, (0,))
    inputs = inputs_of_admission(visit.visitor, visit.network, decision, visit.policy, visit.now)
    assert again(detail(decision, (), inputs, VERSION)) == told(decision)


def test_a_used_up_quota_says_the_limit_and_the_wait() -> None:
    visit = Visit(policy_of(limits="3/minute"), now=60_000.0)
    for _ in range(3):
        visit.call()
    visit.now += 10.0
    stored, decision = refusal_of(visit)
    assert stored["passes"] == ['under 3 requests in 60 s (quota "minute"), or wait 50 s']
    assert decision.retry_after == 51


@pytest.mark.parametrize(("until", "wait"), [(NOW + 100, "100 s"), (inf, "24856 days")])
def test_a_ban_is_reproduced_and_says_its_end(until: float, wait: str) -> None:
    banned = ruling(fingerprint=A, until=until)
    from asgi_analytics.decide.rulings import refusal

    decision = refusal(banned, 1, 0, NOW)
    stored = detail(decision, (), inputs_of_ban(banned, NOW), VERSION)
    assert again(stored) == told(decision)
    assert stored["passes"] == [f"wait {wait}: then the ban ends; `asgi-analytics pardon` lifts it at once"]


def test_values_that_json_does_not_know_are_left_out() -> None:
    odd = Finding("custom", 50, float("nan"), float("inf"), "odd")
    stored = detail(Decision(score=50), [odd], {"level": 0, **_rise()}, VERSION)
    assert again(stored).score == 50


def test_a_signal_that_would_not_be_raised_by_its_value_does_not_count() -> None:
    changed = Finding("high_request_count", 30, 40.0, 50.0, "")
    stored = detail(Decision(score=30), [changed], {"level": 0, **_rise()}, VERSION)
    assert again(stored).score == 0


def _rise() -> dict[str, Any]:
    visit = Visit()
    return inputs_of_rise(visit.visitor, visit.policy, visit.now)
