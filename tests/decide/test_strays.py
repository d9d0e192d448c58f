"""Links that lead nowhere, and what is judged otherwise where files or headers do not reach the site."""

from __future__ import annotations

import random

import pytest

from asgi_analytics.decide.site import ELSEWHERE, Site
from asgi_analytics.facts import Behaviour, Claims
from tests.benchmarks.detect.columns import Ours
from tests.benchmarks.detect.programs import headers_of
from tests.benchmarks.detect.site import Reply
from tests.benchmarks.detect.traffic import Headers

from .conduct import send as judge
from .test_calls import BROWSER, GONE, PAGE, TOOL, TYPED, ours, send, touched
from .test_honest import Way, looked_at, photos, tabs
from .visits import Visit

__all__ = ["ours"]  # a fixture
FOLLOWED, INNER = BROWSER.page("https://old.example/links"), BROWSER.page("https://www.example.com/")
CRAWLER = headers_of("Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)")
SMALL = headers_of("SmallSearch/0.9 (+https://s.example)")
TO_LOGIN = Reply(302, location=b"/login")
OLD = [f"/old/{number}.html" for number in range(30)]


@pytest.mark.parametrize("headers", [FOLLOWED, TYPED], ids=["of another site", "typed"])
def test_who_follows_thirty_dead_links_one_by_one_guesses_nothing(ours: Ours, headers: Headers) -> None:
    assert touched(send(ours, OLD, 6.0, headers, GONE)) == []


def test_dead_links_faster_than_anybody_reads_or_by_a_tool_or_without_an_end_are_guesses(ours: Ours) -> None:
    assert touched(send(ours, OLD, 1.5, FOLLOWED, GONE)) != []
    assert touched(send(ours, OLD, 6.0, TOOL, GONE, start=3_000.0)) != []
    guesses = [f"/guess/{number}" for number in range(190)]
    found = send(ours, guesses, 3.0, FOLLOWED, GONE, start=9_000.0)
    assert min(touched(found), default=0) > 100


# Apps that lead everybody elsewhere who asks for what they do not have


@pytest.mark.parametrize("headers", [TOOL, TYPED], ids=["tool", "browser"])
def test_an_app_that_leads_scanners_to_its_login_has_not_what_they_ask_for(ours: Ours, headers: Headers) -> None:
    paths = [f"/wp-content/plugins/{number}/readme.txt" for number in range(40)]
    assert send(ours, paths, 0.5, headers, TO_LOGIN)[-1].refused


def test_paths_that_all_lead_to_one_place_are_not_there(ours: Ours) -> None:
    paths = [f"/{number}.php" for number in range(90)]
    assert send(ours, paths, 0.5, TOOL, TO_LOGIN)[-1].refused
    assert touched(send(ours, paths, 0.5, CRAWLER, Reply(301, location=b"/"), start=3_000.0)) == []


@pytest.mark.parametrize(
    "location",
    [
        b"https://www.example.com%s",
        b"%s/",
        b"https://sso.example/login",
        b"/new%s",
        b"/shown?number=%d",
        b"/no-face.png",
    ],
    ids=["same path", "slash", "another host", "moved", "each its own", "picture"],
)
def test_a_redirect_that_leads_on_is_no_error(ours: Ours, location: bytes) -> None:
    way = Way(ours)
    for number in range(90):
        path = f"/things/{number}"
        target = location.replace(b"%s", path.encode()).replace(b"%d", b"%d" % number)
        way.ask(path, TOOL, Reply(302, location=target), gap=0.5)
    assert touched(way.found) == []


@pytest.mark.parametrize(
    "location",
    ["/login?next={}", "/login?redirectTo=https%3A%2F%2Fwww.example.com{}%3Fa%3D1", "/error?code=404&path={}"],
)
def test_a_login_that_is_told_where_to_lead_back_to_is_one_place(ours: Ours, location: str) -> None:
    way, person, dice = Way(ours), Way(ours, 3_000.0, "84.130.9.10"), random.Random(5)
    for number in range(90):
        path = f"/things/{number}.php"
        way.ask(path, TOOL, Reply(302, location=location.format(path.replace("/", "%2F")).encode()), gap=0.5)
    for number in range(40):  # somebody who was logged out, and clicks on
        path = f"/account/{number}"
        person.ask(path, INNER, Reply(302, location=location.format(path).encode()), gap=dice.uniform(0.4, 3.0))
        person.ask("/login", INNER, gap=0.05)
    assert way.found[-1].refused
    assert touched(person.found) == []


@pytest.mark.parametrize("headers", [TOOL, TYPED], ids=["tool", "browser"])
def test_who_is_led_on_to_what_is_not_there_guesses_no_less(ours: Ours, headers: Headers) -> None:
    """As an app does that adds a language, a slash or another host to all that it is asked for."""
    way, crawler, person = Way(ours), Way(ours, 3_000.0, "84.130.9.10"), Way(ours, 6_000.0, "84.130.9.11")
    for one, sent, found, gap in ((way, headers, GONE, 0.5), (crawler, SMALL, GONE, 0.5), (person, INNER, PAGE, 9.0)):
        for number in range(90 if one is not person else 40):
            one.ask(f"/{number}.php", sent, Reply(302, location=b"/en/%d.php" % number), gap=gap * (0.5 + number % 3))
            one.ask(f"/en/{number}.php", sent, found)
    assert way.found[-1].refused
    assert touched(crawler.found) == touched(person.found) == []


def test_a_hidden_file_that_is_only_looked_for_at_another_scheme_is_not_asked_for_twice(ours: Ours) -> None:
    canonical = Reply(301, location=b"https://www.example.com/wp-includes/a.js")
    assert touched(send(ours, ["/wp-includes/a.js"] * 2, 1.0, TYPED, canonical)) == []


def test_who_was_logged_out_and_clicks_on_is_led_to_the_login_each_time(ours: Ours) -> None:
    dice, way = random.Random(5), Way(ours)
    for number in range(40):
        way.ask(f"/account/{number}", INNER, TO_LOGIN, gap=dice.uniform(0.4, 3.0))
        way.ask("/login", INNER, gap=0.05)
    assert touched(way.found) == []


# Tabs and galleries where another server has the files


def readers(ours: Ours, pictures: int) -> None:
    """Thirty people who look at six pages each."""
    for person in range(30):
        way = Way(ours, 10.0 + person, f"203.0.113.{person}")
        for number in range(6):
            way.ask(f"/read/{person * 7 + number * 31}", INNER, gap=20.0 + 7.0 * (number % 3))
            for picture in range(pictures):
                way.ask(f"/static/{picture}.webp", BROWSER.file("/a.webp", "/read"), Reply(200, b"image/webp"))


@pytest.mark.parametrize(("pictures", "let_be"), [(0, True), (2, False)], ids=["files elsewhere", "files here"])
def test_who_opens_tabs_without_files_is_a_person_where_nobody_fetches_any(
    ours: Ours, pictures: int, let_be: bool
) -> None:
    readers(ours, pictures)
    assert (touched(tabs(ours, 50, TYPED, files=False)) == []) is let_be


def test_who_opens_tabs_from_a_list_is_a_person_though_their_files_are_kept_or_elsewhere(ours: Ours) -> None:
    readers(ours, 2)
    assert touched(tabs(ours, 50, BROWSER.page("https://www.example.com/list"), files=False)) == []


def test_files_that_a_cdn_serves_from_now_on_are_missed_for_some_hundred_visits_and_no_longer() -> None:
    site = Site(with_files=100_000)
    for _ in range(2_000):
        site.look_for_files(facts := Behaviour(requests=9, page_loads=9))
    assert facts.files == ELSEWHERE


def test_headers_that_a_proxy_strips_from_now_on_are_missed_for_some_thousand_visits_and_no_longer() -> None:
    site = Site(witnesses=1_000_000)
    for number in range(20_000):
        site.witness(Claims((), True))
        assert site.knows_headers() or number > 5_000
    assert not site.knows_headers()


@pytest.mark.parametrize(("pictures", "let_be"), [(0, True), (2, False)], ids=["files elsewhere", "files here"])
def test_a_gallery_without_files_is_one_where_nobody_fetches_any(ours: Ours, pictures: int, let_be: bool) -> None:
    readers(ours, pictures)
    assert (touched(looked_at(ours, photos(150, 100), 0)) == []) is let_be


@pytest.mark.parametrize(
    ("claims", "let_be"), [(Claims((), True), True), (Claims(), False)], ids=["a browser", "nobody known"]
)
def test_over_plain_http_a_browser_opens_as_many_tabs(claims: Claims, let_be: bool) -> None:
    visit, dice = Visit(), random.Random(1)
    for number in range(58):
        judge(visit, f"/hit/{number * 7919 % 5000}", claims=claims, after=dice.expovariate(2))
        visit.visitor.behaviour.requests += 2  # its files
    assert (visit.level == 0) is let_be


def test_answers_to_what_is_sent_are_no_files(ours: Ours) -> None:
    """A program that puts into the basket all that it sees opens no tabs."""
    visit, dice = Visit(), random.Random(1)
    for number in range(58):
        judge(visit, f"/hit/{number * 7919 % 5000}", claims=Claims((), True), after=dice.expovariate(2))
        visit.visitor.behaviour.requests += 1
        visit.visitor.behaviour.accepted += 1
    assert visit.level > 0
