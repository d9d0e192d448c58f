"""An office in an app without pages of its own: people who look alike behind one address, told by their logins."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from asgi_analytics.decide.actor import new_actor
from asgi_analytics.decide.behaviour import MAX_PEOPLE
from asgi_analytics.decide.callers import MAX_CALLERS, callers
from asgi_analytics.decide.items import count_data
from asgi_analytics.decide.site import MAX_TOLD_APART, Site
from tests.benchmarks.detect.columns import Ours, Verdict
from tests.benchmarks.detect.site import JSON, Reply
from tests.benchmarks.detect.traffic import Headers, Request

from .test_calls import BROWSER, DATA, PHONE, ours, touched
from .visits import START

__all__ = ["ours"]
Login = Callable[[int, float], tuple[bytes, bytes]]
ELSEWHERE = {b"sec-fetch-site": b"same-site", b"origin": b"https://app.shop.example"}
CALLED = {**dict(BROWSER.call("/")), **ELSEWHERE}


def session(who: int, now: float) -> tuple[bytes, bytes]:
    return b"cookie", b"_ga=GA1.1.%d; sessionid=%032x; csrftoken=%032d" % (now, who + 1, now)


def signed(who: int, now: float) -> tuple[bytes, bytes]:
    """As Starlette's, signed anew by each answer."""
    return b"cookie", b"session=eyJ1c2VyIjog%02d.aS%04d.%027d" % (who, now, now)


def token(who: int, now: float) -> tuple[bytes, bytes]:
    return b"authorization", b"Bearer %032x" % who


def made_up(who: int, now: float) -> tuple[bytes, bytes]:
    return b"cookie", b"sessionid=%032x" % int(now * 1e6)


def judged(ours: Ours, asked: list[tuple[float, Headers]]) -> list[Verdict]:
    dice = random.Random(5)
    return [
        ours.judge(Request(at, "84.130.9.9", "GET", f"/api/things/{dice.randrange(90_000)}", b"", headers), DATA)
        for at, headers in sorted(asked)
    ]


def office(ours: Ours, login: Login, people: int = 24, minutes: int = 6) -> list[Verdict]:
    """Each looks at one thing, for which the app asks in five parts, every twenty seconds or so."""
    dice, asked = random.Random(3), []
    for who in range(people):
        now = 10.0 + dice.uniform(0.0, 20.0)
        while now < 10.0 + 60.0 * minutes:
            asked += [(at, (*CALLED.items(), login(who, at))) for at in (now + 0.1 * part for part in range(5))]
            now += 16.0 * dice.lognormvariate(0.0, 0.7)
    return judged(ours, asked)


@pytest.mark.parametrize("login", [session, signed, token])
def test_people_whose_logins_come_back_are_many(ours: Ours, login: Login) -> None:
    assert touched(office(ours, login)) == []


def test_people_behind_a_proxy_that_strips_fetch_metadata_are_many(tmp_path: Path) -> None:
    stripped = Ours(str(tmp_path))
    plain = tuple(line for line in CALLED.items() if not line[0].startswith(b"sec-fetch"))
    asked = [(10.0 + n / 2.0, (*plain, session(n % 16, 0.0))) for n in range(800)]
    found = touched(judged(stripped, asked))
    stripped.close()
    assert found == []


def test_cookies_made_up_for_each_request_are_one(ours: Ours) -> None:
    assert office(ours, made_up)[299].refused


@pytest.mark.parametrize("turns", [1, 40])
@pytest.mark.parametrize("rate", [10.0, 20.0])
def test_a_fast_walk_is_refused_however_many_cookies_take_turns(ours: Ours, rate: float, turns: int) -> None:
    walk = [(10.0 + n / rate, (*CALLED.items(), session(n // turns % 50, 0.0))) for n in range(330)]
    assert judged(ours, walk)[-1].refused


def test_any_program_may_keep_cookies_but_devices_with_a_token_each_are_many(ours: Ours) -> None:
    """Twenty handhelds in a warehouse, by one app."""
    for login, start in ((token, 10.0), (session, 5_000.0)):
        asked = [(start + n / 2.0, (*PHONE, login(n % 20, 0.0))) for n in range(2_000)]
        assert judged(ours, asked)[-1].refused is (login is session)


def test_three_hundred_devices_that_report_each_minute_with_a_token_each_are_many(ours: Ours) -> None:
    paths = [f"/devices/{number}" for number in range(300)]
    found = []
    for turn in range(2_400):
        who = turn % 300
        request = Request(10.0 + turn / 5.0, "84.130.9.9", "GET", paths[who], b"", (*PHONE, token(who, 0.0)))
        found.append(ours.judge(request, DATA))
    assert touched(found) == []


def test_a_class_whose_answers_are_wrong_half_of_the_time_guesses_nothing(ours: Ours) -> None:
    """Twenty-eight pupils; and one who tries as often, by cookies that are made up for each try."""
    for login, start in ((session, 10.0), (made_up, 9_000.0)):
        dice, found = random.Random(3), []
        for number in range(1_000):
            at, wrong = start + number, dice.random() < 0.4
            headers = (
                *CALLED.items(),
                login(number * 37 % 28, at),
                (b"content-length", b"%d" % dice.randrange(24, 64)),
            )
            request = Request(at, "84.130.9.9", "POST", "/tasks/verify", b"", headers)
            found.append(ours.judge(request, Reply(422, JSON) if wrong else DATA))
        assert (touched(found) == []) is (login is session)


def test_a_login_that_comes_back_after_others_is_a_person_in_whole_after_five_minutes() -> None:
    visitor, site, now = new_actor(0), Site(), START
    facts = visitor.behaviour
    found = []
    for login, after in (
        (1, 0.0),
        (1, 29.0),
        (2, 1.0),
        (2, 29.0),
        (1, 1.0),
        (2, 1.0),
        (3, 1.0),
        (3, 147.0),
        (3, 299.0),
    ):
        now += after
        count_data(visitor, "/api/me", site, now, login=login)
        found.append(round(callers(facts, now), 2))
    assert found == [1, 1, 1, 1, 1, 1, 1, 1, 2], "two came back, half a person each after half of the time"
    assert facts.traces is not None
    assert (len(facts.traces.joined), facts.traces.settled) == (0, 2)


def test_of_many_logins_the_last_ones_are_known() -> None:
    visitor, site = new_actor(0), Site()
    for number in range(2 * MAX_CALLERS):
        count_data(visitor, "/api/me", site, START + number, login=number + 1)
    for turn in range(MAX_CALLERS):
        count_data(visitor, "/api/me", site, START + 500.0 + turn, login=2 * MAX_CALLERS - turn)
    traces = visitor.behaviour.traces
    assert traces is not None
    assert traces.callers is not None
    assert (len(traces.callers), len(traces.joined)) == (MAX_CALLERS, MAX_PEOPLE)


def test_logins_are_remembered_of_a_bounded_number_of_visitors() -> None:
    site, visitors = Site(), [new_actor(0) for _ in range(MAX_TOLD_APART + 5)]
    for visitor in visitors:
        for number in range(3):
            count_data(visitor, "/api/me", site, START, login=number + 1)
    known = [one.behaviour.traces.callers is not None for one in visitors if one.behaviour.traces is not None]
    assert known == [False] * 5 + [True] * MAX_TOLD_APART
    assert callers(visitors[0].behaviour, START) == 1
