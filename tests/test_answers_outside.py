"""An answer that is made outside the middleware after an error of the app is the one of the row, and is judged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, Router

from asgi_analytics import AnalyticsMiddleware
from asgi_analytics.middleware import ASGIApp, Receive, Scope, Send

from .drive import ask, get, http_scope, page, rows, socket_scope, wrapped
from .transparent import serve


class Closed(HTTPEndpoint):
    """An endpoint whose errors Starlette handles where it handles those of routing."""

    async def get(self, request: Request) -> None:
        raise HTTPException(403)

    async def put(self, request: Request) -> None:
        raise LookupError("on purpose")


async def score(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(request.state.analytics.score))


PART = Router([Route("/closed", Closed), Route("/score", score)])


@pytest.fixture
def mounted(dsn: str) -> Iterator[Starlette]:
    """An app with the middleware around a part of it."""
    with wrapped(PART, dsn) as part:
        yield Starlette(routes=[Mount("/part", part)])


def answered(app: ASGIApp, *requests: tuple[str, str]) -> list[int]:
    return [asyncio.run(ask(app, http_scope(path, method))).status for method, path in requests]


def ends(dsn: str) -> list[Any]:
    return [(row["outcome"], row["status"], row["first_byte_us"] is not None) for row in rows(dsn)]


def test_an_error_that_starlette_turns_into_an_answer_outside_is_a_row_with_its_status(
    dsn: str, mounted: Starlette
) -> None:
    requests = ("GET", "/part/closed"), ("GET", "/part/nowhere"), ("POST", "/part/score")
    assert answered(mounted, *requests) == [403, 404, 405]
    with pytest.raises(LookupError):
        answered(mounted, ("PUT", "/part/closed"))
    mounted.routes[0].app.close()  # type: ignore[attr-defined]
    complete = [("complete", status, True) for status in (403, 404, 405)]
    assert ends(dsn) == [*complete, ("error", 500, False)]


def test_a_scanner_of_a_part_of_an_app_is_found_by_the_errors_that_it_raises(mounted: Starlette) -> None:
    before = get(mounted, "/part/score").body
    assert get(mounted, "/part/.env").status == 404
    assert (before, get(mounted, "/part/score").body) == (b"0", b"50")


def test_an_http_exception_that_nobody_turns_into_an_answer_is_an_error(dsn: str) -> None:
    async def raising(scope: Scope, receive: Receive, send: Send) -> None:
        raise HTTPException(401)

    whole = Starlette(middleware=[Middleware(AnalyticsMiddleware, dsn=dsn), Middleware(lambda app: raising)])
    with pytest.raises(RuntimeError):  # Starlette's own, for its answer with 500 has begun then
        get(Starlette(routes=[Mount("/part", whole)]), "/part/x")
    with wrapped(raising, dsn) as wrap, pytest.raises(HTTPException):
        get(wrap)
    whole.middleware_stack.app.close()  # type: ignore[union-attr]
    assert ends(dsn) == [("error", 500, False)] * 2


def test_a_part_beside_an_app_that_excludes_it_has_the_status_of_its_errors(dsn: str) -> None:
    outer = Middleware(AnalyticsMiddleware, dsn=dsn, exclude="/part")
    with wrapped(PART, dsn) as part:
        whole = Starlette(routes=[Mount("/part", part)], middleware=[outer])
        assert get(whole, "/part/nowhere").status == 404
    assert ends(dsn) == [("complete", 404, True)]


def test_an_http_exception_after_the_answer_has_begun_is_an_error(dsn: str) -> None:
    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise HTTPException(404)

    with wrapped(late, dsn) as part, pytest.raises(RuntimeError):
        get(Starlette(routes=[Mount("/part", part)]), "/part/x")
    assert ends(dsn) == [("error", 200, True)]


def test_an_error_that_litestar_turns_into_an_answer_outside_is_a_row_with_its_status(dsn: str) -> None:
    errors = type("HTTPException", (Exception,), {"status_code": 500})
    refused = type("NotAuthorizedException", (errors,), {"status_code": 401})

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        raise refused

    with wrapped(guarded, dsn) as wrap, pytest.raises(refused):
        asyncio.run(ask(wrap, {**http_scope(), "app": page(), "litestar_app": page()}))
    assert ends(dsn) == [("complete", 401, True)]


def test_a_websocket_that_is_denied_outside_is_a_row_with_that_status(dsn: str) -> None:
    async def raising(scope: Scope, receive: Receive, send: Send) -> None:
        raise HTTPException(401)

    scope = socket_scope("/part/ws", extensions={"websocket.http.response": {}})
    with wrapped(raising, dsn) as part:
        seen = asyncio.run(serve(Starlette(routes=[Mount("/part", part)]), scope, [{"type": "websocket.connect"}]))
    assert (seen.sent[0]["type"], seen.sent[0]["status"]) == ("websocket.http.response.start", 401)
    assert ends(dsn) == [("complete", 401, True)]


@pytest.mark.parametrize("status", [200, 404])
def test_an_upload_that_is_refused_outside_for_its_size_is_no_error_of_the_app(dsn: str, status: int) -> None:
    limit = pytest.importorskip("starlette.middleware.body_limit")  # since Starlette 1.10
    scope = http_scope("/upload", "POST", {"content-length": "11"})
    with wrapped(page(status=status), dsn) as wrap:
        reply = asyncio.run(ask(limit.RequestBodyLimitMiddleware(wrap, max_body_size=10), scope))
    assert reply.status == 413
    assert ends(dsn) == [("complete", 413, True)]
