"""The session cookie: given, read, signed anew, kept out of shared caches."""

from __future__ import annotations

import pytest

from asgi_analytics import Analytics, Privacy
from asgi_analytics.engine import Engine
from asgi_analytics.facts import Throttle, ThrottleLevel
from asgi_analytics.model import Visitor
from asgi_analytics.protocols import Salt
from asgi_analytics.settings import Settings
from asgi_analytics.testing import START_NS, FakeClock

from .drive import BROWSER, COOKIE, NOWHERE, Reply, found, get, http_scope, page, rows, start, wrapped


def cookie_of(reply: Reply) -> dict[str, str]:
    return {"cookie": reply.cookies[0].split(";")[0]}


def test_a_browser_gets_one_cookie_and_is_known_by_it_from_then_on() -> None:
    seen: list[Analytics] = []
    with wrapped(found(page(), seen), **COOKIE) as wrap:
        first = get(wrap)
        again = [get(wrap, headers=cookie_of(first)) for _ in range(2)]
    assert first.cookies[0].startswith("aa_v=")
    assert "HttpOnly; SameSite=Lax" in first.cookies[0]
    assert [reply.cookies for reply in again] == [[], []]
    assert len({analytics.visitor for analytics in seen}) == 1
    assert len({analytics.session for analytics in seen}) == 1


def test_over_https_the_cookie_is_bound_to_the_host() -> None:
    with wrapped(page(), **COOKIE) as wrap:
        (cookie,) = get(wrap, scheme="https").cookies
    assert cookie.startswith("__Host-aa_v=")
    assert cookie.endswith("; Secure")
    assert "; Path=/;" in cookie


def test_two_people_with_the_same_browser_are_two_visitors_with_a_quota_each(dsn: str) -> None:
    with wrapped(page(), dsn, clock=FakeClock(), limits="9/minute", **COOKIE) as wrap:
        start(wrap)
        one, other = cookie_of(get(wrap)), cookie_of(get(wrap))
        for cookie in (one, other, one, other):
            get(wrap, headers=cookie)
        left = [get(wrap, headers=cookie).header("ratelimit") for cookie in (one, other)]
    assert left[0] == left[1] == '"minute";r=6;t=20'
    kept = rows(dsn, "SELECT count(*) AS hits FROM analytics.hits GROUP BY fingerprint, session_id")
    assert [row["hits"] for row in kept] == [4, 4]


def test_after_a_rotation_the_old_secret_is_read_and_the_new_one_signs() -> None:
    seen: list[Analytics] = []
    old, new = "an old secret of length", "a new secret, also long"
    with wrapped(page(), session_cookie="sid", secret=old) as before:
        given = cookie_of(get(before))
    with wrapped(found(page(), seen), session_cookie="sid", secret=[new, old]) as wrap:
        rotated = get(wrap, headers=given)
        settled = get(wrap, headers=cookie_of(rotated))
    with wrapped(page(), session_cookie="sid", secret=new) as after:
        assert get(after, headers=cookie_of(rotated)).cookies == []
        assert len(get(after, headers=given).cookies) == 1
    assert (len(rotated.cookies), settled.cookies) == (1, [])
    assert len({analytics.visitor for analytics in seen}) == 1


def test_a_visitor_stays_the_same_through_a_rotation_of_secrets_and_is_another_on_another_site() -> None:
    seen: list[Analytics] = []
    old, new = "an old secret of length", "a new secret, also long"
    given: dict[str, str] = {}
    for secrets in (old, [old, new], [new, old], new):
        with wrapped(found(page(), seen), session_cookie=True, secret=secrets) as wrap:
            if not given:
                given = cookie_of(get(wrap))
            for cookie in get(wrap, headers=given).cookies:
                given = {"cookie": cookie.split(";")[0]}
    assert len({analytics.visitor for analytics in seen}) == 1
    with wrapped(found(page(), seen), session_cookie=True, secret=new, site="shop") as wrap:
        assert get(wrap, headers=given).cookies == []
    assert len({analytics.visitor for analytics in seen}) == 2


@pytest.mark.parametrize("junk", ["aa_v=", "aa_v=" + "A" * 48, "aa_v=\x00\xff", "aa_v", "x=" + "aa_v=" * 2000])
def test_a_forged_cookie_is_as_good_as_none(junk: str) -> None:
    with wrapped(page(), **COOKIE) as wrap:
        assert len(get(wrap, headers={"cookie": junk}).cookies) == 1


def test_who_drops_cookies_gets_five_and_stays_one_visitor_with_one_quota(dsn: str) -> None:
    with wrapped(page(), dsn, clock=FakeClock(), limits="20/minute", **COOKIE) as wrap:
        replies = [get(wrap) for _ in range(21)]
        assert wrap.stats()["memory"]["visitors"] <= 6
    assert [len(reply.cookies) for reply in replies] == [1] * 5 + [0] * 16
    assert [reply.status for reply in replies] == [200] * 20 + [429]
    assert len(rows(dsn, "SELECT * FROM analytics.sessions")) <= 6


@pytest.mark.parametrize(
    ("header", "given"),
    [
        ("public, max-age=60", 0),
        ("Public", 0),
        ("S-MaxAge=10", 0),
        ("private, max-age=60", 1),
        ("no-store", 1),
    ],
)
def test_no_cookie_goes_into_a_shared_cache(header: str, given: int) -> None:
    with wrapped(page(headers=[(b"Cache-Control", header.encode())]), **COOKIE) as wrap:
        assert len(get(wrap).cookies) == given


@pytest.mark.parametrize("lines", [(b"public", b"max-age=0"), (b"s-maxage=60", b"must-understand")])
def test_cache_control_in_several_lines_is_one(lines: tuple[bytes, ...]) -> None:
    for ordered, given in ((lines, 0), (lines[::-1], 0), ((*lines, b"private"), 1)):
        with wrapped(page(headers=[(b"cache-control", line) for line in ordered]), **COOKIE) as wrap:
            assert len(get(wrap).cookies) == given


def test_no_cookie_goes_with_a_revalidation_or_to_what_is_no_navigation() -> None:
    with wrapped(page(b"", 304), **COOKIE) as wrap:
        assert get(wrap, headers={"sec-fetch-dest": "document"}).cookies == []
    with wrapped(page(), **COOKIE) as wrap:
        assert get(wrap, headers={"sec-fetch-dest": "image"}).cookies == []
        assert get(wrap, method="POST").cookies == []


def test_the_apps_own_cookies_stay() -> None:
    with wrapped(page(headers=[(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]), **COOKIE) as wrap:
        assert [cookie[:5] for cookie in get(wrap).cookies] == ["a=1", "b=2", "aa_v="]


def test_a_cookie_visitor_that_moves_is_stored_where_it_is(dsn: str) -> None:
    with wrapped(page(), dsn, privacy=Privacy(address="full"), **COOKIE) as wrap:
        cookie = cookie_of(get(wrap, "/home"))
        get(wrap, "/home", cookie)
        get(wrap, "/train", cookie, client=("203.0.113.9", 1))
    home, train = rows(dsn, "SELECT DISTINCT path, fingerprint, network, address FROM analytics.hits ORDER BY path")
    assert home["fingerprint"] == train["fingerprint"]
    assert home["network"] != train["network"]
    assert (home["address"], train["address"]) == ("198.51.100.7", "203.0.113.9")


def test_a_cookie_visitor_is_stored_as_it_says_who_it_is(dsn: str) -> None:
    said = {"update": BROWSER.replace("130", "131"), "script": "curl/8.5.0", "claim": "GPTBot/1.2"}
    with wrapped(page(), dsn, **COOKIE) as wrap:
        cookie = cookie_of(get(wrap, "/first"))
        for path, agent in said.items():
            get(wrap, f"/{path}", {**cookie, "user-agent": agent})
        get(wrap, "/travel", {**cookie, "accept-language": "fr"})
    query = "SELECT path, browser, browser_version, bot_class, language, verified FROM analytics.hits ORDER BY id"
    assert [tuple(row.values()) for row in rows(dsn, query)] == [
        ("/first", "Chrome", "130.0.0", None, "de-de", None),
        ("/update", "Chrome", "131.0.0", None, "de-de", None),
        ("/script", "curl", "8.5.0", "http-library", "de-de", None),
        ("/claim", "GPTBot", "1.2", "ai-crawler", "de-de", "unverifiable"),
        ("/travel", "Chrome", "130.0.0", None, "fr", None),
    ]


def test_whose_cookie_comes_back_brings_its_level_and_no_evidence_that_was_spent_without_it() -> None:
    engine = Engine(Settings.build(verify_crawlers=False, **COOKIE), NOWHERE)

    def comes(**headers: str) -> Visitor:
        scope = http_scope(headers=headers)
        return engine.identifier.visitor(scope, dict(scope["headers"]), 1000.0, START_NS)[0]

    alike = comes()
    assert alike.cookie is not None
    alike.actor.throttle = Throttle(ThrottleLevel.WARNING, 900.0, ("pages",), True, spent_paced_loads=1800)
    back = comes(cookie=alike.cookie.decode().partition(";")[0])
    assert back.actor is not comes(**{"sec-fetch-dest": "image"}).actor
    assert back.actor.throttle == Throttle(ThrottleLevel.WARNING, 900.0, ("pages",), True)


def test_a_session_begins_anew_also_with_a_cookie_that_is_yet_to_be_signed_anew() -> None:
    # No answer takes the new cookie along, as where all pages may be kept by shared caches.
    clock, old, new = FakeClock(), "an old secret of length", "a new secret, also long"
    with wrapped(page(), clock=clock, session_cookie=True, secret=old) as before:
        given = cookie_of(get(before))
    seen: list[Analytics] = []
    app = found(page(headers=[(b"cache-control", b"public, max-age=60")]), seen)
    with wrapped(app, clock=clock, session_cookie=True, secret=[new, old], session_timeout=60) as wrap:
        for session in range(3):
            for number in range(4):
                get(wrap, f"/{session}/{number}", headers=given)
            clock.advance(61)
    assert seen[-1]._visitor.actor.behaviour.page_loads == 4


def test_who_got_five_cookies_and_no_more_gets_one_the_next_day() -> None:
    """Five who looked alike came once, and never again: the sixth, who works at the same office, is not one of them."""
    clock = FakeClock()
    clock.advance(86_000)
    with wrapped(page(), clock=clock, **COOKIE) as wrap:
        wrap._engine.state.learn_salts([Salt(f"2100-01-0{day}", bytes([day]) * 32) for day in (1, 2)])
        assert [len(get(wrap).cookies) for _ in range(6)] == [1] * 5 + [0]
        clock.advance(500)
        assert len(get(wrap).cookies) == 1


def test_a_crowd_that_looks_alike_is_not_judged_by_those_whose_cookies_came_back() -> None:
    """Phones of a carrier: each first page is asked for without a cookie."""
    seen: list[Analytics] = []
    clock = FakeClock()
    with wrapped(found(page(), seen), clock=clock, **COOKIE) as wrap:
        for number in range(160):
            clock.advance(2.5 if number % 4 else 12.0)
            get(wrap, "/item/1", headers=cookie_of(get(wrap, f"/entry/{number % 50}")))
    assert {(one.score < 50, one.level) for one in seen} == {(True, ThrottleLevel.NORMAL)}
    assert seen[-1]._visitor.actor.loaded, "it got the cookie by a page"
