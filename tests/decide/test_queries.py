"""Pages and data that queries tell apart, through the whole middleware: who walks is found, who looks is left alone.

The people here are more eager than those of the detection benchmark: longer, faster, in order.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.benchmarks.detect import browsers
from tests.benchmarks.detect.columns import Ours, Verdict
from tests.benchmarks.detect.programs import headers_of
from tests.benchmarks.detect.site import JSON, ORIGIN, Reply
from tests.benchmarks.detect.traffic import Headers, Request

DICE = random.Random(1)
BROWSER = browsers.draw(DICE, browsers.DESKTOPS[:1], "de", version=157)
CLICKED, TYPED = BROWSER.page(f"{ORIGIN}/from"), BROWSER.page(typed=True)
CALLED, TOOL = BROWSER.call("/app"), headers_of("python-requests/2.32.5")
TOKEN = headers_of("python-requests/2.32.5", ("authorization", "Bearer 5f3a"))
NAMELESS = headers_of(BROWSER.agent)  # a browser's name, and none of what it sends
OLD = headers_of(browsers.safari("iPhone; CPU iPhone OS 15_1 like Mac OS X", 15, 1), ("accept-language", "de"))
UUID = "{0:08x}-9d1e-4b7a-8c55-0a1b2c3d4e5f"


class Shape(NamedTuple):
    """Requests of one visitor: path and query, a gap between them in seconds, and how they are sent."""

    queries: Iterable[str]
    gap: float
    path: str
    headers: Headers = CLICKED
    reply: Reply = Reply(200)


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Ours]:
    found = Ours(str(tmp_path))
    # Others have shown that browsers' headers reach this site, and that it has pages.
    for number in range(40):
        found.judge(Request(0.0, f"198.51.100.{number}", "GET", f"/other/{number}", b"", TYPED), Reply(200))
    yield found
    found.close()


def visit(ours: Ours, shape: Shape) -> Iterator[Verdict]:
    dice, now = random.Random(2), 10.0
    for query in shape.queries:
        request = Request(now, "84.130.9.9", "GET", shape.path, query.encode(), shape.headers)
        yield ours.judge(request, shape.reply)
        now += shape.gap * dice.uniform(0.7, 1.3)


def combined(dice: random.Random, times: int) -> Iterator[str]:
    """Filters of a list, one changed at each step."""
    chosen: dict[str, int] = {}
    for _ in range(times):
        chosen[dice.choice(("category_id", "brand", "brand_id", "price_max", "size", "colour", "page"))] = (
            dice.randrange(90)
        )
        yield "&".join(f"{name}={value}" for name, value in chosen.items())


def typed(text: str, times: int) -> Iterator[str]:
    for turn in range(times):
        yield from (f"q={text[:end]}{turn}&page=1" for end in range(1, len(text)))


EPOCH = 1_795_564_800
OF = ("data", "name", "searchable", "orderable", "search%5D%5Bvalue")
COLUMNS = "&".join(f"columns%5B{column}%5D%5B{of}%5D=x" for column in range(24) for of in OF)
DATA, PICTURE = Reply(200, JSON), Reply(200, b"image/webp")
PEOPLE = {
    "filters": Shape(list(combined(random.Random(3), 300)), 4.0, "/shop"),
    "search box": Shape([f"q={n * 7919}" for n in range(200)], 5.0, "/search"),
    "search from the address bar": Shape([f"q=word{n}" for n in range(200)], 15.0, "/search", TYPED),
    "sorting": Shape([f"sort={n}&view=grid&lang=de" for n in range(200)], 2.0, "/shop"),
    "calendar": Shape([f"year={2000 + n // 12}&month={n % 12 + 1}" for n in range(300)], 1.2, "/calendar"),
    "next, next": Shape([f"page={n}" for n in range(1, 300)], 3.0, "/list"),
    "forum": Shape([f"t=5&start={n * 15}" for n in range(300)], 4.0, "/viewtopic.php"),
    "forum, by a browser that tells nothing": Shape([f"t=5&start={n * 15}" for n in range(200)], 9.0, "/topic", OLD),
    "newsletter links": Shape([f"utm_id={n}&gclid=Cj0{n:x}&mc_eid={n}" for n in range(200)], 4.0, "/offer", TYPED),
    "cache busting reload": Shape([f"t={EPOCH + 10 * n}&_={n}" for n in range(600)], 10.0, "/board", TYPED),
    "display that goes round": Shape([f"id={n % 25}" for n in range(1500)], 20.0, "/screen", TYPED),
    "infinite scroll": Shape([f"page={n}&size=20" for n in range(2, 400)], 0.35, "/api/list", CALLED, DATA),
    "infinite scroll by cursor": Shape([f"cursor=eyJ{n:06x}fQ" for n in range(500)], 0.5, "/api/list", CALLED, DATA),
    "live search": Shape(list(typed("garden chairs", 60)), 0.25, "/api/find", CALLED, DATA),
    "map": Shape([f"lat=52.{n:05}&lng=13.{n:05}&zoom={n % 18}" for n in range(900)], 0.3, "/api/map", CALLED, DATA),
    "map by box": Shape([f"bbox={n},2.5,{n + 1},3.5" for n in range(900)], 0.3, "/api/map", CALLED, DATA),
    "poll since": Shape([f"since={EPOCH + n}" for n in range(1500)], 1.0, "/api/news", CALLED, DATA),
    "poll after an id": Shape([f"after_id={90000 + n}" for n in range(1500)], 1.0, "/api/chat", CALLED, DATA),
    "long poll by message": Shape([f"messageId=d-{n:X}&token=x" for n in range(1500)], 0.5, "/poll", CALLED, DATA),
    "map by tile": Shape([f"tile_id={12030 + n}" for n in range(900)], 0.2, "/api/map", CALLED, DATA),
    "poll by cursor": Shape([f"since=s{n}_9&cursor=s{n}_{n * 3}" for n in range(1500)], 1.0, "/sync", CALLED, DATA),
    "poll by offset": Shape([f"start={n * 1713 + 1}" for n in range(1500)], 1.0, "/log", CALLED, DATA),
    "dashboard": Shape(
        [f"from={EPOCH + n}&to={EPOCH + n + 60}&panelId={n % 6}&requestId={n}" for n in range(2000)],
        0.7, "/api/metrics", CALLED, DATA,
    ),
    "ever other queries": Shape([f"where[{n}]=a{n}&x{n}={n}" for n in range(1500)], 0.4, "/api/find", CALLED, DATA),
    "office that polls by cursor": Shape([f"cursor=c{n}_{n * 3}" for n in range(3000)], 0.1, "/sync", CALLED, DATA),
    "office that scrolls": Shape([f"page={n % 90}&u={n % 40}" for n in range(1, 1500)], 0.9, "/api/list", CALLED, DATA),
    "a table with two dozen columns": Shape(
        [f"draw={n}&{COLUMNS}&start={10 * n}&length=10&search%5Bvalue%5D=g{n}&_={EPOCH + n}" for n in range(400)],
        0.6, "/api/rows", CALLED, DATA,
    ),
    "a form of forty fields": Shape(
        ("&".join(f"field{m}=" + "x" * (n == m) for m in range(40)) + f"&q=word{n}" for n in range(300)), 9.0, "/search"
    ),
    "pictures by size": Shape([f"w={n}&h={n}&v={n}" for n in range(900)], 0.2, "/img", CALLED, PICTURE),
    "job with a token": Shape([f"page={n}&per_page=100" for n in range(1, 1500)], 0.25, "/api/orders", TOKEN, DATA),
}  # fmt: skip


@pytest.mark.parametrize("shape", PEOPLE.values(), ids=PEOPLE.keys())
def test_people_who_look_at_one_thing_in_many_ways_are_left_alone(ours: Ours, shape: Shape) -> None:
    verdicts = list(visit(ours, shape))
    assert len(verdicts) >= 200
    assert [place for place, verdict in enumerate(verdicts) if verdict.flagged or verdict.refused] == []


def ids(name: str = "id", shuffled: bool = False, more: str = "", form: str = "{0}") -> Iterable[str]:
    numbers = list(range(1, 5001))
    if shuffled:
        random.Random(4).shuffle(numbers)
    return [f"{name}={form.format(number)}{more}" for number in numbers]


WALKERS = {
    "by id, a library, fast": Shape(ids(), 0.4, "/item.php", TOOL),
    "by id, a library, slow": Shape(ids(), 20.0, "/item.php", TOOL),
    "by id, shuffled, a browser's name": Shape(ids(shuffled=True), 2.0, "/item.php", NAMELESS),
    "by id, in order, a browser's headers": Shape(ids(), 4.0, "/item.php", TYPED),
    "by id, in order, slow": Shape(ids(), 30.0, "/item.php", TYPED),
    "by id, shuffled, slow": Shape(ids(shuffled=True), 30.0, "/item.php", TYPED),
    "by id, with campaigns and times": Shape(
        (f"utm_source={n}&{query}&_={n * 77}" for n, query in enumerate(ids("pid"))), 3.0, "/item.php", TYPED
    ),
    "by id, a script that clicks": Shape(ids(shuffled=True), 3.0, "/item.php", CLICKED),
    "by uuid": Shape(ids(form=UUID), 3.0, "/item", TYPED),
    "by title": Shape(ids("title", form="Main_Page_{0}"), 3.0, "/index.php", TYPED),
    "by page": Shape(ids("page"), 3.0, "/products", TYPED),
    "by page, a library": Shape(ids("page", more="&sort=price"), 1.5, "/products", TOOL),
    "by offset": Shape((f"offset={n * 20}" for n in count()), 3.0, "/products", TYPED),
    "data by id, as the page's script": Shape(ids(), 0.5, "/api/item", CALLED, DATA),
    "data by id, a library, shuffled": Shape(ids("productId", True), 0.8, "/api/item", TOOL, DATA),
    "by id, behind parameters that mean nothing": Shape(ids("x=1&" * 40 + "id"), 3.0, "/item.php", TYPED),
    "data by id, behind a long one": Shape(ids(f"x={'1' * 3000}&id"), 0.5, "/api/item", CALLED, DATA),
    "data by id, behind names that are new each time": Shape(
        ("&".join(f"x{n}_{m}=1" for m in range(60)) + f"&id={n}" for n in range(1, 900)), 0.5, "/api/item", TOOL, DATA
    ),
    "data by id and page": Shape(ids(more="&page=1"), 0.8, "/api/item", CALLED, DATA),
    "data by page, as the page's script": Shape(ids("page"), 0.3, "/api/items", CALLED, DATA),
    "data by page, a library": Shape(ids("page"), 1.0, "/api/items", TOOL, DATA),
    "data by offset": Shape((f"offset={n * 20}&limit=20" for n in count()), 0.2, "/api/items", TOOL, DATA),
}


@pytest.mark.parametrize("shape", WALKERS.values(), ids=WALKERS.keys())
def test_who_walks_through_a_site_by_its_queries_is_slowed_down_and_refused(ours: Ours, shape: Shape) -> None:
    slowed = refused = False
    for verdict in islice(visit(ours, shape), 1500):
        slowed, refused = slowed or verdict.slowed, verdict.refused
        if refused:
            break
    assert slowed
    assert refused or shape.gap >= 20.0
