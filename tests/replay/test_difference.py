from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from asgi_analytics.model import ClaimStatus
from asgi_analytics.replay import difference as module
from asgi_analytics.replay import tally
from asgi_analytics.replay.difference import (
    BOTS,
    DECLARED,
    NO_PAGES,
    PEOPLE,
    TOOLS,
    VERIFIED,
    Difference,
    as_json,
    report,
)
from asgi_analytics.replay.history import History, Verdict
from asgi_analytics.settings import Settings
from asgi_analytics.store.recorded import RecordedHit


def verdict(path: str, route: str | None = None, then: bool = False, now: bool = False, **more: Any) -> Verdict:
    facts: dict[str, Any] = {
        "id": UUID(int=1), "time": datetime(2026, 3, 1, tzinfo=UTC), "seconds": 0.0, "clock": 0.0,
        "fingerprint": UUID(int=7), "network": UUID(int=8), "session_id": UUID(int=9), "method": "GET",
        "path": path, "route": route, "status": 429 if then else 200, "first_byte_us": 1, "page_view": not then,
        "from_inside": False, "outdated": False, "outcome": "refused" if then else "complete", "refused": then,
        "score": 0, "level": 0, "bot_class": None, "crawler": None, "browser": "Chrome", "policy": None,
        "exempt": False, "banned": False, "claim": None,
    }  # fmt: skip
    return Verdict(RecordedHit(**{**facts, **more}), True, now, 0, 0)


def taken(*verdicts: Verdict) -> Difference:
    difference = Difference()
    for one in verdicts:
        difference.take(one)
    return difference


def visitor(number: int, path: str = "/", route: str | None = None, **more: Any) -> Verdict:
    return verdict(path, route, fingerprint=UUID(int=number), **more)


def test_refused_hits_are_told_under_the_route_that_served_their_path_or_one_of_its_shape() -> None:
    difference = Difference()
    for one in (
        verdict("/articles/1", then=True),
        verdict("/articles/1", "/articles/{number}"),
        verdict("/articles/2", "/articles/{number}", now=True),
        verdict("/users/17", then=True),
        verdict("/users/18", then=True),
    ):
        difference.take(one)
    found = {name: (one.requests, one.newly, one.freed) for name, one in difference.by_route().items()}
    assert found == {"/articles/{number}": (3, 1, 1), "/users/{}": (2, 0, 2)}
    assert '"/users/{}"' in as_json(difference, {})
    assert any("/articles/{number}" in line for line in report(difference, 10))


@pytest.mark.parametrize("bot_class", ["http-library", "scanner"])
def test_a_library_is_no_crawler(bot_class: str) -> None:
    difference = Difference()
    difference.take(verdict("/", then=True, bot_class=bot_class))
    assert difference.kinds(difference.freed_actors())[TOOLS] == 1


@pytest.mark.parametrize(
    ("facts", "kind"),
    [
        ({}, PEOPLE),
        ({"page_view": False}, NO_PAGES),
        ({"score": 49, "level": 2}, PEOPLE),
        ({"score": 50}, BOTS),
        ({"level": 3}, BOTS),
        ({"browser": None}, TOOLS),
        ({"bot_class": "search"}, DECLARED),
        ({"bot_class": "search", "claim": ClaimStatus.FALSE}, DECLARED),
        ({"bot_class": "search", "claim": ClaimStatus.VERIFIED}, VERIFIED),
    ],
)
def test_actors_are_told_apart_as_the_reports_tell_sessions_apart(facts: dict[str, Any], kind: str) -> None:
    difference = taken(verdict("/", now=True, **facts))
    assert {name: count for name, count in difference.kinds(difference.newly_refused()).items() if count} == {kind: 1}


def test_an_actor_keeps_the_highest_that_it_had_and_the_reasons_of_its_last_refusal() -> None:
    crawler: dict[str, Any] = {"bot_class": "search", "claim": ClaimStatus.VERIFIED}
    first = verdict("/", now=True, score=60, level=3, **crawler)._replace(level=2, reasons=("too fast",))
    difference = taken(first, verdict("/", bot_class="search"))
    (actor,) = difference.newly_refused()
    assert (actor.score, actor.level_then, actor.level_now) == (60, 3, 2)
    assert actor.verified
    assert actor.reasons == ("too fast",)


def test_who_is_refused_under_both_policies_is_neither_newly_refused_nor_freed() -> None:
    both = [visitor(1, then=True, now=True), visitor(1, then=True), visitor(1, now=True)]
    difference = taken(*both)
    assert (difference.newly, difference.freed) == (1, 1)
    assert difference.newly_refused() == difference.freed_actors() == []


@pytest.mark.parametrize("then", [False, True])
def test_the_most_refused_come_first(then: bool) -> None:
    difference = taken(*(visitor(number, then=then, now=not then) for number in (1, 2, 2, 3)))
    actors = difference.freed_actors() if then else difference.newly_refused()
    assert [actor.fingerprint.int for actor in actors] == [2, 1, 3]


@pytest.mark.parametrize("differs", [{"score": 1}, {"level": 1}, {"refused": True}])
def test_one_other_score_level_or_refusal_is_a_difference(differs: dict[str, Any]) -> None:
    assert taken(verdict("/")).is_empty
    assert not taken(verdict("/"), verdict("/")._replace(**differs)).is_empty


def test_actors_without_number_cost_bounded_memory_and_those_refused_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ACTORS", 10)
    difference = taken(visitor(0, then=True), *(visitor(number, now=number == 50) for number in range(1, 100)))
    assert len(difference.actors) <= 10
    assert [one.fingerprint.int for one in difference.newly_refused() + difference.freed_actors()] == [50, 0]


def test_a_flood_of_actors_that_were_all_refused_costs_bounded_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ACTORS", 10)
    busy = [visitor(0, now=True)] * 2
    difference = taken(*busy, *(visitor(number, now=True) for number in range(1, 100)))
    assert len(difference.actors) + difference.forgotten == 100
    assert len(difference.actors) <= 10
    assert difference.newly_refused()[0].fingerprint.int == 0
    assert f"{difference.forgotten} actors that were refused least" in "\n".join(report(difference, 10))


@pytest.mark.parametrize("routed", [True, False])
def test_routes_without_number_are_told_as_one(routed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "MAX_ROUTES", 10)
    paths = [f"/{'x' * number}" for number in range(1, 100)]
    difference = taken(*(verdict(path, path if routed else None, now=True) for path in paths))
    found = difference.by_route()
    assert len(found) == 11
    assert found[tally.OTHER_ROUTES].newly == 89


def test_routes_of_no_more_than_so_many_paths_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PATHS", 1)
    served = [verdict(f"/{name}", "/{name}") for name in ("a", "b")]
    difference = taken(*served, verdict("/a", then=True), verdict("/b", then=True))
    assert {name: route.freed for name, route in difference.by_route().items()} == {"/{name}": 1, "/b": 1}


def test_the_report_tells_savings_the_routes_that_differ_most_and_how_many_actors_it_leaves_out() -> None:
    difference = taken(
        visitor(1, "/few", now=True, bot_class="other", crawler="\x1b[2JBot"),
        *(visitor(2, "/many", now=True) for _ in range(2)),
        visitor(3, "/same"),
    )
    lines = list(report(difference, 1))
    assert "Saved       3 requests that would not have reached the app" in lines
    assert "  … and 1 more (--top)" in lines
    assert lines[-1].split() == ["/many", "2", "2", "0"]
    assert list(report(difference, 3))[-2:] == [
        "  /many         2              2      0",
        "  /few          1              1      0",
    ]
    assert not any("\x1b" in line for line in report(difference, 3))
    assert json.loads(as_json(difference, {}))["routes"].keys() == {"/few", "/many"}
    freed = taken(*(visitor(1, "/", then=True) for _ in range(2)), visitor(2, "/", now=True))
    assert "Let in      1 request that would have reached the app" in report(freed, 1)


def test_one_actor_of_a_kind_is_told_as_one() -> None:
    told = list(report(taken(*(visitor(n, now=True, crawler=None, browser=None) for n in (1, 2))), 1))
    assert "Actors newly refused: 2 (2 tools)" in told
    one = taken(visitor(1, now=True, browser=None), visitor(2, now=True), visitor(3, now=True, page_view=False))
    assert "Actors newly refused: 3 (1 likely human, 1 tool, 1 without page loads)" in list(report(one, 1))


def test_a_ban_that_no_policy_changes_is_not_told_as_a_wish_not_to_be_told_apart() -> None:
    hit = verdict("/", then=True, banned=True).hit
    difference = taken(*History(Settings.build()).judge([hit]))
    (kept,) = [line for line in report(difference, 1) if "keep" in line]
    assert kept.strip() == "1 keep their verdicts: visitors who asked not to be told apart, and the banned"


def test_routes_can_be_asked_for_again() -> None:
    difference = taken(verdict("/a", "/{name}"), verdict("/a", then=True))
    assert [difference.by_route()["/{name}"].requests for _ in range(2)] == [2, 2]
