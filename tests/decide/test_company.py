"""Many people with one browser behind one address, none of whom load what another did."""

from __future__ import annotations

import random

import pytest

from asgi_analytics.decide.behaviour import comes_between
from asgi_analytics.decide.site import ELSEWHERE
from asgi_analytics.facts import Behaviour
from asgi_analytics.variants import Variants
from tests.benchmarks.detect.columns import Ours, Verdict
from tests.benchmarks.detect.site import ORIGIN, Reply
from tests.benchmarks.detect.traffic import Headers, Request

from .conduct import send
from .test_calls import BROWSER, PAGE, ours, touched
from .visits import Visit

__all__ = ["ours"]
SEARCHED, TYPED = BROWSER.page("https://www.google.com/"), BROWSER.page(typed=True)
PICTURE = BROWSER.file("/a.webp", "/")
Sent = tuple[float, str, Headers]


def seen(at: float, path: str, headers: Headers) -> list[Sent]:
    """A page with two pictures."""
    return [(at, path, headers), *((at + 0.2, f"{path}/{number}.webp", PICTURE) for number in range(2))]


def judged(ours: Ours, sent: list[Sent]) -> list[Verdict]:
    return [
        ours.judge(
            Request(at, "84.130.9.9", "GET", path.partition("?")[0], path.partition("?")[2].encode(), headers),
            Reply(200, b"image/webp") if headers is PICTURE else PAGE,
        )
        for at, path, headers in sorted(sent)
    ]


@pytest.mark.parametrize("form", ["/shop/%d", "/shop?id=%d"])
def test_phones_of_a_carrier_in_a_large_shop_are_many(ours: Ours, form: str) -> None:
    """A hundred in half an hour, each from a search to one thing, then to three or so others."""
    dice, sent = random.Random(5), []
    for _ in range(100):
        now, page = dice.uniform(10.0, 1810.0), form % dice.randrange(90_000)
        sent += seen(now, page, SEARCHED)
        for _ in range(int(dice.expovariate(1 / 3))):
            now += dice.lognormvariate(2.6, 0.8)
            before, page = page, form % dice.randrange(90_000)
            sent += seen(now, page, BROWSER.page(f"{ORIGIN}{before}"))
    assert touched(judged(ours, sent)) == []


@pytest.mark.parametrize("links", [1, 5])
def test_a_browser_that_goes_from_list_to_list_is_one(ours: Ours, links: int) -> None:
    dice, sent, now = random.Random(5), [], 10.0
    for number in range(400 // links):
        sent += seen(now, f"/list/{number}", TYPED)
        for _ in range(links):
            now += dice.uniform(1.0, 3.0)
            sent += seen(now, f"/shop/{dice.randrange(90_000)}", BROWSER.page(f"{ORIGIN}/list/{number}"))
        now += dice.uniform(1.0, 3.0)
    assert judged(ours, sent)[-1].flagged


def test_somebody_came_in_between_if_a_link_of_a_page_from_before_is_followed() -> None:
    visit, variants = Visit(), Variants(b"key")
    facts = visit.visitor.behaviour
    for path in ("/a", "/b"):
        send(visit, path)
        facts.requests += 2  # files

    def between(path: str, after: float = 9.0) -> bool:
        return comes_between(facts, path, "", variants, visit.now + after)

    assert not between("/b"), "the one who has just come"
    facts.files = ELSEWHERE
    assert not between("/c"), "nobody has loaded it"
    assert not between("/"), "all that some sites let browsers say"
    assert between("/a")
    send(visit, "/c", inner=True)
    assert not between("/a"), "nobody else has come since"
    send(visit, "/d")
    assert between("/", after=1.0), "nobody reads so fast"
    assert (facts.people, Behaviour().people) == (3, 1)
