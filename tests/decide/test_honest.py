"""People and programs whose ways look like an attack's, through the whole middleware; and the attack beside each."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.benchmarks.detect import browsers
from tests.benchmarks.detect.columns import Ours, Verdict
from tests.benchmarks.detect.programs import headers_of
from tests.benchmarks.detect.site import HTML, JSON, ORIGIN, Reply
from tests.benchmarks.detect.traffic import Headers, Request

from .test_calls import BROWSER, CALLED, DATA, GONE, PAGE, PHONE, TOOL, TYPED, ours, send, touched

__all__ = ["ours"]  # a fixture
ELSEWHERE = BROWSER.page("https://teacher.example/room/7")
STRIPPED = (b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest", b"sec-fetch-user", b"referer")
FORM = (b"content-type", b"application/x-www-form-urlencoded")


class Way:
    """What somebody sends from one address, step by step."""

    def __init__(self, ours: Ours, start: float = 10.0, address: str = "84.130.9.9") -> None:
        self.ours, self.now, self.address = ours, start, address
        self.found: list[Verdict] = []

    def ask(
        self,
        path: str,
        headers: Headers,
        reply: Reply = PAGE,
        method: str = "GET",
        query: bytes = b"",
        gap: float = 0.0,
    ) -> None:
        self.now += gap
        self.found.append(self.ours.judge(Request(self.now, self.address, method, path, query, headers), reply))


# Many who look alike, at one page


def led(ours: Ours, path: Callable[[int], str], query: Callable[[int], bytes], pages: int = 20) -> list[Verdict]:
    """Thirty tablets are sent to a page within three seconds, then to the next."""
    dice, way = random.Random(7), Way(ours)
    for page in range(pages):
        for _ in range(30):
            way.ask(path(page), ELSEWHERE, query=query(page), gap=dice.expovariate(10))
        way.now += 60.0 * dice.lognormvariate(0.0, 0.4)
    return way.found


def test_a_class_whose_tablets_are_led_from_another_site_is_no_loop(ours: Ours) -> None:
    assert touched(led(ours, lambda page: f"/lesson/{page * 37 % 101}", lambda page: b"room=7")) == []


def test_a_crowd_that_waits_for_tickets_reloads_the_page_in_turns(ours: Ours) -> None:
    dice, way = random.Random(7), Way(ours)
    for _ in range(1_200):
        way.ask("/event/7", BROWSER.page(typed=True, reload=True), gap=dice.expovariate(8))
    assert touched(way.found) == []


def test_searches_and_tools_in_a_loop_are_no_crowd(ours: Ours) -> None:
    searched, looped = Way(ours), Way(ours, 5_000.0)
    for number in range(200):
        searched.ask("/search", TYPED, query=b"q=%d" % number, gap=0.12)
        looped.ask("/event/7", TOOL, gap=0.12)
    assert [way.found[-1].refused for way in (searched, looped)] == [True, True]


def test_bursts_of_searches_are_a_crowds_so_often_and_no_oftener(ours: Ours) -> None:
    found = []
    for turn in range(100):
        found += send(ours, ["/search"] * 50, 0.1, TYPED, PAGE, start=10.0 + 11.0 * turn)
    assert touched(found[:2_900]) == []
    assert found[-1].refused


# A proxy that strips what tells who follows a link


def blind(ours: Ours, people: int, repeats: bool) -> list[Verdict]:
    dice = random.Random(3)
    headers = tuple(header for header in TYPED if header[0] not in STRIPPED)
    requests = []
    for person in range(people):
        at = dice.uniform(10.0, 900.0)
        for step in range(12):
            page = min(300, int(dice.expovariate(1 / 20))) if repeats else 12 * person + step
            requests.append(Request(at, "84.130.9.9", "GET", f"/page/{page}", b"", headers))
            at += dice.lognormvariate(2.7, 0.8)
    return [ours.judge(request, PAGE) for request in sorted(requests, key=lambda request: request.at)]


def test_people_behind_one_address_are_told_apart_where_no_link_is_seen(tmp_path: Path) -> None:
    """By the popular pages that they load again: nobody here shows who follows a link."""
    for repeats in (True, False):
        (tmp_path / str(repeats)).mkdir()
        ours = Ours(str(tmp_path / str(repeats)))
        for number in range(60):
            headers = tuple(header for header in TYPED if header[0] not in STRIPPED)
            for place in range(5):
                path = f"/page/{(7 * number + place) % 300}"
                ours.judge(Request(0.0, f"198.51.100.{number}", "GET", path, b"", headers), PAGE)
        found = blind(ours, 30, repeats)
        ours.close()
        assert (touched(found) == []) is repeats


# What is not there


@pytest.mark.parametrize(
    "path", ["/r.git/objects/{0:.2}/{0:.38}", "/v2/app/blobs/sha256:{0:.64}", "/cache/{0:.32}", "/{0:.32}.narinfo"]
)
def test_names_that_nobody_can_guess_are_no_guesses(ours: Ours, path: str) -> None:
    """Git over plain http, build caches and stores ask for each thing by its digest, there or not."""
    dice = random.Random(5)
    names = [f"{dice.getrandbits(252):064x}" for _ in range(300)]
    assert touched(send(ours, [path.format(name) for name in names], 0.05, headers_of("git/2.51.0"), GONE)) == []
    doors = [f"/wp-admin/{name}" for name in names[:9]] + [f"/{name}/{number}.php" for number, name in enumerate(names)]
    assert send(ours, doors, 0.5, headers_of("git/2.51.0"), GONE, start=5_000.0)[-1].refused


@pytest.mark.parametrize("path", ["/avatars/{}", "/api/v1/photos/{}/small", "/assets/chunk-{}.js.map"])
def test_pictures_without_an_ending_and_source_maps_that_are_missing_are_nobodys_fault(ours: Ours, path: str) -> None:
    assert touched(send(ours, [path.format(number) for number in range(200)], 0.1, PHONE, GONE)) == []
    assert send(ours, [f"{path.format(n)}.php" for n in range(200)], 0.1, PHONE, GONE, start=5_000.0)[-1].refused


def test_what_failed_an_hour_ago_is_no_new_error(ours: Ours) -> None:
    """A monitor of things that have to stay away: it comes in sessions, but only its first round is a scan's."""
    monitor = headers_of("Uptime-Kuma/2.0.2")
    for turn in range(4):
        found = send(ours, [f"/gone/{number}" for number in range(40)], 0.3, monitor, GONE, start=10.0 + 3_600.0 * turn)
        assert (touched(found) == []) is (turn > 0)


# Credentials


def tried(ours: Ours, people: int, files: int, *more: tuple[bytes, bytes]) -> list[Verdict]:
    way = Way(ours)
    for _ in range(people):
        way.ask("/login", BROWSER.page(f"{ORIGIN}/"), gap=4.0)
        for number in range(files):
            way.ask(f"/static/{number}.js", BROWSER.file("/a.js", "/login"), Reply(200, b"text/javascript"), gap=0.1)
        for _ in range(3):
            way.ask("/login", (*BROWSER.page(f"{ORIGIN}/login"), FORM, *more), Reply(401, HTML), "POST", gap=3.0)
    return way.found


def test_an_office_where_nobody_gets_in_is_the_apps_fault_for_a_while(ours: Ours) -> None:
    assert touched(tried(ours, 30, 6)) == []


def test_a_program_that_tries_and_fetches_no_files_guesses(ours: Ours) -> None:
    assert tried(ours, 30, 0)[-1].refused


def test_where_others_get_in_the_office_guesses(ours: Ours) -> None:
    tried(ours, 1, 6)
    other = Way(ours, 400.0, "91.10.3.3")
    other.ask("/login", TYPED)
    other.ask("/login", (*TYPED, FORM), Reply(303, location=b"/"), "POST")
    assert any(verdict.flagged for verdict in tried(ours, 30, 6))


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/inbox", (*headers_of("Mastodon/4.5.0"), (b"signature", b"s")), 401),
        ("/v1/traces", (*headers_of("OTel-OTLP-Exporter-Python/1.38.0"), (b"x-api-key", b"k")), 403),
        ("/csp-report", tuple({**dict(CALLED), b"sec-fetch-dest": b"report"}.items()), 400),
    ],
    ids=["fediverse", "telemetry", "reports"],
)
def test_what_servers_and_browsers_report_by_themselves_guesses_nothing(
    ours: Ours, path: str, headers: Headers, status: int
) -> None:
    way = Way(ours)
    for number in range(90):
        way.ask(path, (*headers, (b"content-length", b"%d" % (300 + number))), Reply(status, JSON), "POST", gap=2.0)
    assert touched(way.found) == []


def test_what_a_beacon_reports_in_vain_guesses_nothing_over_plain_http(ours: Ours) -> None:
    plain = (
        *headers_of(BROWSER.agent, ("accept-language", "de"), ("origin", ORIGIN)),
        (b"content-type", b"text/plain"),
    )
    way = Way(ours)
    for number in range(90):
        way.ask("/envelope/", (*plain, (b"content-length", b"%d" % (300 + number))), Reply(403, JSON), "POST", gap=2.0)
    assert touched(way.found) == []


def test_what_a_page_saves_while_nobody_is_logged_in_needs_no_length(ours: Ours) -> None:
    saved, guessed = Way(ours), Way(ours, address="91.10.3.3")
    for _ in range(90):
        saved.ask("/api/documents/5", CALLED, Reply(401, JSON), "POST", gap=2.0)
        guessed.ask("/api/coupons/redeem", CALLED, Reply(403, JSON), "POST", gap=2.0)
    assert (touched(saved.found), guessed.found[-1].refused) == ([], True)


@pytest.mark.parametrize("token", [(b"authorization", b"Bearer x"), (b"x-api-key", b"x")])
def test_a_made_up_token_beside_the_passwords_hides_no_guesses(ours: Ours, token: tuple[bytes, bytes]) -> None:
    assert tried(ours, 30, 0, token)[-1].refused
    way = Way(ours, 5_000.0)
    for number in range(90):
        length = (b"content-length", b"%d" % (20 + number % 40))
        way.ask("/api/coupons/redeem", (*CALLED, token, length), Reply(403, JSON), "POST", gap=2.0)
    assert way.found[-1].refused


# Somebody at work


def queue(ours: Ours, leads_to: Callable[[int], bytes], pages: int = 400, gap: float = 6.0) -> list[Verdict]:
    """A decision every few seconds, whose form leads on to the next case."""
    dice, way = random.Random(2), Way(ours)
    way.ask("/case/0", TYPED)
    for number in range(pages):
        last = f"{ORIGIN}/case/{number}"
        reply = Reply(303, location=leads_to(number + 1))
        way.ask(f"/case/{number}", (*BROWSER.page(last), FORM), reply, "POST", gap=gap * dice.lognormvariate(0.0, 0.4))
        way.ask(f"/case/{number + 1}", BROWSER.page(last), gap=0.2)
    return way.found


@pytest.mark.parametrize("form", [b"/case/%d", ORIGIN.encode() + b"/case/%d#top"])
def test_a_moderator_whom_each_form_leads_to_the_next_case_walks_nowhere(ours: Ours, form: bytes) -> None:
    assert touched(queue(ours, lambda number: form % number)) == []


def test_who_sends_forms_and_goes_elsewhere_walks(ours: Ours) -> None:
    assert queue(ours, lambda number: b"/thanks")[-1].refused


def test_forms_lead_to_so_many_pages_an_hour_and_no_more(ours: Ours) -> None:
    assert queue(ours, lambda number: b"/case/%d" % number, 900, gap=1.0)[-1].refused


def tabs(ours: Ours, count: int, headers: Headers, files: bool = True) -> list[Verdict]:
    dice, way = random.Random(8), Way(ours)
    way.ask("/list", TYPED)
    for number in range(count):
        way.ask(f"/hit/{number * 7919 % 5000}", headers, gap=dice.expovariate(4))
        if files:
            way.ask(f"/static/{number}.webp", BROWSER.file("/a.webp", "/list"), Reply(200, b"image/webp"), gap=0.1)
    for number in range(10):
        way.ask(f"/more/{number * 7919 % 5000}", BROWSER.page(f"{ORIGIN}/list"), gap=dice.uniform(9.0, 90.0))
    return way.found


@pytest.mark.parametrize("headers", [TYPED, BROWSER.page(f"{ORIGIN}/list")], ids=["restored", "of a list"])
def test_sixty_tabs_at_once_are_a_persons(ours: Ours, headers: Headers) -> None:
    assert touched(tabs(ours, 58, headers)) == []


def test_pages_without_files_or_by_the_hundred_are_no_tabs(ours: Ours) -> None:
    assert touched(tabs(ours, 58, TYPED, files=False)) != []
    hundreds = Way(ours, 9_000.0)
    for number in range(150):
        hundreds.ask(f"/hit/{number * 7919 % 5000}", TYPED, gap=0.2)
        hundreds.ask(f"/static/{number}.webp", BROWSER.file("/a.webp", "/list"), Reply(200, b"image/webp"), gap=0.1)
    assert hundreds.found[-2].refused


# Data


@pytest.mark.parametrize("gap", [0.03, 0.1, 0.25])
def test_the_rows_of_a_table_are_one_view_however_slowly_they_come(ours: Ours, gap: float) -> None:
    send(ours, ["/table"], 0.0, TYPED, PAGE)
    rows = [f"/api/items/{number}" for number in range(300)]
    assert touched(send(ours, rows, gap, CALLED, DATA, start=14.0)) == []


def test_rows_without_an_end_are_a_walk_from_the_first_on(ours: Ours) -> None:
    send(ours, ["/table"], 0.0, TYPED, PAGE)
    walked = send(ours, [f"/api/items/{number}" for number in range(600)], 0.1, CALLED, DATA, start=14.0)
    assert walked[450].refused
    assert walked[-1].refused


def test_a_walk_two_a_second_is_no_table_though_a_page_was_loaded_first(ours: Ours) -> None:
    """Somebody who looks at one thing after the other, without a page for each, is slower."""
    dice, way = random.Random(2), Way(ours)
    way.ask("/", TYPED)
    for number in range(200):
        way.ask(f"/api/items/{number}", CALLED, DATA, gap=min(2.9, dice.expovariate(2)))
    assert way.found[-1].refused
    reader = Way(ours, 9_000.0)
    reader.ask("/", TYPED)
    for number in range(400):
        reader.ask(f"/api/mails/{number * 7919}", CALLED, DATA, gap=1.5 * dice.lognormvariate(0.0, 0.4))
    assert touched(reader.found) == []


@pytest.mark.parametrize("name", [b"authorization", b"x-api-key", b"signature"])
def test_a_first_sync_with_credentials_is_no_walk(ours: Ours, name: bytes) -> None:
    client, notes = headers_of("AcmeNotes/4.1 (build 812)"), [f"/v1/notes/{number}" for number in range(1_600)]
    assert touched(send(ours, notes[:900], 0.15, (*client, (name, b"x")), DATA)) == []
    assert send(ours, notes, 0.15, (*client, (name, b"x")), DATA, start=9_000.0)[-1].refused
    assert send(ours, notes[:400], 0.15, client, DATA, start=19_000.0)[-1].refused


def test_who_reads_by_a_service_that_translates_forges_nothing(ours: Ours) -> None:
    """Forty people, each by another browser, from one address of the service, which sends no Fetch Metadata."""
    dice, way = random.Random(4), Way(ours, address="66.102.9.1")
    for person in range(40):
        agent = BROWSER.agent.replace("157.", f"{118 + person}.")
        headers = headers_of(f"{agent},gzip(gfe)", ("accept-language", "de"))
        for _ in range(6):
            way.ask(f"/page/{min(300, int(dice.expovariate(1 / 20)))}", headers, gap=dice.expovariate(1 / 5))
    assert touched(way.found) == []


# The same few pages, or one after the other


def looked_at(ours: Ours, paths: list[str], pictures: int = 1) -> list[Verdict]:
    """A page every few seconds, each linked by the one before, with so many pictures."""
    dice, way, last = random.Random(3), Way(ours), "/gallery"
    way.ask(last, TYPED)
    for path in paths:
        way.ask(path, BROWSER.page(f"{ORIGIN}{last}"), gap=max(2.1, dice.lognormvariate(1.6, 0.4)))
        for number in range(pictures):
            way.ask(f"/media{path}-{number}.jpg", CALLED, Reply(200, b"image/jpeg"))
        last = path
    return way.found


def test_who_goes_on_through_the_photos_of_albums_or_the_strips_of_a_comic_walks_nowhere(ours: Ours) -> None:
    albums = [path for album in range(6) for path in (f"/album/{album}", *photos(40, 100 * album))]
    assert touched(looked_at(ours, albums)) == []


@pytest.mark.parametrize("pictures", [0, 1], ids=["without files", "in no order"])
def test_pages_without_files_or_in_no_order_are_no_gallery(ours: Ours, pictures: int) -> None:
    paths = photos(240, 100)
    if pictures:
        paths = [f"/photo/{number * 37 % 1009}" for number in range(240)]
    assert looked_at(ours, paths, pictures)[-1].flagged


def test_a_gallery_that_is_most_of_a_site_may_be_seen_to_its_end(tmp_path: Path) -> None:
    site = Ours(str(tmp_path), site_pages=80)
    for number in range(40):
        site.judge(Request(0.0, f"198.51.100.{number}", "GET", f"/other/{number}", b"", TYPED), PAGE)
    found, shuffled = looked_at(site, photos(75, 1)), [f"/photo/{number * 37 % 79}" for number in range(75)]
    site.close()
    assert touched(found) == []
    walked = Ours(str(tmp_path), site_pages=80)
    assert looked_at(walked, shuffled)[-1].flagged
    walked.close()


def photos(count: int, first: int) -> list[str]:
    return [f"/photo/{first + number}" for number in range(count)]


@pytest.mark.parametrize(("pages", "flagged"), [(5, False), (12, False), (40, True)])
def test_a_screen_on_a_wall_that_shows_few_pages_in_turn_is_let_be(ours: Ours, pages: int, flagged: bool) -> None:
    way, wall = Way(ours), browsers.draw(random.Random(1), browsers.DESKTOPS[:1], "de", version=88)
    for number in range(700):
        way.ask(f"/wall/{number * 7 % pages}", wall.page(typed=True), gap=10.0)
    assert (touched(way.found) != []) is flagged


def test_people_whose_names_a_gateway_strips_are_no_library(ours: Ours) -> None:
    found = [
        send(ours, [f"/page/{number}" for number in range(70)], 20.0, headers_of(agent), PAGE, start=start)[-1]
        for agent, start in (("Amazon CloudFront", 10.0), ("python-requests/2.32.5", 9_000.0))
    ]
    assert [verdict.flagged for verdict in found] == [False, True]
