from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from asgi_analytics.decide import throttle
from asgi_analytics.decide.rulings import forgive
from asgi_analytics.facts import Actor, Behaviour, Throttle, ThrottleLevel, Traces, Window

from .visits import START

NORMAL, WARNING, SEVERE, BLOCKED = ThrottleLevel
LIMITS = throttle.EscalationLimits(bot_score=50, further_loads=50.0)
END = 100_020.0  # the minute that START lies in
SPENT = Throttle(spent_score=65, spent_page_loads=100, spent_paced_loads=100, spent_requests=100, spent_errors=50)


def evidence(level: ThrottleLevel = NORMAL, score: int = 0, spent: Throttle | None = None, **facts: Any) -> int:
    state = replace(spent or Throttle(), level=level, changed_at=START)
    visitor = Actor([], state, Behaviour(**facts), score=score)
    return len(throttle.new_evidence(visitor, LIMITS, START))


def minute(count: int) -> Window:
    return Window(END, count)


@pytest.mark.parametrize(
    ("limit", "limits"),
    [(100, [100, 50, 25, 0]), (7, [7, 3, 1, 0]), (3, [3, 1, 1, 0]), (1, [1, 1, 1, 0])],
)
def test_a_level_lowers_the_limit_but_only_blocked_to_nothing(limit: int, limits: list[int]) -> None:
    assert [throttle.effective_limit(limit, level) for level in ThrottleLevel] == limits


@pytest.mark.parametrize(
    ("facts", "criteria"),
    [
        ({"score": 49}, 0),
        ({"score": 50}, 1),
        ({"paced_loads": 30, "minute": minute(30)}, 0),
        ({"paced_loads": 31, "minute": minute(31)}, 1),
        ({"paced_loads": 90, "minute": minute(90), "people": 3}, 0),
        ({"paced_loads": 93, "minute": minute(93), "people": 3}, 1),
        ({"requests": 20, "errors": 20}, 0),
        ({"requests": 21, "errors": 11}, 1),
        ({"requests": 22, "errors": 11}, 0),
        ({"score": 50, "paced_loads": 31, "minute": minute(31), "requests": 31, "errors": 31}, 3),
    ],
)
def test_a_criterion_is_met_beyond_its_edge(facts: dict[str, Any], criteria: int) -> None:
    assert evidence(**facts) == criteria


@pytest.mark.parametrize(
    ("facts", "criteria"),
    [
        ({"score": 65, "page_loads": 149}, 0),
        ({"score": 66, "page_loads": 100}, 1),
        ({"score": 65, "page_loads": 150}, 1),
        ({"paced_loads": 130, "minute": minute(60)}, 0),
        ({"paced_loads": 131, "minute": minute(60)}, 1),
        ({"requests": 120, "errors": 70}, 0),
        ({"requests": 121, "errors": 61}, 1),
        ({"requests": 121, "errors": 60}, 0),
    ],
)
def test_spent_evidence_does_not_count_again(facts: dict[str, Any], criteria: int) -> None:
    assert evidence(WARNING, spent=SPENT, **facts) == criteria


LATER = 100_200.0  # the five and the ten minutes that START lies in


def tried(tries: int, lately: int) -> Traces:
    return Traces(tries=tries, ten_minutes=Window(LATER, lately))


def fetched(items: int, lately: int, calls: int = 0) -> Traces:
    return Traces(items=items, five_minutes=Window(LATER, lately), calls=calls)


@pytest.mark.parametrize(
    ("level", "traces", "criteria"),
    [
        (NORMAL, Traces(probes=5), 0),
        (NORMAL, Traces(probes=6), 1),
        (NORMAL, tried(20, 20), 0),
        (NORMAL, tried(21, 21), 1),
        (NORMAL, tried(90, 20), 0),
        (NORMAL, fetched(150, 150), 0),
        (NORMAL, fetched(151, 151), 1),
        (NORMAL, fetched(900, 150), 0),
        (NORMAL, fetched(151, 151, calls=1000), 0),
        (WARNING, fetched(10, 10), 0),
        (WARNING, fetched(11, 11), 1),
    ],
)
def test_what_is_no_page_load_meets_a_criterion_by_itself_whatever_the_score(
    level: ThrottleLevel, traces: Traces, criteria: int
) -> None:
    assert evidence(level, traces=traces) == criteria


@pytest.mark.parametrize(("items", "criteria"), [(50, 0), (51, 1)])
def test_items_that_do_not_come_by_the_second_may_be_more(items: int, criteria: int) -> None:
    state = Throttle(WARNING, START - 51.0)
    visitor = Actor([], state, Behaviour(traces=fetched(items, items)))
    assert len(throttle.new_evidence(visitor, LIMITS, START)) == criteria


def test_a_blocked_visitor_gives_no_evidence() -> None:
    assert evidence(BLOCKED, score=100, paced_loads=500, minute=minute(500)) == 0


def test_escalation_goes_up_by_one_and_ends_at_blocked() -> None:
    visitor, levels = Actor([]), []
    for _ in range(4):
        throttle.escalate(visitor, ("reason",), START)
        levels.append(visitor.throttle.level)
    assert levels == [WARNING, SEVERE, BLOCKED, BLOCKED]


@pytest.mark.parametrize(
    ("seconds", "level"),
    [(0, BLOCKED), (599.9, BLOCKED), (600, SEVERE), (1199.9, SEVERE), (1200, WARNING), (1800, NORMAL), (1e9, NORMAL)],
)
def test_a_level_cools_down_with_every_cool_down_that_passed(seconds: float, level: ThrottleLevel) -> None:
    visitor = Actor([], Throttle(BLOCKED, START))
    throttle.cool_down(visitor, 600.0, START + seconds)
    assert visitor.throttle.level == level


def test_cooling_late_is_the_same_as_cooling_in_time() -> None:
    late, timely = Actor([], Throttle(BLOCKED, START)), Actor([], Throttle(BLOCKED, START))
    for second in range(0, 1500, 7):
        throttle.cool_down(timely, 600.0, START + second)
    throttle.cool_down(late, 600.0, START + 1499)
    assert late == timely
    for actor in (timely, late):
        throttle.cool_down(actor, 600.0, START + 1800)
        throttle.cool_down(actor, 600.0, START + 9999)
    throttle.cool_down(once := Actor([], Throttle(BLOCKED, START)), 600.0, START + 9999)
    assert once == timely, "Normal since then, not since it was noted"


def test_cooling_down_spends_the_evidence() -> None:
    visitor = Actor([], Throttle(SEVERE, START), Behaviour(page_loads=80), score=65)
    throttle.cool_down(visitor, 600.0, START + 600)
    assert throttle.new_evidence(visitor, LIMITS, START + 600) == ()


def test_less_is_enough_to_be_blocked_again_until_the_level_is_normal() -> None:
    visitor = Actor([])
    for _ in range(3):
        throttle.escalate(visitor, ("reason",), START)
    paces = []
    for seconds in (0.0, 600.0, 1200.0, 1800.0):
        throttle.cool_down(visitor, 600.0, START + seconds)
        paces.append((visitor.throttle.level, throttle.pace_limit(visitor, START + seconds)))
    assert paces == [(BLOCKED, 7.5), (SEVERE, 7.5), (WARNING, 7.5), (NORMAL, 30.0)]


@pytest.mark.parametrize(
    "end",
    [
        lambda visitor: throttle.adopt(visitor, NORMAL, START + 1.0, ()),
        lambda visitor: forgive(visitor, START + 1.0),
    ],
    ids=["adopted", "pardoned"],
)
def test_whoever_made_it_normal_all_is_needed_again(end: Callable[[Actor], None]) -> None:
    visitor = Actor([], Throttle(BLOCKED, START, was_blocked=True))
    end(visitor)
    assert (visitor.throttle.level, throttle.pace_limit(visitor, START + 1.0)) == (NORMAL, 30.0)


def test_less_is_enough_after_a_block_at_another_worker_too() -> None:
    visitor = Actor([], Throttle(), Behaviour(quiet_until=30))
    throttle.adopt(visitor, BLOCKED, START, ())
    assert visitor.behaviour.quiet_until < 0
    throttle.cool_down(visitor, 600.0, START + 1200.0)
    assert (visitor.throttle.level, throttle.pace_limit(visitor, START + 1200.0)) == (WARNING, 7.5)


def test_less_is_enough_after_a_block_that_has_cooled_down_at_another_worker_too() -> None:
    visitor = Actor([], Throttle(BLOCKED, START, was_blocked=True))
    throttle.adopt(visitor, WARNING, START + 1200.0, ())
    assert (visitor.throttle.level, throttle.pace_limit(visitor, START + 1200.0)) == (WARNING, 7.5)


@pytest.mark.parametrize(
    ("level", "before", "taken"),
    [
        (NORMAL, 1.0, SEVERE),  # as of who knew of an older one only, which has cooled down
        (WARNING, -1.0, SEVERE),
        (SEVERE, 1.0, SEVERE),
        (BLOCKED, -1.0, BLOCKED),
        (BLOCKED, -1200.0, SEVERE),  # of which Warning is left
    ],
)
def test_of_two_workers_levels_that_of_which_more_is_left_is_taken(
    level: ThrottleLevel, before: float, taken: ThrottleLevel
) -> None:
    visitor = Actor([], Throttle(SEVERE, START))
    throttle.adopt(visitor, level, START + before, (), 600.0, START + 10.0)
    assert visitor.throttle.level == taken


def test_a_clock_set_back_prolongs_no_cool_down() -> None:
    visitor = Actor([], Throttle(BLOCKED, START))
    throttle.cool_down(visitor, 600.0, START - 50_000)
    assert throttle.time_to_cool_down(visitor.throttle, 600.0, START - 50_000) == 600.0


def test_the_later_change_wins() -> None:
    visitor = Actor([], Throttle(WARNING, START), score=70)
    throttle.adopt(visitor, NORMAL, START - 1, ("old",))
    assert visitor.throttle.level == WARNING
    throttle.adopt(visitor, SEVERE, START + 1, ("newer",))
    assert (visitor.throttle.level, visitor.throttle.changed_at) == (SEVERE, START + 1)
    assert throttle.new_evidence(visitor, LIMITS, START + 1) == ()


def test_a_level_from_before_this_machine_started_is_adopted() -> None:
    visitor = Actor([])
    throttle.adopt(visitor, BLOCKED, -200.0, ())
    assert visitor.throttle.level == BLOCKED


def test_a_reason_never_tells_a_value_that_looks_allowed() -> None:
    """Of thirty loads of the minute before, weighed by the time, and twenty of this one, 30.3 count."""
    visitor = Actor([], Throttle(), Behaviour(paced_loads=60, minute=Window(END, 20, 31)))
    assert throttle.new_evidence(visitor, LIMITS, END - 20.0) == ("31 page loads in the last minute (limit 30)",)
