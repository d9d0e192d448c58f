"""What pages and apps ask and send by themselves, through the whole middleware: nobody is refused for it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.benchmarks.detect import browsers
from tests.benchmarks.detect.columns import Ours, Verdict
from tests.benchmarks.detect.programs import headers_of
from tests.benchmarks.detect.site import JSON, ORIGIN, Reply
from tests.benchmarks.detect.traffic import Headers, Request

BROWSER = browsers.draw(random.Random(1), browsers.DESKTOPS[:1], "de", version=157)
TYPED, CALLED = BROWSER.page(typed=True), BROWSER.call("/app")
PHONE, TOOL = headers_of("okhttp/5.1.0"), headers_of("python-requests/2.32.5")
PAGE, DATA, GONE = Reply(200), Reply(200, JSON), Reply(404)


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Ours]:
    found = Ours(str(tmp_path))
    # Others have shown that browsers' headers reach this site, and that it has pages.
    for number in range(40):
        found.judge(Request(0.0, f"198.51.100.{number}", "GET", f"/other/{number}", b"", TYPED), PAGE)
    yield found
    found.close()


def send(
    ours: Ours,
    paths: Iterable[str],
    gap: float,
    headers: Headers,
    reply: Reply,
    method: str = "GET",
    start: float = 10.0,
) -> list[Verdict]:
    """Send one request after the other, `gap` seconds apart."""
    requests = (
        Request(start + gap * number, "84.130.9.9", method, path, b"", headers) for number, path in enumerate(paths)
    )
    return [ours.judge(request, reply) for request in requests]


def touched(verdicts: list[Verdict]) -> list[int]:
    return [place for place, verdict in enumerate(verdicts) if verdict.flagged or verdict.refused]


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "POST"])
@pytest.mark.parametrize("headers", [CALLED, PHONE], ids=["page", "phone"])
def test_what_is_saved_or_deleted_one_by_one_is_no_data_that_was_asked_for(
    ours: Ours, method: str, headers: Headers
) -> None:
    """Four hundred mails that were selected; notes of a phone that was offline."""
    assert touched(send(ours, [f"/api/notes/{number}" for number in range(400)], 0.1, headers, DATA, method)) == []
    walked = send(ours, [f"/api/notes/{number}" for number in range(400)], 0.1, headers, DATA, start=2_000.0)
    assert any(verdict.refused for verdict in walked)


@pytest.mark.parametrize("status", [409, 412])
@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_what_changed_while_a_phone_was_offline_is_not_its_error(ours: Ours, method: str, status: int) -> None:
    notes = [f"/api/notes/{number}" for number in range(60)]
    assert touched(send(ours, notes, 0.3, PHONE, Reply(status, JSON), method)) == []
    assert touched(send(ours, notes, 0.3, PHONE, GONE, method, start=2_000.0)) != []


def test_who_asks_whether_things_are_there_gets_no_data(ours: Ours) -> None:
    """Three hundred uploads that go on where they were cut; an album of which most is here already."""
    files = [f"/files/{number:x}" for number in range(300)]
    assert touched(send(ours, files, 0.5, CALLED, Reply(200, b""), "HEAD")) == []
    assert touched(send(ours, files, 0.5, PHONE, DATA, "HEAD", start=2_000.0)) == []
    assert any(verdict.refused for verdict in send(ours, files, 0.5, PHONE, DATA, start=4_000.0))


PLAIN = (
    *headers_of(BROWSER.agent, ("accept-language", "de"), ("referer", "http://forum.example/t/17")),
    (b"accept", b"image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"),  # the last of a name counts
)
SHOWN = {b"sec-fetch-site": b"cross-site", b"referer": b"https://forum.example/t/17"}


@pytest.mark.parametrize(
    "headers",
    [BROWSER.file("/a.png", "/from"), BROWSER.call("/app"), PLAIN],
    ids=["pictures of a forum elsewhere", "avatars in an app elsewhere", "pictures over plain http"],
)
def test_what_a_page_of_another_site_shows_and_is_gone_is_not_its_readers_guess(ours: Ours, headers: Headers) -> None:
    shown = headers if headers is PLAIN else tuple({**dict(headers), **SHOWN}.items())
    assert touched(send(ours, [f"/avatars/{number}.png" for number in range(90)], 0.05, shown, GONE)) == []


def test_who_follows_dead_links_of_another_site_asks_himself(ours: Ours) -> None:
    followed = BROWSER.page("https://list.example/")
    assert send(ours, [f"/old/{number}" for number in range(90)], 1.0, followed, GONE)[-1].refused


def test_a_comment_full_of_pictures_of_hidden_files_blocks_no_reader(ours: Ours) -> None:
    """Whoever may post could else have the site refuse all who read it."""
    files = [f"/{number}/.env" for number in range(40)]
    pictures = BROWSER.file("/a.png", "/thread")
    assert touched(send(ours, ["/thread"], 0.0, TYPED, PAGE)) == []
    assert touched(send(ours, files, 0.05, pictures, GONE, start=11.0)) == []
    assert send(ours, files, 0.5, TYPED, GONE, start=20.0)[-1].refused


@pytest.mark.parametrize("sent", [(), ((b"sec-fetch-site", b"same-origin"),)])
def test_a_tool_that_says_so_is_believed_nothing_of_hidden_files(
    ours: Ours, sent: tuple[tuple[bytes, bytes], ...]
) -> None:
    headers = (*TOOL, *sent)
    send(ours, ["/thread"], 0.0, headers, PAGE)
    assert send(ours, [f"/{number}/.env" for number in range(40)], 0.5, headers, GONE, start=11.0)[-1].refused


OUT, STALE = Reply(401, JSON), Reply(400, JSON)


def called(length: int) -> Headers:
    return (*CALLED, (b"content-type", b"application/json"), (b"content-length", b"%d" % length))


def polled(ours: Ours, path: str, reply: Reply, lengths: list[int], apart: float) -> list[Verdict]:
    """The parts of a dashboard, one after the other, every five seconds for ten minutes."""
    found = []
    for turn in range(120):
        for place, length in enumerate(lengths):
            at = 10.0 + 5.0 * turn + apart * place
            found.append(ours.judge(Request(at, "84.130.9.9", "POST", path, b"", called(length)), reply))
    return found


PARTS = [200 + 17 * part for part in range(20)]


@pytest.mark.parametrize(
    ("path", "reply", "lengths", "apart"),
    [
        ("/graphql", OUT, PARTS, 0.02),
        ("/graphql", STALE, PARTS, 0.25),
        ("/api/ds/query", OUT, PARTS, 0.02),
        ("/api/ds/query", OUT, PARTS, 0.25),
        ("/api/auth/refresh", OUT, [2] * 20, 0.02),
    ],
)
def test_a_dashboard_of_twenty_parts_that_is_logged_out_guesses_nothing(
    ours: Ours, path: str, reply: Reply, lengths: list[int], apart: float
) -> None:
    assert touched(polled(ours, path, reply, lengths, apart)) == []


@pytest.mark.parametrize("lengths", [[24], [24, 25]])
def test_codes_that_are_guessed_from_a_page_without_a_pause_are_refused(ours: Ours, lengths: list[int]) -> None:
    requests = [
        Request(10.0 + 0.2 * turn, "84.130.9.9", "POST", "/api/otp", b"", called(lengths[turn % len(lengths)]))
        for turn in range(200)
    ]
    assert [ours.judge(request, OUT) for request in requests][-1].refused


def test_codes_that_are_guessed_three_a_second_now_and_then_slower_are_refused(ours: Ours) -> None:
    times = [10.0 + 0.3 * turn + 0.9 * (turn // 20) for turn in range(150)]
    requests = [Request(at, "84.130.9.9", "POST", "/api/verify", b"", called(24)) for at in times]
    assert [ours.judge(request, Reply(422, JSON)) for request in requests][-1].refused


@pytest.mark.parametrize("headers", [CALLED, TOOL], ids=["page", "tool"])
@pytest.mark.parametrize(
    ("path", "status"),
    [
        *(("/api/otp", 401), ("/cart/coupon", 404), ("/checkout/pay", 402), ("/2fa", 401), ("/mfa/verify", 400)),
        *(("/api/phone/verify", 400), ("/donate", 402), ("/api/orders", 402), ("/api/payments", 400)),
    ],
)
def test_codes_of_one_length_are_guessed_however_patiently(
    ours: Ours, path: str, status: int, headers: Headers
) -> None:
    """What a device waits for, it asks for as often."""
    body = (*headers, (b"content-type", b"application/json"), (b"content-length", b"24"))
    assert send(ours, [path] * 100, 2.0, body, Reply(status, JSON), "POST")[-1].refused
    assert touched(send(ours, ["/oauth/device/token"] * 400, 2.0, body, STALE, "POST", start=5_000.0)) == []


def test_a_program_that_sends_its_token_when_it_is_asked_to_fails_nowhere(ours: Ours) -> None:
    verdicts = []
    for number in range(60):
        path, start = f"/repositories/{number}", 10.0 + number
        verdicts += send(ours, [path], 0.0, TOOL, OUT, start=start)
        verdicts += send(ours, [path], 0.0, (*TOOL, (b"authorization", b"Basic eA==")), DATA, start=start + 0.1)
    assert touched(verdicts) == []


PADDING = "./" * 150  # servers of files look over it


@pytest.mark.parametrize("form", ["/site/{0}item{1}", "/site/item{1}/{0}", "/site/{0}item{1}/{0}x"])
def test_a_walk_over_long_paths_is_seen_wherever_they_differ(ours: Ours, form: str) -> None:
    pages = [form.format(PADDING, number) for number in range(200)]
    verdicts = send(ours, pages, 1.1, TOOL, PAGE)
    assert "many_pages_by_a_tool" in verdicts[-1].signals
    assert verdicts[-1].refused


def test_one_long_path_again_and_again_is_one_page(ours: Ours) -> None:
    assert touched(send(ours, [f"/site/{PADDING}item"] * 200, 2.0, TOOL, PAGE)) == []


def test_a_walk_in_two_ranges_of_each_page_is_seen(ours: Ours) -> None:
    parts = Reply(206, b"multipart/byteranges; boundary=1f")
    assert send(ours, [f"/site/item{number}" for number in range(500)], 0.5, TOOL, parts)[-1].refused


SAID = [
    {b"x-requested-with": b"XMLHttpRequest"},
    {b"hx-request": b"true"},
    {b"sec-fetch-dest": b"empty"},
    {b"sec-purpose": b"prefetch"},
]


@pytest.mark.parametrize("said", SAID, ids=[next(iter(said)).decode() for said in SAID])
def test_a_tool_loads_pages_however_it_says_that_it_would_show_them(ours: Ours, said: dict[bytes, bytes]) -> None:
    headers = (*TOOL, *said.items())
    verdicts = send(ours, [f"/things/{number * 7919 % 5000}" for number in range(200)], 2.2, headers, PAGE)
    assert "many_pages_by_a_tool" in verdicts[-1].signals
    assert verdicts[-1].refused


def test_a_tool_that_says_that_a_page_sent_it_guesses_all_the_same(ours: Ours) -> None:
    headers = (*TOOL, (b"referer", f"{ORIGIN}/".encode()), (b"sec-fetch-site", b"same-origin"))
    assert send(ours, [f"/old/{number}.php" for number in range(90)], 1.0, headers, GONE)[-1].refused


def test_a_tool_that_repeats_itself_walks_over_data_all_the_same(ours: Ours) -> None:
    walked = [path for number in range(400) for path in (f"/api/things/{number}", "/api/me")]
    assert send(ours, walked, 0.2, TOOL, DATA)[-1].refused
    assert touched(send(ours, ["/api/me", "/api/orders"] * 400, 0.2, PHONE, DATA, start=2_000.0)) == []


TEXT, UNTYPED = Reply(200, b"text/plain; charset=utf-8"), Reply(200, b"")


@pytest.mark.parametrize("reply", [DATA, TEXT, UNTYPED], ids=["json", "text", "without a type"])
@pytest.mark.parametrize("headers", [TOOL, TYPED, CALLED], ids=["tool", "as pages", "as data"])
@pytest.mark.parametrize("gap", [0.04, 0.8])
def test_a_fast_walk_over_what_is_no_page_is_blocked_before_its_200th_request(
    ours: Ours, reply: Reply, headers: Headers, gap: float
) -> None:
    walked = send(ours, [f"/things/{number}" for number in range(200)], gap, headers, reply)
    assert walked[-1].refused
    resumed = send(ours, [f"/things/{200 + number}" for number in range(80)], gap, headers, reply, start=1_200.0)
    assert [resumed[0].refused, resumed[-1].refused] == [False, True]


@pytest.mark.parametrize("reply", [DATA, TEXT])
def test_a_hundred_things_at_a_stretch_are_no_walk_however_often_they_are_asked_again(ours: Ours, reply: Reply) -> None:
    for turn in range(5):
        things = [f"/things/{number}" for number in range(100)]
        assert touched(send(ours, things, 0.1, PHONE, reply, start=300.0 * turn)) == []


def test_a_map_whose_tiles_are_data_is_one_view(ours: Ours) -> None:
    """Somebody drags it for minutes without a pause; a program that would have all of a layer has not."""
    tiles = [f"/layer/13/{4000 + number // 12}/{2700 + number % 12}.json" for number in range(900)]
    assert touched(send(ours, tiles, 0.2, CALLED, DATA)) == []
    layer = [f"/layer/13/{number // 99}/{number % 99}.json" for number in range(2500)]
    assert send(ours, layer, 0.2, CALLED, DATA, start=5_000.0)[-1].refused


def test_a_guide_that_is_kept_for_offline_page_by_page_is_no_walk(ours: Ours) -> None:
    requests = (
        Request(10.0 + 0.2 * number, "84.130.9.9", "GET", f"/guide/{number}.html", b"__WB_REVISION__=5f3a", CALLED)
        for number in range(400)
    )
    assert touched([ours.judge(request, PAGE) for request in requests]) == []


def test_a_call_centre_behind_one_address_looks_up_one_customer_after_the_other(ours: Ours) -> None:
    """Thirty colleagues with one browser and language, each with a page and what it shows in half a minute."""
    dice, asked = random.Random(3), []
    for _ in range(30):
        now = 10.0 + dice.uniform(0.0, 60.0)
        asked.append((now, "/desk", TYPED, PAGE))
        for _ in range(15):
            now += dice.lognormvariate(3.4, 0.6)
            customer = f"/customers/{dice.randrange(90_000)}"
            asked.append((now, customer, BROWSER.page(f"{ORIGIN}/desk"), PAGE))
            asked += [(now + 0.3, f"/api{customer}/{part}", CALLED, DATA) for part in ("calls", "orders")]
    requests = [(Request(at, "84.130.9.9", "GET", path, b"", how), reply) for at, path, how, reply in sorted(asked)]
    assert touched([ours.judge(request, reply) for request, reply in requests]) == []
