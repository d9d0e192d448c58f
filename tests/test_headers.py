"""Response headers: ours, and those of apps with names in any case and iterables of any kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from asgi_analytics.middleware import Receive, Scope, Send
from asgi_analytics.testing import FakeClock

from .build import Without
from .drive import (
    OURS,
    STRICT,
    block,
    get,
    page,
    rows,
    wrapped,
)


@pytest.mark.parametrize("name", [b"RateLimit", b"ratelimit", b"RATELIMIT-Policy", b"RateLimit-Remaining"])
def test_the_apps_own_rate_limit_fields_stand_in_whatever_case_they_are_written(name: bytes) -> None:
    with wrapped(page(headers=[(b"X-App", b"1"), (name, b"own")])) as wrap:
        headers = get(wrap).headers
    assert headers[1:3] == [(b"X-App", b"1"), (name, b"own")]
    assert {name.lower() for name, _ in headers[3:]} == {b"x-throttle-level", b"x-rate-multiplier"}


def test_a_family_that_the_app_does_not_speak_of_is_ours_beside_names_in_mixed_case() -> None:
    with wrapped(page(headers=[(b"Content-Language", b"de"), (b"X-Throttle-Level", b"own")])) as wrap:
        names = [name for name, _ in get(wrap).headers]
    assert names[2] == b"X-Throttle-Level"
    assert set(names[3:]) == OURS - {b"x-throttle-level"}


def test_a_page_whose_headers_are_in_mixed_case_is_a_page_and_gets_no_cookie_for_caches(dsn: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"Content-Type", b"text/html"), (b"Cache-Control", b"public")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"page"})

    with wrapped(app, dsn, clock=FakeClock(), session_cookie=True, secret="correct horse battery staple") as wrap:
        reply = get(wrap)
    (row,) = rows(dsn)
    assert (row["page_view"], reply.cookies) == (True, [])


def test_names_that_are_no_bytes_reach_the_server_as_they_are() -> None:
    with wrapped(page(headers=[("X-App", "1")])) as wrap:
        headers = get(wrap).headers
        assert wrap.stats()["failures"] == {}
    assert headers[1] == ("X-App", "1")  # type: ignore[comparison-overlap]
    assert {name for name, _ in headers[2:]} == OURS


@pytest.mark.parametrize("kind", [iter, list, tuple])
def test_our_own_failure_costs_no_header_of_the_apps(
    kind: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [(b"content-type", b"text/html"), (b"set-cookie", b"a=1")]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": kind(pairs)})
        await send({"type": "http.response.body", "body": b"page"})

    with wrapped(app) as wrap:
        monkeypatch.setattr(wrap._engine, "responder", Without(wrap._engine.responder, "fields"))
        assert get(wrap).headers == pairs
        assert wrap.stats()["failures"] == {"judge and respond": 1}


def test_an_error_of_the_apps_own_headers_is_not_swallowed() -> None:
    def failing() -> Iterator[tuple[bytes, bytes]]:
        yield (b"content-type", b"text/html")
        raise LookupError("no header")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(LookupError, match="no header"):
            await send({"type": "http.response.start", "status": 200, "headers": failing()})
        await page(status=500)(scope, receive, send)

    with wrapped(app) as wrap:
        assert (get(wrap).status, wrap.stats()["failures"]) == (500, {})


# Headers
def test_every_answer_has_the_documented_fields_behind_the_apps_own() -> None:
    clock = FakeClock(monotonic=1020.0)
    with wrapped(page(headers=[(b"x-app", b"1")]), limits=["20/second", "600/minute"], clock=clock) as wrap:
        reply = get(wrap)
    assert [name for name, _ in reply.headers[:2]] == [b"content-type", b"x-app"]
    assert {name for name, _ in reply.headers[2:]} == OURS
    assert reply.header("ratelimit-policy") == '"second";q=20;w=1, "minute";q=600;w=60'
    assert reply.header("ratelimit") == '"second";r=19;t=1, "minute";r=599;t=60'


def test_what_is_left_falls_with_each_request_and_comes_back() -> None:
    clock = FakeClock()
    with wrapped(page(), clock=clock, limits="3/second") as wrap:
        left = [get(wrap).header("ratelimit") for _ in range(3)]
        clock.advance(2)
        left.append(get(wrap).header("ratelimit"))
    assert left == [f'"second";r={count};t=1' for count in (2, 1, 0, 2)]


def test_a_level_change_is_visible_in_the_very_answer_and_in_its_row(dsn: str) -> None:
    with wrapped(page(), dsn, clock=FakeClock(), **STRICT) as wrap:
        replies = block(wrap)
    levels = [reply.header("x-throttle-level") for reply in replies]
    assert levels == ["warning", "severe", "blocked"]
    assert [reply.header("x-rate-multiplier") for reply in replies] == ["0.5", "0.25", "0.0"]
    assert [reply.status for reply in replies] == [200] * 3
    kept = {row["path"]: (row["level_before"], row["level"]) for row in rows(dsn)}
    assert kept == {"/a": (0, 1), "/b": (1, 2), "/c": (2, 3)}
