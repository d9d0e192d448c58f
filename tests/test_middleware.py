from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route

from asgi_analytics import Analytics, Place, ThrottleLevel
from asgi_analytics.middleware import Message, Receive, Scope, Send
from asgi_analytics.testing import FakeClock

from .drive import ask, found, get, http_scope, page, rows, start, wrapped
from .transparent import serve, without_ours

LEVEL = "x-throttle-level"


def test_a_request_is_one_row_with_what_happened(dsn: str) -> None:
    clock = FakeClock()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        clock.advance(1 / 512)
        await send({"type": "http.response.start", "status": 201, "headers": [(b"content-type", b"text/html")]})
        clock.advance(1 / 256)
        await send({"type": "http.response.body", "body": b"12345", "more_body": True})
        await send({"type": "http.response.body", "body": b"678"})
        clock.advance(5)

    with wrapped(app, dsn, clock=clock, site="shop") as wrap:
        get(wrap, "/a/b")
    (row,) = rows(dsn)
    told = {"method": "GET", "path": "/a/b", "status": 201, "outcome": "complete", "bytes_sent": 8, "site": "shop"}
    told |= {"first_byte_us": 1953, "duration_us": 5859, "page_view": True, "level": 0, "browser": "Chrome"}
    assert told.items() <= row.items()
    assert row["fingerprint"]
    assert row["session_id"]
    assert row["time"].year == 2100


def test_a_page_that_was_linked_from_this_site_has_no_channel_unless_its_link_names_a_campaign(dsn: str) -> None:
    inner = {"sec-fetch-site": "same-origin"}  # from a site that keeps the Referer back
    with wrapped(page(), dsn) as wrap:
        get(wrap, "/from-nowhere")
        get(wrap, "/linked", inner)
        get(wrap, "/banner", inner, query_string=b"utm_source=banner&utm_medium=email")
    channels = {row["path"]: row["channel"] for row in rows(dsn)}
    assert channels == {"/from-nowhere": "Direct", "/linked": None, "/banner": "Email"}


def test_findings_are_in_the_state_and_equal_the_row(dsn: str) -> None:
    seen: list[Analytics] = []
    with wrapped(found(page(), seen), dsn) as wrap:
        start(wrap)
        get(wrap)
    (analytics,), (row,) = seen, rows(dsn)
    assert (analytics.visitor, analytics.session) == (row["fingerprint"].hex, row["session_id"].hex)
    assert (analytics.agent.browser, analytics.agent.os) == (row["browser"], row["os"]) == ("Chrome", "Linux")
    assert (analytics.score, analytics.level, analytics.language) == (0, ThrottleLevel.NORMAL, row["language"])
    assert isinstance(analytics.place, Place)
    assert analytics.decision.refused is False


@pytest.mark.parametrize(
    ("length", "asked", "counted"),
    [
        ("5", [{"type": "http.response.pathsend", "path": "/data/file"}], 5),
        ("much", [{"type": "http.response.pathsend", "path": "/data/file"}], 0),
        (None, [{"type": "http.response.pathsend", "path": "/data/file"}], 0),
        (
            None,
            [
                {"type": "http.response.zerocopysend", "file": 7, "count": 3, "more_body": True},
                {"type": "http.response.zerocopysend", "file": 7, "count": 4},
            ],
            7,
        ),
        ("9", [{"type": "http.response.zerocopysend", "file": 7, "offset": 1}], 9),
        (
            None,
            [
                {"type": "http.response.zerocopysend", "file": 7, "count": 3, "more_body": True},
                {"type": "http.response.zerocopysend", "file": 8},
            ],
            3,
        ),
    ],
)
def test_what_the_server_is_asked_to_send_of_a_file_is_counted_as_it_is_announced(
    dsn: str, length: str | None, asked: list[Message], counted: int
) -> None:
    headers = [] if length is None else [(b"content-length", length.encode())]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in ({"type": "http.response.start", "status": 200, "headers": headers}, *asked):
            await send(message)

    with wrapped(app, dsn) as wrap:
        get(wrap)
    assert [row["bytes_sent"] for row in rows(dsn)] == [counted]


def test_an_unhandled_error_is_a_row_with_status_500(dsn: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("no")

    with wrapped(app, dsn) as wrap, pytest.raises(RuntimeError, match="no"):
        get(wrap)
    (row,) = rows(dsn)
    assert (row["outcome"], row["status"], row["first_byte_us"]) == ("error", 500, None)


def test_an_answer_that_is_begun_anew_is_aborted_and_judged_once(dsn: str) -> None:
    """As by MCP's transport of events when its visitor has left."""
    clock, start = FakeClock(), {"type": "http.response.start", "status": 200, "headers": []}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start)
        await send({"type": "http.response.body", "body": b"data", "more_body": True})
        clock.advance(60.0)
        await send(start)
        await send({"type": "http.response.body"})

    with wrapped(app, dsn, clock=clock) as wrap:
        seen = asyncio.run(serve(wrap, http_scope(), []))
    assert seen.sent[2] is start
    (row,) = rows(dsn)
    assert (row["outcome"], row["first_byte_us"], row["bytes_sent"]) == ("aborted", 0, 4)


def test_an_answer_whose_start_the_server_refuses_may_be_begun_anew(dsn: str) -> None:
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(ValueError, match="no header"):
            await send({"type": "http.response.start", "status": 200, "headers": [(b"\n", b"")]})
        await page(status=500)(scope, receive, send)

    async def server(message: Message) -> None:
        if (b"\n", b"") in message.get("headers", ()):
            raise ValueError("no header")
        sent.append(message)

    with wrapped(app, dsn) as wrap:
        asyncio.run(wrap(http_scope(), None, server))  # type: ignore[arg-type]
    assert without_ours(sent)[0]["status"] == 500
    (row,) = rows(dsn)
    assert (row["outcome"], row["status"]) == ("complete", 500)


@pytest.mark.parametrize(("sent", "outcome"), [(b"all", "complete"), (b"al", "aborted")])
def test_who_has_got_all_may_leave_before_the_app_says_that_there_is_no_more(
    dsn: str, sent: bytes, outcome: str
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
        await send({"type": "http.response.body", "body": sent, "more_body": True})
        raise asyncio.CancelledError

    with wrapped(app, dsn) as wrap, pytest.raises(asyncio.CancelledError):
        get(wrap)
    assert [row["outcome"] for row in rows(dsn)] == [outcome]


def test_the_row_has_the_path_that_was_asked_for_whatever_the_app_does_to_its_scope(dsn: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["path"], scope["method"] = "/rewritten", "PUT"
        await page()(scope, receive, send)

    with wrapped(app, dsn) as wrap:
        get(wrap, "/asked")
    (row,) = rows(dsn)
    assert (row["path"], row["method"], row["page_view"]) == ("/asked", "GET", True)


def test_what_is_sent_before_the_answer_begins_ends_no_row(dsn: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]})
        await page()(scope, receive, send)

    with wrapped(app, dsn) as wrap:
        get(wrap)
    (row,) = rows(dsn)
    assert (row["outcome"], row["status"], row["bytes_sent"], row["page_view"]) == ("complete", 200, 14, True)


def test_stats_tell_what_became_of_the_hits(dsn: str) -> None:
    with wrapped(page(), dsn) as wrap:
        for _ in range(3):
            get(wrap)
        assert wrap.stats()["queued"] == 3
        wrap.close()
        told = wrap.stats()
    assert (told["written"], told["dropped"], told["failures"]) == (3, {}, {})


@pytest.mark.parametrize("status", [404, HTTPStatus.NOT_FOUND])
def test_an_error_is_judged_whether_its_status_is_a_number_or_an_http_status(status: int) -> None:
    with wrapped(page(status=status), clock=FakeClock()) as wrap:
        assert [get(wrap, path).header("x-throttle-level") for path in ("/.env", "/login")] == ["warning", "warning"]


@pytest.mark.parametrize("status", [203, HTTPStatus.NON_AUTHORITATIVE_INFORMATION])
def test_a_page_is_a_page_whether_its_status_is_a_number_or_an_http_status(dsn: str, status: int) -> None:
    with wrapped(page(status=status), dsn) as wrap:
        get(wrap)
    assert [row["page_view"] for row in rows(dsn)] == [True]


# What is handled
@pytest.mark.parametrize(
    ("options", "handled"),
    [
        ({"exclude": "/health"}, ["/", "/api/x"]),
        ({"include": "/api"}, ["/api/x"]),
        ({"include": ["/api", "/health"], "exclude": ["/api/x"]}, ["/health"]),
        ({"exclude": "/heal"}, ["/", "/api/x"]),
        ({}, ["/", "/api/x", "/health"]),
    ],
)
def test_only_included_paths_that_are_not_excluded_are_handled(options: dict[str, Any], handled: list[str]) -> None:
    with wrapped(page(), **options) as wrap:
        told = [path for path in ("/", "/api/x", "/health") if get(wrap, path).header("ratelimit")]
        assert (told, wrap.stats()["queued"]) == (handled, len(handled))


@pytest.mark.parametrize(
    ("root", "path", "is_excluded"),
    [
        ("/api", "/api/health", True),
        ("/api/", "/api/health", True),
        ("/api", "/health", True),
        ("/a/b", "/a/b/health/x", True),
        ("", "/health", True),
        (None, "/health", True),
        ("/", "/health", True),
        ("/api", "/apis/health", False),
        ("/api", "/api/api/health", False),
        ("/api", "/api", False),
        ("/health", "/health/x", False),
        ("", "/api/health", False),
    ],
)
def test_paths_are_excluded_as_the_routes_are_written_wherever_the_app_is_mounted(
    root: str | None, path: str, is_excluded: bool
) -> None:
    with wrapped(page(), exclude="/health") as wrap:
        assert get(wrap, path, root_path=root).status == 200
        assert wrap.stats()["queued"] == (not is_excluded)
    with wrapped(page(), include="/health") as wrap:
        get(wrap, path, root_path=root)
        assert wrap.stats()["queued"] == is_excluded


@pytest.mark.parametrize(("root", "before"), [("", ""), ("/app", "/app"), ("/app", "")])
def test_where_a_form_leads_is_known_also_where_a_proxy_takes_off_what_the_app_is_mounted_at(
    root: str, before: str
) -> None:
    """`before`: what is left of it in front of the paths, as some servers put it there again."""

    async def task(request: Request) -> Response:
        if request.method == "GET":
            return HTMLResponse("<form>")
        return RedirectResponse(request.url_for("task", number=request.path_params["number"] + 1), 303)

    async def login(request: Request) -> Response:
        return RedirectResponse(request.url_for("login"), 303)

    methods, clock = ["GET", "POST"], FakeClock()
    routes = [Route("/tasks/{number:int}", task, methods=methods), Route("/login", login, methods=methods)]

    def post(path: str, **headers: str) -> str | None:
        clock.advance(1)
        return asyncio.run(ask(wrap, http_scope(before + path, "POST", headers, root_path=root))).header(LEVEL)

    seen: list[Analytics] = []
    with wrapped(found(Starlette(routes=routes), seen), clock=clock) as wrap:
        for number in range(9):
            get(wrap, f"{before}/tasks/{number}", root_path=root)
            post(f"/tasks/{number}")
        assert seen[-1]._visitor.actor.behaviour.page_loads == 1
        assert [post("/login", **{"content-length": f"{number}"}) for number in range(60)][-1] == "warning"


def test_a_mounted_apps_own_middleware_excludes_by_the_paths_of_its_routes() -> None:
    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    with wrapped(Starlette(routes=[Route("/health", hello), Route("/x", hello)]), exclude="/health") as wrap:
        site = Starlette(routes=[Mount("/sub", app=wrap)])
        told = [path for path in ("/sub/health", "/sub/x") if get(site, path).header("ratelimit")]
        assert told == ["/sub/x"]


def test_an_unknown_scope_type_reaches_the_app_untouched() -> None:
    scope: Scope = {"type": "webtransport", "odd": object()}
    got: list[tuple[Any, ...]] = []

    async def app(*given: Any) -> None:
        got.append(given)

    async def receive() -> Message:
        return {}

    async def send(message: Message) -> None:
        raise AssertionError

    with wrapped(app) as wrap:
        asyncio.run(wrap(scope, receive, send))
        assert wrap.stats()["queued"] == 0
    assert got[0][0] is scope
    assert got[0][1:] == (receive, send)


def test_an_answer_to_head_has_no_bytes_though_the_app_sends_them_as_to_a_get(dsn: str) -> None:
    with wrapped(page(), dsn) as wrap:
        get(wrap)
        get(wrap, method="HEAD")
    assert {row["method"]: row["bytes_sent"] for row in rows(dsn)} == {"GET": 14, "HEAD": 0}
