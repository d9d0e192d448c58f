from __future__ import annotations

import asyncio
import os
import threading
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from asgi_analytics import Analytics, Place, ThrottleLevel
from asgi_analytics.middleware import ASGIApp, Message, Receive, Scope, Send
from asgi_analytics.testing import FakeClock

from .drive import (
    Communicator,
    answer_lifespan,
    ask,
    found,
    get,
    http_scope,
    page,
    rows,
    socket_scope,
    start,
    wrapped,
)


# The row
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


def test_the_start_waits_for_the_salt_of_all_workers(dsn: str) -> None:
    with wrapped(page(), dsn) as one, wrapped(page(), dsn) as other:
        start(one)
        start(other)
        get(one)
        get(other)
    first, second = rows(dsn)
    assert (first["provisional"], second["provisional"]) == (False, False)
    assert first["fingerprint"] == second["fingerprint"]
    assert first["session_id"] == second["session_id"]


def test_without_lifespan_events_the_first_request_starts_the_writer(dsn: str) -> None:
    with wrapped(page(), dsn) as wrap:
        get(wrap)
    (row,) = rows(dsn)
    assert row["status"] == 200


def test_after_close_the_next_request_starts_again(dsn: str) -> None:
    with wrapped(page(), dsn) as wrap:
        get(wrap, "/1")
        assert wrap.close() is True
        get(wrap, "/2")
    assert sorted(row["path"] for row in rows(dsn)) == ["/1", "/2"]


@pytest.mark.parametrize("error", [None, RuntimeError("at shutdown")])
def test_an_app_whose_lifespan_ends_without_a_farewell_delivers_too(dsn: str, error: Exception | None) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            return await page()(scope, receive, send)
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if error is not None:
            raise error

    async def run() -> None:
        server = await begun(wrap)
        await ask(wrap, http_scope())
        await server.send_input({"type": "lifespan.shutdown"})
        with suppress(RuntimeError):
            await server.wait(10)

    with wrapped(app, dsn, durability="memory", batch_age=60) as wrap:
        asyncio.run(run())
        assert len(rows(dsn)) == 1


def test_a_wrapped_part_whose_lifespan_ends_earlier_stops_nobody_further_out() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        events, answers = asyncio.Queue[Message](), asyncio.Queue[Message]()
        for kind in ("startup", "shutdown"):
            await events.put({"type": f"lifespan.{kind}"})
        await part({"type": "lifespan"}, events.get, answers.put)
        await answer_lifespan(receive, send)

    async def run() -> None:
        server = await begun(wrap)
        assert wrap._engine.started
        await server.send_input({"type": "lifespan.shutdown"})
        assert (await server.receive_output(10))["type"] == "lifespan.shutdown.complete"
        assert not wrap._engine.started

    with wrapped(page(), site="part") as part, wrapped(app) as wrap:
        asyncio.run(run())


async def begun(app: ASGIApp) -> Any:
    server = Communicator(app, {"type": "lifespan"})
    await server.send_input({"type": "lifespan.startup"})
    assert (await server.receive_output(10))["type"] == "lifespan.startup.complete"
    return server


@pytest.mark.parametrize("durability", ["memory", "journal", "fsync"])
def test_each_durability_delivers_at_close(dsn: str, durability: str) -> None:
    with wrapped(page(), dsn, durability=durability) as wrap:
        assert [get(wrap, f"/{number}").body for number in range(3)] == [b"<h1>hello</h1>"] * 3
    assert len(rows(dsn)) == 3


def test_fsync_flushes_before_the_last_byte_of_answers_and_refusals(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    flush = os.fdatasync

    def noted(descriptor: int) -> None:
        flush(descriptor)
        order.append("flush")

    monkeypatch.setattr(os, "fdatasync", noted)

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        order.append(message["type"])

    with wrapped(page(), dsn, durability="fsync", limits="1/minute") as wrap:
        for _ in range(2):
            order.clear()
            scope: Scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": None}
            asyncio.run(wrap(scope, receive, send))
            assert order.index("flush") < order.index("http.response.body")


@pytest.mark.parametrize("refused", [False, True], ids=["by the app", "refused"])
def test_a_denial_s_body_follows_its_start_without_a_pause_in_which_the_row_is_flushed(refused: bool) -> None:
    # uvicorn ends the handshake as soon as the loop turns once after the start, and the client gets half an answer.
    order: list[str] = []
    scope = socket_scope(extensions={"websocket.http.response": {}})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"no"})

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        order.append(message["type"].rpartition(".")[2])
        asyncio.get_running_loop().call_soon(order.append, "turn")

    with wrapped(app, durability="fsync", limits="1/minute") as wrap:
        for _ in range(3 if refused else 1):  # the last one is told what was said before
            order.clear()
            asyncio.run(wrap(dict(scope), receive, send))
            assert order[:2] == ["start", "body"]
        assert wrap.stats()["failures"] == {}


def test_an_answer_is_flushed_while_the_apps_own_calls_hold_every_thread() -> None:
    held, over = threading.Semaphore(0), threading.Event()

    def wait(request: Request) -> PlainTextResponse:
        held.release()
        over.wait(10)
        return PlainTextResponse("late")

    async def both(wrap: ASGIApp) -> None:
        waiting = [asyncio.create_task(ask(wrap, http_scope("/wait"))) for _ in range(40)]
        try:
            async with asyncio.timeout(5):
                for _ in waiting:
                    while not held.acquire(blocking=False):  # noqa: ASYNC110 - it is threads that tell
                        await asyncio.sleep(0.01)
                assert (await ask(wrap, http_scope("/page"))).body == b"<h1>hello</h1>"
        finally:
            over.set()
            await asyncio.gather(*waiting)

    with wrapped(Starlette(routes=[Route("/wait", wait), Mount("/", page())]), durability="fsync") as wrap:
        asyncio.run(both(wrap))


def test_where_the_system_gives_no_thread_an_answer_is_flushed_all_the_same(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    flush = os.fdatasync

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def noted(descriptor: int) -> None:
        flushed.append(descriptor)
        flush(descriptor)

    with wrapped(page(), dsn, durability="fsync") as wrap:
        get(wrap, "/before")
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            patch.setattr(os, "fdatasync", noted)
            assert get(wrap, "/without").body == b"<h1>hello</h1>"
            assert flushed != []
        assert wrap.stats()["failures"] == {}
    assert len(rows(dsn)) == 2


def test_a_websocket_that_the_app_denies_is_complete_before_its_last_byte(dsn: str) -> None:
    queued: list[int] = []

    async def deny(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 401})
        await send({"type": "websocket.http.response.body", "body": b"no ", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"way"})

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    with wrapped(deny, dsn) as wrap:

        async def send(message: Message) -> None:
            queued.append(wrap.stats()["queued"])

        asyncio.run(wrap(socket_scope(), receive, send))
    (row,) = rows(dsn)
    assert queued == [0, 0, 1]
    assert (row["outcome"], row["status"], row["bytes_sent"], row["close_code"]) == ("complete", 401, 6, None)


def test_what_a_websocket_sends_is_counted_in_bytes(dsn: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        for sent in ({"text": "hé€"}, {"text": "abc", "bytes": None}, {"bytes": bytearray(2)}):
            await send({"type": "websocket.send", **sent})
        await send({"type": "websocket.close"})

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None: ...

    with wrapped(app, dsn) as wrap:
        asyncio.run(wrap(socket_scope(), receive, send))
    assert [row["bytes_sent"] for row in rows(dsn)] == [6 + 3 + 2]


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


def test_the_row_has_the_path_that_was_asked_for_whatever_the_app_does_to_its_scope(dsn: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["path"], scope["method"] = "/rewritten", "PUT"
        await page()(scope, receive, send)

    with wrapped(app, dsn) as wrap:
        get(wrap, "/asked")
    (row,) = rows(dsn)
    assert (row["path"], row["method"], row["page_view"]) == ("/asked", "GET", True)


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


def test_our_own_bug_costs_the_host_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with wrapped(page()) as wrap:
        monkeypatch.setattr(wrap._engine.identifier, "visitor", lambda *_: 1 / 0)
        reply = get(wrap)
        assert wrap.stats()["failures"] == {"identify and decide": 1}
    assert (reply.status, reply.headers, reply.body) == (200, [(b"content-type", b"text/html")], b"<h1>hello</h1>")


def test_a_failing_start_fails_no_start_up_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("can't start new thread")

    with wrapped(page()) as wrap:
        monkeypatch.setattr(wrap._engine, "start", broken)
        start(wrap)
        assert get(wrap).status == 200
        assert wrap.stats()["failures"] == {"start": 1, "identify and decide": 1}


def test_with_no_journal_folder_hits_are_kept_in_memory(dsn: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with wrapped(page(), dsn, journal_dir=tmp_path / "file") as wrap:
        get(wrap)
        assert wrap.stats()["durability"] == "memory"
    assert len(rows(dsn)) == 1
