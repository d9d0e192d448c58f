"""The session cookie among people who look alike, and on answers that cannot take it along."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asgi_analytics.identify.visitor import MAX_UNRETURNED
from asgi_analytics.middleware import ASGIApp, Receive, Scope, Send
from asgi_analytics.model import Analytics
from asgi_analytics.record import refusals
from asgi_analytics.testing import FakeClock
from tests.drive import Reply, ask, get, http_scope, look, page, wrapped

COOKIE: dict[str, Any] = {"session_cookie": True, "secret": "correct horse battery staple", "clock": FakeClock()}


def cookie_of(reply: Reply) -> dict[str, str]:
    return {"cookie": reply.cookies[0].partition(";")[0]}


def noted(app: ASGIApp, into: list[Analytics]) -> ASGIApp:
    return look(app, lambda scope: into.append(scope["state"]["analytics"]))


async def mostly_public(scope: Scope, receive: Receive, send: Send) -> None:
    """Pages below /public may be kept by shared caches."""
    headers = [(b"cache-control", b"public, max-age=60")] if scope["path"].startswith("/public") else []
    await page(headers=headers)(scope, receive, send)


def test_pages_that_cannot_take_the_cookie_along_use_none_up() -> None:
    seen: list[Analytics] = []
    with wrapped(noted(mostly_public, seen), **COOKIE) as app:
        replies = [get(app, f"/public/{number}") for number in range(8)] + [get(app, "/home")]
        again = get(app, "/home", cookie_of(replies[-1]))
    assert [len(reply.cookies) for reply in (*replies, again)] == [0] * 8 + [1, 0]
    assert len({(found.visitor, found.session) for found in seen}) == 1


def test_a_flood_of_others_uses_up_no_cookie_that_nobody_was_given() -> None:
    with wrapped(mostly_public, max_visitors=100, limits=(), **COOKIE) as app:
        for turn in range(MAX_UNRETURNED + 1):
            get(app, "/public/1")
            flood(app, turn)
        assert len(get(app, "/home").cookies) == 1


def flood(app: ASGIApp, turn: int) -> None:
    """Others come until all are forgotten who had pages, but not who comes for pictures and looks alike."""
    image = {"sec-fetch-dest": "image"}
    for number in range(250):
        get(app, "/x", {**image, "user-agent": f"flood/{turn}/{number}"}, client=(f"203.0.{turn}.{number}", 1))
        get(app, "/picture", image)


def test_a_cookie_that_comes_back_after_its_visitor_was_forgotten_has_come_back() -> None:
    with wrapped(page(), max_visitors=100, limits=(), **COOKIE) as app:
        for turn in range(MAX_UNRETURNED):
            cookie = cookie_of(get(app, "/home"))
            flood(app, turn)
            assert get(app, "/home", cookie).cookies == []
        assert len(get(app, "/home").cookies) == 1


def test_the_next_one_who_looks_alike_gets_a_cookie_of_its_own() -> None:
    with wrapped(mostly_public, **COOKIE) as app:
        get(app, "/public/1")
        one, other = get(app, "/home"), get(app, "/home")
    assert cookie_of(one) != cookie_of(other)


def test_no_two_answers_carry_one_cookie_though_both_were_asked_for_before_the_first_was_sent() -> None:
    async def together(app: ASGIApp) -> list[Reply]:
        return await asyncio.gather(*(ask(app, http_scope("/home")) for _ in range(3)))

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0)
        await page()(scope, receive, send)

    with wrapped(slow, **COOKIE) as app:
        replies = [*asyncio.run(together(app)), get(app, "/home")]
    given = [cookie for reply in replies for cookie in reply.cookies]
    assert len(given) == len(set(given)) == 2


def test_a_cookie_that_waits_for_an_answer_suits_the_scheme_that_takes_it() -> None:
    with wrapped(mostly_public, **COOKIE) as app:
        get(app, "/public/1")
        (cookie,) = get(app, "/home", scheme="https").cookies
    assert cookie.startswith("__Host-aa_v=")


def crawl(app: ASGIApp, cookie: dict[str, str]) -> Reply:
    """Ask for what only scanners ask for until we are blocked."""
    return [get(app, f"/{number}/.env", cookie) for number in range(20)][-1]


async def no_such_file(scope: Scope, receive: Receive, send: Send) -> None:
    status = 404 if scope["path"].endswith("/.env") else 200
    await page(b"", status)(scope, receive, send)


def test_what_one_does_is_not_held_against_another_with_the_same_browser() -> None:
    with wrapped(no_such_file, **COOKIE) as app:
        one, other = cookie_of(get(app)), cookie_of(get(app))
        for cookie in (one, other):
            assert get(app, headers=cookie).status == 200
        assert crawl(app, one).header("x-throttle-level") == "blocked"
        reply = get(app, headers=other)
    assert (reply.status, reply.header("x-throttle-level")) == (200, "normal")


def test_a_cookie_that_comes_back_lifts_no_level() -> None:
    with wrapped(no_such_file, **COOKIE) as app:
        cookie = cookie_of(get(app))
        assert crawl(app, {}).status == 429
        assert get(app, headers=cookie).header("x-throttle-level") == "blocked"


def test_whose_cookie_comes_back_first_from_another_place_has_one_quota_which_nobody_at_the_first_pays() -> None:
    with wrapped(page(kind=b"application/json"), limits="10/day", **COOKIE) as app:
        cookie = cookie_of(get(app))
        away = [get(app, headers=cookie, client=("203.0.113.9", 1)).status for _ in range(12)]
        assert away == [200] * 10 + [429] * 2
        assert get(app, headers=cookie).status == 429, "it is the same visitor at home"
        alike = [get(app).status for _ in range(10)]
    assert alike == [200] * 9 + [429], "who has the same browser there has spent the one request that gave the cookie"


def test_a_level_comes_along_with_a_cookie_that_comes_back_from_another_place() -> None:
    with wrapped(no_such_file, **COOKIE) as app:
        cookie = cookie_of(get(app))
        assert crawl(app, {}).status == 429
        reply = get(app, headers=cookie, client=("203.0.113.9", 1))
        assert reply.header("x-throttle-level") == "blocked"


def test_who_returns_cookies_uses_none_up() -> None:
    with wrapped(page(), **COOKIE) as app:
        for _ in range(MAX_UNRETURNED):
            assert get(app, headers=cookie_of(get(app))).status == 200
        assert len(get(app).cookies) == 1


@pytest.mark.parametrize(
    ("location", "host", "scheme"),
    [
        ("https://shop.example/", "shop.example", "http"),
        ("https://www.shop.example/", "shop.example", "https"),
        ("https://shop.example/", "www.shop.example", "http"),
        ("http://shop.example/", "shop.example", "http"),
        ("/home?by=http://shop.example/", "shop.example", "https"),
    ],
)
def test_all_of_an_office_get_a_cookie_though_a_redirect_leads_each_in(location: str, host: str, scheme: str) -> None:
    led = page(b"", 307, headers=[(b"location", location.encode())])
    entry = {"host": host}
    target = {"host": location.split("/")[2]} if location.startswith("http") else entry
    secure = "http" if location.startswith("http:") else "https"

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (led if scope["path"] == "/" else page())(scope, receive, send)

    seen: list[Analytics] = []
    with wrapped(noted(app, seen), **COOKIE) as wrap:
        for _ in range(MAX_UNRETURNED + 3):
            given = get(wrap, "/", entry, scheme=scheme)
            kept = cookie_of(given) if given.cookies and target == entry else {}
            reply = get(wrap, "/home", {**target, **kept}, scheme=secure)
            get(wrap, "/more", {**target, **kept, **(cookie_of(reply) if reply.cookies else {})}, scheme=secure)
    assert len({found.visitor for found in seen[2::3]}) == MAX_UNRETURNED + 3


@pytest.mark.parametrize("there", [b"https://elsewhere.example/", b"https://app.shop.example/"])
def test_a_redirect_to_another_site_takes_the_cookie_along(there: bytes) -> None:
    with wrapped(page(b"", 302, headers=[(b"location", there)]), **COOKIE) as wrap:
        assert len(get(wrap).cookies) == 1


def test_a_refusal_does_not_move_along_with_its_visitor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "ROWS_PER_VISITOR", 0)
    with wrapped(page(), network_limits="3/day", **COOKIE) as app:
        cookie = cookie_of(get(app))
        assert [get(app, headers=cookie).status for _ in range(4)] == [200, 200, 429, 429]
        assert get(app, headers=cookie, client=("198.51.100.8", 40000)).status == 200


@pytest.mark.parametrize(
    ("headers", "given"),
    [
        ({"cache-control": "max-age=300"}, 0),
        ({"cache-control": "no-cache, must-revalidate"}, 0),
        ({"expires": "Wed, 21 Oct 2037 07:28:00 GMT"}, 0),
        ({"CDN-Cache-Control": "max-age=60"}, 0),
        ({"cache-control": "public", "Cache-Control": "stale-while-revalidate=60"}, 0),
        ({"cache-control": 'max-age=300, private="x-user"'}, 0),
        ({"last-modified": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"cache-control": "max-age=0", "last-modified": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"cache-control": "no-cache", "etag": '"1"'}, 0),
        ({"ETag": 'W/"1"'}, 0),
        ({"cache-control": "max-age=0, stale-while-revalidate=60"}, 0),
        ({"cache-control": "no-store", "surrogate-control": "max-age=60"}, 0),
        ({"cache-control": "private", "Vercel-CDN-Cache-Control": "max-age=60"}, 0),
        ({"cache-control": "private", "X-Accel-Expires": "60"}, 0),
        ({"cache-control": "private", "x-accel-expires": "@1893456000"}, 0),
        ({"cache-control": "public", "x-accel-expires": "off"}, 0),
        ({"cache-control": "private", "x-litespeed-cache-control": "public,max-age=120"}, 0),
        ({"cache-control": "private", "edge-control": "!no-store, max-age=1h"}, 0),
        ({"cache-control": "private", "x-accel-expires": "0"}, 1),
        ({"x-accel-expires": "off"}, 1),
        ({"cache-control": "private", "cdn-cache-control": "no-store"}, 1),
        ({"cache-control": "public", "cdn-cache-control": "no-store"}, 0),
        ({"cache-control": "private, no-cache", "etag": '"1"'}, 1),
        ({"cache-control": "max-age=0"}, 1),
        ({"cache-control": "no-cache"}, 1),
        ({"cache-control": "no-store, max-age=300"}, 1),
        ({"cache-control": "private, max-age=300", "expires": "Wed, 21 Oct 2037 07:28:00 GMT"}, 1),
    ],
)
def test_no_shared_cache_gets_a_cookie(headers: dict[str, str], given: int) -> None:
    named = [(name.encode(), value.encode()) for name, value in headers.items()]
    with wrapped(page(headers=named), **COOKIE) as app:
        assert len(get(app).cookies) == given


def test_behind_a_trusted_proxy_that_ends_tls_the_cookie_is_bound_to_the_host_too() -> None:
    forwarded = {"x-forwarded-for": "203.0.113.7", "x-forwarded-proto": "https"}
    with wrapped(page(), trusted_proxies="10.0.0.0/8", **COOKIE) as app:
        first = get(app, headers=forwarded, client=("10.0.0.1", 1))
        again = get(app, headers={**forwarded, **cookie_of(first)}, client=("10.0.0.1", 1))
    assert first.cookies[0].startswith("__Host-aa_v=")
    assert first.cookies[0].endswith("; Secure")
    assert again.cookies == []
