"""Guesses in queries, and websockets that are refused, through the whole middleware; and who only looks like that."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from tests.benchmarks.detect.columns import Ours, Verdict
from tests.benchmarks.detect.programs import headers_of
from tests.benchmarks.detect.site import JSON, ORIGIN, Reply
from tests.benchmarks.detect.traffic import Headers, Request

from .test_calls import BROWSER, CALLED, GONE, PAGE, PHONE, TOOL, TYPED, ours, touched

__all__ = ["ours"]  # a fixture
FORBIDDEN = Reply(403, JSON)
# What Chromium and Firefox send with a handshake.
SOCKET = headers_of(BROWSER.agent, ("origin", ORIGIN), ("accept-language", "de"))
FIREFOX = (*SOCKET, (b"sec-fetch-site", b"same-origin"), (b"sec-fetch-dest", b"websocket"))
LIBRARY = headers_of("Python/3.13 websockets/15.0.1")


def ask(
    ours: Ours,
    queries: Iterable[str],
    headers: Headers,
    reply: Reply = GONE,
    path: str = "/invite",
    method: str = "GET",
    gap: float = 1.0,
    start: float = 10.0,
) -> list[Verdict]:
    """Ask for one path with one query after the other."""
    return [
        ours.judge(Request(start + gap * number, "84.130.9.9", method, path, query.encode(), headers), reply)
        for number, query in enumerate(queries)
    ]


def refused_at(verdicts: list[Verdict]) -> int:
    return next(place for place, verdict in enumerate(verdicts) if verdict.refused)


@pytest.mark.parametrize("reply", [GONE, FORBIDDEN, Reply(410)], ids=lambda reply: str(reply.status))
@pytest.mark.parametrize("name", ["id", "order_id", "UserID", "x=1&" * 60 + "id"], ids=lambda name: name[-8:])
def test_who_walks_through_ids_that_are_not_there_or_not_for_him_is_refused(
    ours: Ours, name: str, reply: Reply
) -> None:
    walked = ask(ours, [f"{name}={number}" for number in range(120)], TOOL, reply, "/api/order")
    assert refused_at(walked) < 90


@pytest.mark.parametrize(
    ("queries", "path"),
    [
        (["id=17"] * 400, "/api/order"),
        ([f"id=40063813{number:05}" for number in range(100)], "/api/product"),
        ([f"request_id={n}&sid={n}&eventid={n}" for n in range(400)], "/api/order"),
        ([f"id={n}" for n in range(400)], "/avatar.php"),
        ([f"id={n:x}af" for n in range(400)], "/api/order"),
    ],
    ids=["poll", "bar codes", "of requests", "pictures", "no numbers"],
)
def test_ids_that_change_by_themselves_are_no_walk(ours: Ours, queries: list[str], path: str) -> None:
    assert touched(ask(ours, queries, PHONE, GONE, path, gap=2.0)) == []


def test_ids_that_a_page_asks_for_are_no_walk_of_its_reader(ours: Ours) -> None:
    ask(ours, [""], TYPED, PAGE, "/list")
    assert touched(ask(ours, [f"id={n}" for n in range(150)], CALLED, GONE, "/api/order", gap=0.1, start=12.0)) == []


NAMES = [
    "token",
    "api_key",
    "code",
    "resetToken",
    "invite_code",
    "%74oken",
    "x=1&" * 60 + "code",
    "a=" + "b" * 9_000 + "&token",
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:12] + name[-5:])
@pytest.mark.parametrize(
    "reply",
    [GONE, FORBIDDEN, Reply(400), Reply(401), Reply(302, location=b"/expired")],
    ids=lambda reply: str(reply.status),
)
def test_who_guesses_in_the_query_of_one_page_is_refused(ours: Ours, name: str, reply: Reply) -> None:
    guessed = ask(ours, [f"{name}={number:06}" for number in range(120)], TOOL, reply)
    assert refused_at(guessed) < 90


def test_a_guesser_with_a_browsers_headers_has_no_more_of_it_than_one_that_changes_the_path(ours: Ours) -> None:
    assert refused_at(ask(ours, [f"code={n}" for n in range(700)], CALLED, gap=0.2)) < 650
    assert refused_at(ask(ours, [f"code={n}" for n in range(160)], TYPED, gap=0.5, start=9_000.0)) < 90


@pytest.mark.parametrize("reply", [GONE, FORBIDDEN, Reply(400), Reply(401)], ids=lambda reply: str(reply.status))
@pytest.mark.parametrize(
    ("queries", "headers", "gap"),
    [
        (["token=5f3a"] * 400, TOOL, 1.0),
        ([f"token=5f3a&_={number}" for number in range(400)], PHONE, 5.0),
        ([f"t=1795564{n:03}&rnd={n}" for n in range(400)], PHONE, 2.0),
        ([f"csrf_token={n}&captcha_token={n}" for n in range(400)], PHONE, 2.0),
        ([f"zip_code={n}&countryCode={n}&q=code{n}" for n in range(400)], PHONE, 2.0),
        ([f"code={'SUMMER2027'[:end]}" for _ in range(15) for end in range(1, 11)], CALLED, 0.3),
        ([f"token={n}" for n in range(30)], TYPED, 9.0),
        ([f"next=%2Freset%3Ftoken%3D{n}" for n in range(200)], TOOL, 2.0),
    ],
    ids=["poll", "poll by time", "times", "forms", "plain codes", "typed", "old links", "leads back"],
)
def test_who_asks_in_vain_with_a_query_guesses_nothing(
    ours: Ours, queries: list[str], headers: Headers, gap: float, reply: Reply
) -> None:
    assert touched(ask(ours, queries, headers, reply, gap=gap)) == []


def test_who_looks_up_what_is_not_known_guesses_nothing(ours: Ours) -> None:
    """A phone scans the codes of a hundred products."""
    codes = [f"code=40063813{number:05}" for number in range(100)]
    assert touched(ask(ours, codes, PHONE, GONE, "/api/product", gap=3.0)) == []


def test_links_that_work_as_often_as_not_are_no_guesses(ours: Ours) -> None:
    """A scanner of mails opens each link twice, and each works once."""
    scanner = headers_of("Mozilla/5.0 (compatible; MailGuard/2.1; +https://mailguard.example)")
    found = []
    for number in range(300):
        found += ask(ours, [f"token={number}"], scanner, PAGE, "/verify", start=10.0 + 4.0 * number)
        found += ask(ours, [f"token={number}"], scanner, GONE, "/verify", start=11.0 + 4.0 * number)
    assert touched(found) == []


@pytest.mark.parametrize("path", ["/auth/callback", "/accounts/google/login/callback/", "/complete/azuread-oauth2/"])
def test_an_office_that_cannot_log_in_by_another_site_guesses_no_codes(ours: Ours, path: str) -> None:
    """Forty alike browsers are led there and back with a code that is new each time."""
    dice, found, at = random.Random(3), [], 10.0
    back = BROWSER.page("https://sso.example/")
    for number in range(300):
        at += dice.expovariate(0.5)
        way = Request(at, "84.130.9.9", "GET", "/", b"", TYPED)
        found.append(ours.judge(way, Reply(302, location=b"https://sso.example/authorize?state=%d" % number)))
        found += ask(ours, [f"code={number}&state={number}"], back, Reply(400), path, start=at + 0.3)
    assert touched(found) == []
    assert refused_at(ask(ours, [f"code={n}" for n in range(300)], back, Reply(400), gap=0.5, start=9_000.0)) < 90


# Websockets


def test_sockets_that_a_program_is_refused_are_guesses(ours: Ours) -> None:
    rooms = [ask(ours, [""], LIBRARY, FORBIDDEN, f"/ws/{n}", "WEBSOCKET", start=10.0 + n)[0] for n in range(120)]
    assert refused_at(rooms) < 90
    tokens = ask(ours, [f"token={n}" for n in range(120)], LIBRARY, FORBIDDEN, "/ws", "WEBSOCKET", start=9_000.0)
    assert refused_at(tokens) < 90


@pytest.mark.parametrize("headers", [SOCKET, FIREFOX], ids=["chromium", "firefox"])
def test_a_page_that_is_logged_out_opens_its_sockets_again_and_again(ours: Ours, headers: Headers) -> None:
    """Thirty of them, with a ticket that it gets anew for each."""
    dice, found, at = random.Random(3), [], 10.0
    found.append(ours.judge(Request(at, "84.130.9.9", "GET", "/board", b"", TYPED), PAGE))
    for turn in range(40):
        for sensor in range(30):
            at += dice.uniform(0.01, 0.1)
            ticket = Request(at, "84.130.9.9", "POST", "/api/ticket", b"", CALLED)
            found.append(ours.judge(ticket, Reply(200, JSON)))
            found += ask(ours, [f"ticket={turn}.{sensor}"], headers, FORBIDDEN, f"/ws/{sensor}", "WEBSOCKET", start=at)
        at += 30.0
    assert touched(found) == []


def test_devices_that_are_refused_with_a_token_each_are_let_be(ours: Ours) -> None:
    found = []
    for turn in range(20):
        for device in range(40):
            sent = (*headers_of("okhttp/5.1.0"), (b"authorization", b"Basic %d" % device))
            path, at = f"/ocpp/{device}", 10.0 + 60.0 * turn + device
            found += ask(ours, [""], sent, FORBIDDEN, path, "WEBSOCKET", start=at)
    assert touched(found) == []


def test_devices_that_an_app_is_too_busy_for_are_let_be(ours: Ours) -> None:
    """As they are by a 503."""
    sockets = [f"/ws/{number}" for number in range(200)]
    for code, let_be in ((1013, True), (1011, True), (1008, False)):
        ours.closes_with = code
        start = 10_000.0 * code
        found = [
            ask(ours, [""], LIBRARY, FORBIDDEN, path, "WEBSOCKET", start=start + place)[0]
            for place, path in enumerate(sockets)
        ]
        assert (touched(found) == []) is let_be


def test_sockets_that_are_accepted_say_nothing(ours: Ours) -> None:
    for headers in (SOCKET, LIBRARY):
        opened = ask(ours, [f"token={n}" for n in range(200)], headers, PAGE, "/ws", "WEBSOCKET")
        assert touched(opened) == []
