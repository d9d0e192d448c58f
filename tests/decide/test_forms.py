"""Forms that no page sent: at a program's pace they count as pages do."""

from __future__ import annotations

import pytest

from asgi_analytics.decide.behaviour import count_form
from asgi_analytics.facts import Behaviour, Program
from tests.benchmarks.detect.columns import Ours
from tests.benchmarks.detect.programs import headers_of
from tests.benchmarks.detect.site import HTML, JSON, ORIGIN, Reply
from tests.benchmarks.detect.traffic import Headers

from .conduct import send as answer
from .test_calls import BROWSER, PAGE, PHONE, TOOL, TYPED, ours, send, touched
from .visits import Visit

__all__ = ["ours"]

FORM = (b"content-type", b"application/x-www-form-urlencoded")
FAILED = Reply(500)


@pytest.mark.parametrize("headers", [TOOL, headers_of("sqlmap/1.7"), headers_of(BROWSER.agent), BROWSER.page(ORIGIN)])
@pytest.mark.parametrize("reply", [PAGE, Reply(422)])
def test_one_form_again_and_again_by_who_loaded_no_page_is_refused(ours: Ours, headers: Headers, reply: Reply) -> None:
    verdicts = send(ours, ["/find"] * 200, 0.1, (*headers, FORM), reply, "POST")
    assert 110 <= [verdict.refused for verdict in verdicts].index(True) <= 180
    assert verdicts[-1].refused


def test_a_form_that_the_app_fails_at_now_and_then_is_refused_as_soon(ours: Ours) -> None:
    """As by a scanner that tries SQL."""
    verdicts = [
        send(ours, ["/find"], 0.0, (*TOOL, FORM), FAILED if number % 3 else PAGE, "POST", 10.0 + 0.1 * number)[0]
        for number in range(200)
    ]
    assert 110 <= [verdict.refused for verdict in verdicts].index(True) <= 150


def test_an_app_that_always_fails_is_at_fault(ours: Ours) -> None:
    assert touched(send(ours, ["/find"] * 300, 0.1, (*TOOL, FORM), FAILED, "POST")) == []


def test_people_at_work_in_an_app_of_forms_are_not_touched(ours: Ours) -> None:
    """Each click is a form there, and an office has one address."""
    send(ours, ["/desk"], 0.0, TYPED, PAGE, start=9.0)
    assert touched(send(ours, ["/desk"] * 600, 0.3, (*BROWSER.page(f"{ORIGIN}/desk"), FORM), PAGE, "POST")) == []


@pytest.mark.parametrize("told", [BROWSER.call("/new"), (*headers_of(BROWSER.agent), (b"origin", b"http://x"))])
def test_a_text_that_is_shown_at_each_key_is_not_touched(ours: Ours, told: Headers) -> None:
    """Its page was loaded before the app was started again. Over plain http, browsers say less."""
    assert touched(send(ours, ["/preview"] * 600, 0.2, (*told, FORM), PAGE, "POST")) == []


@pytest.mark.parametrize(
    ("headers", "reply"),
    [
        ((*TOOL, FORM), Reply(200, HTML, length=b"2")),
        ((*PHONE, FORM), Reply(200, JSON)),
        ((*TOOL, FORM), Reply(303, location=b"/thanks")),
        ((*TOOL, FORM, (b"x-twilio-signature", b"x")), PAGE),
        ((*TOOL, FORM, (b"authorization", b"Bearer x")), PAGE),
        ((*TOOL, (b"content-type", b"application/json")), PAGE),
    ],
    ids=["OK", "json", "redirected", "signed", "token", "no form"],
)
def test_what_servers_report_and_apps_send_is_not_touched(ours: Ours, headers: Headers, reply: Reply) -> None:
    assert touched(send(ours, ["/callback"] * 400, 0.1, headers, reply, "POST")) == []


def test_forms_slower_than_one_a_second_do_not_count() -> None:
    facts = Behaviour()
    assert not any(count_form(facts, True, 10.0 + 1.5 * number) for number in range(500))


@pytest.mark.parametrize(("gap", "refused"), [(1.2, True), (2.2, False)])
def test_forms_under_a_browsers_name_count_up_to_two_seconds_apart(ours: Ours, gap: float, refused: bool) -> None:
    headers = (*headers_of(BROWSER.agent), FORM)
    assert send(ours, ["/find"] * 200, gap, headers, PAGE, "POST")[-1].refused is refused


def test_guesses_that_come_by_the_second_need_half_as_many_for_each_further_level() -> None:
    fast, slow = Visit(), Visit()
    for visit, gap in ((fast, 0.2), (slow, 5.0)):
        visit.visitor.program = Program.TOOL
        levels = [int(answer(visit, "/login", 401, method="POST", attempt=0, after=gap).level) for _ in range(70)]
        assert levels.index(1) == 20
        assert (levels.index(2), levels.index(3)) == ((31, 42) if visit is fast else (41, 62))


def test_a_library_that_goes_on_by_the_second_needs_half_as_many_pages_for_each_further_level() -> None:
    """So that one that fetches the files of its pages too is refused before its two hundredth request."""
    for gap, places in ((0.2, [30, 46, 50]), (1.5, [38, 50, 81])):
        visit = Visit()
        visit.visitor.program = Program.TOOL
        levels = [int(visit.load(f"/page/{number}", after=gap).level) for number in range(90)]
        assert [levels.index(level) for level in (1, 2, 3)] == places


def test_reasons_of_a_further_level_say_that_they_are_of_what_came_since() -> None:
    """Else the same sentence stands there with two numbers, or one that is less than there was."""
    visit = Visit()
    decisions = [answer(visit, "/login", 401, method="POST", attempt=0, after=0.2) for _ in range(32)]
    assert decisions[20].reasons[1:] == ("21 credentials refused within ten minutes (limit 20)",)
    assert decisions[31].reasons == (
        "11 credentials refused within ten minutes, since the level last changed (limit 10)",
        "32 credentials refused within ten minutes (limit 20)",
    )
