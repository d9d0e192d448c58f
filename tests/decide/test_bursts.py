"""Many pages at once, or in a row, through the whole middleware: tabs, galleries, links of a sheet, and by a VPN."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.benchmarks.detect.columns import Ours
from tests.benchmarks.detect.site import ORIGIN, Reply
from tests.benchmarks.detect.traffic import Headers
from tests.replay.mix import places

from .test_calls import BROWSER, PAGE, TYPED, ours, touched
from .test_honest import Way

__all__ = ["ours"]  # a fixture
PICTURE, SHEET = Reply(200, b"image/webp"), BROWSER.page("https://sheets.example/")
SERVERS, HOME = "5.9.7.77", "84.130.9.9"


def load(way: Way, path: str, headers: Headers, gap: float, files: int = 2, reply: Reply = PAGE) -> None:
    way.ask(path, headers, reply, gap=gap)
    for number in range(files):
        way.ask(f"/static{path}-{number}.webp", BROWSER.file("/a.webp", path), PICTURE, gap=0.02)


# Tabs


def reopened(ours: Ours, tabs: int, path: Callable[[int], str], files: int, gap: float = 0.2) -> Way:
    """A browser that is started again reopens its tabs; then somebody types an address, and reads on."""
    dice, way = random.Random(4), Way(ours)
    for number in range(tabs):
        load(way, path(number), TYPED, gap * dice.uniform(0.2, 2.0), files)
    load(way, "/bookmark", TYPED, 45.0, files)
    for number in range(25):
        load(
            way, f"/read/{number * 37 % 101}", BROWSER.page(f"{ORIGIN}/bookmark"), 20.0 * dice.lognormvariate(0.0, 0.6)
        )
    return way


@pytest.mark.parametrize("files", [0, 2], ids=["files kept", "files fetched"])
def test_forty_tabs_that_are_reopened_are_a_persons(ours: Ours, files: int) -> None:
    """With most of their files from before."""
    assert touched(reopened(ours, 40, lambda number: f"/tab/{number * 7919 % 5000}", files).found) == []


def test_tabs_stand_in_the_order_of_a_list(ours: Ours) -> None:
    assert touched(reopened(ours, 40, lambda number: f"/chapter/{number}", 2).found) == []


def test_pages_in_order_one_by_one_are_no_tabs(ours: Ours) -> None:
    assert touched(reopened(ours, 40, lambda number: f"/chapter/{number}", 2, gap=2.2).found) != []


def test_sixty_tabs_without_a_file_are_no_persons(ours: Ours) -> None:
    assert touched(reopened(ours, 60, lambda number: f"/tab/{number * 7919 % 5000}", 0).found) != []


@pytest.mark.parametrize(
    ("tabs", "gap", "let_be"), [(6, 1.5, True), (12, 1.2, True), (6, 0.3, False), (20, 1.5, False)]
)
def test_a_few_tabs_that_are_reloaded_in_turn_are_somebodys(ours: Ours, tabs: int, gap: float, let_be: bool) -> None:
    dice, way = random.Random(4), Way(ours)
    for number in range(300):
        way.ask(f"/ticker/{number % tabs}", BROWSER.page(typed=True, reload=True), gap=gap * dice.uniform(0.7, 1.3))
    assert (touched(way.found) == []) is let_be


# Galleries


def skimmed(ours: Ours, albums: int, photos: int, files: int, path: str = "/photo/{}", gap: float = 0.5) -> Way:
    """Somebody holds down the key that leads to the next photo, then looks at another album."""
    dice, way = random.Random(4), Way(ours)
    load(way, "/albums", TYPED, 0.0)
    for album in range(albums):
        last = f"/album/{album}"
        load(way, last, BROWSER.page(f"{ORIGIN}/albums"), 40.0 * dice.lognormvariate(0.0, 0.4))
        for number in range(photos):
            photo = path.format(1_000 * album + number, f"{dice.getrandbits(40):x}")
            load(way, photo, BROWSER.page(f"{ORIGIN}{last}"), gap * dice.lognormvariate(0.0, 0.2), files)
            last = photo
    return way


@pytest.mark.parametrize(("albums", "photos", "gap"), [(1, 120, 0.5), (4, 24, 0.5), (10, 40, 1.0)])
def test_who_skims_albums_with_the_arrow_keys_is_let_be(ours: Ours, albums: int, photos: int, gap: float) -> None:
    assert touched(skimmed(ours, albums, photos, 1, gap=gap).found) == []


@pytest.mark.parametrize(
    ("albums", "photos", "files", "path"),
    [(1, 600, 1, "/photo/{}"), (1, 120, 0, "/photo/{}"), (1, 120, 1, "/photo/{1}")],
    ids=["without an end", "without files", "in no order"],
)
def test_what_only_looks_like_a_gallery_is_slowed_down(
    ours: Ours, albums: int, photos: int, files: int, path: str
) -> None:
    assert touched(skimmed(ours, albums, photos, files, path).found) != []


@pytest.mark.parametrize(("photos", "gap"), [(60, 5.0), (90, 5.0), (140, 3.0)])
def test_who_leaves_a_gallery_has_walked_nowhere_before(ours: Ours, photos: int, gap: float) -> None:
    dice, way = random.Random(4), skimmed(ours, 1, photos, 1, gap=gap)
    for number in range(50):
        load(way, f"/read/{number * 37 % 101}", BROWSER.page(f"{ORIGIN}/"), 20.0 * dice.lognormvariate(0.0, 0.5))
    assert touched(way.found) == []
    for number in range(60):
        load(way, f"/more/{number * 37 % 101}", BROWSER.page(f"{ORIGIN}/"), 8.0 * dice.lognormvariate(0.0, 0.5))
    assert touched(way.found) != [], "what is no gallery's counts as before"


# Links of another site


def worked_through(ours: Ours, headers: Headers, files: int, gap: float) -> Way:
    """Sixty pages, in the order of a sheet."""
    dice, way = random.Random(4), Way(ours)
    for number in range(60):
        load(way, f"/page/{number:03}", headers, gap * dice.lognormvariate(0.0, 0.5), files)
    load(way, "/page/000", TYPED, 9.0)
    return way


@pytest.mark.parametrize("site", [b"cross-site", b"same-site"])
@pytest.mark.parametrize("gap", [6.0, 40.0])
def test_who_works_through_the_links_of_a_sheet_follows_links(ours: Ours, gap: float, site: bytes) -> None:
    headers = tuple({**dict(SHEET), b"sec-fetch-site": site}.items())
    assert touched(worked_through(ours, headers, 2, gap).found) == []


@pytest.mark.parametrize(("headers", "files"), [(SHEET, 0), (TYPED, 2)], ids=["without files", "without a link"])
def test_who_loads_pages_in_order_and_follows_no_link_walks(ours: Ours, headers: Headers, files: int) -> None:
    assert touched(worked_through(ours, headers, files, 6.0).found) != []


# A network of servers


@pytest.mark.parametrize(
    ("address", "files", "let_be"),
    [(SERVERS, 3, True), (HOME, 0, True), (SERVERS, 0, False)],
    ids=["VPN", "home", "server"],
)
def test_who_reads_by_a_vpn_is_no_server(tmp_path: Path, address: str, files: int, let_be: bool) -> None:
    ours = Ours(str(tmp_path), **{**places(tmp_path), "limits": "1500/minute"})
    for number in range(30):
        visitor = Way(ours, 1.0 + number, f"203.0.113.{number}")
        for page in range(5):
            load(visitor, f"/read/{5 * number + page}", BROWSER.page(f"{ORIGIN}/"), 9.0)
    dice, way = random.Random(4), Way(ours, 200.0, address)
    for _ in range(70):
        load(
            way, f"/read/{dice.randrange(2_000)}", BROWSER.page(f"{ORIGIN}/"), 8.0 * dice.lognormvariate(0, 0.5), files
        )
    ours.close()
    assert (touched(way.found) == []) is let_be
