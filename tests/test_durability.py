"""When a row is safe: at close, and with durability="fsync" before the last byte of its answer."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from asgi_analytics.middleware import ASGIApp, Message, Receive, Scope, Send

from .drive import ask, get, http_scope, page, rows, socket_scope, wrapped
from .transparent import sending, serve


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

    with wrapped(page(), dsn, durability="fsync", limits="1/day") as wrap:
        for _ in range(2):
            order.clear()
            scope: Scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": None}
            asyncio.run(wrap(scope, receive, send))
            assert order.index("flush") < order.index("http.response.body")


@pytest.mark.parametrize("durability", ["journal", "fsync"])
@pytest.mark.parametrize(
    ("method", "status", "headers", "whole"),
    [
        ("HEAD", 200, [(b"content-length", b"2")], "http.response.start"),
        ("GET", 304, [(b"etag", b'"1"')], "http.response.start"),
        ("GET", 204, [], "http.response.start"),
        ("GET", 303, [(b"location", b"/"), (b"Content-Length", b"0")], "http.response.start"),
        ("GET", 200, [(b"content-length", b"2")], "http.response.body"),
        ("GET", 200, [], None),
    ],
    ids=["HEAD", "304", "204", "empty", "announced", "stream"],
)
def test_a_row_is_there_before_its_visitor_has_all_though_the_app_says_later_that_there_is_no_more(
    durability: str, method: str, status: int, headers: list[tuple[bytes, bytes]], whole: str | None
) -> None:
    # As Quart says of each answer, and Django of a file: whoever is killed in between has answered.
    queued: dict[str, int] = {}
    part = b"" if whole == "http.response.start" else b"ok"

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})

    with wrapped(app, durability=durability) as wrap:

        async def send(message: Message) -> None:
            queued.setdefault(message["type"], wrap.stats()["queued"])

        asyncio.run(wrap(http_scope(method=method), None, send))  # type: ignore[arg-type]
        assert wrap.stats()["queued"] == 1
    told = {"http.response.start": (1, 1), "http.response.body": (0, 1), None: (0, 0)}
    assert tuple(queued.values()) == told[whole]


def test_a_row_that_is_there_before_the_end_is_that_of_the_whole_answer(dsn: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/html"), (b"content-length", b"%d" % (2 * (scope["path"] == "/file")))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["path"] == "/file":
            await send({"type": "http.response.body", "body": b"o", "more_body": True})
            await send({"type": "http.response.body", "body": b"k", "more_body": True})
        raise LookupError(scope["path"])

    with wrapped(app, dsn) as wrap:
        for path in ("/file", "/none"):
            with pytest.raises(LookupError, match=path):
                get(wrap, path)
    told = [(row["path"], row["outcome"], row["status"], row["bytes_sent"], row["page_view"]) for row in rows(dsn)]
    assert told == [("/file", "complete", 200, 2, True), ("/none", "complete", 200, 0, True)]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_refusal_is_there_before_its_visitor_has_anything_of_it(method: str) -> None:
    queued: list[int] = []

    async def send(message: Message) -> None:
        queued.append(wrap.stats()["queued"])

    with wrapped(page(), limits="1/day") as wrap:
        get(wrap)
        asyncio.run(wrap(http_scope(method=method), None, send))  # type: ignore[arg-type]
    assert queued == [2, 2]


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

    with wrapped(app, durability="fsync", limits="1/day") as wrap:
        for _ in range(3 if refused else 1):  # the last one is told what was said before
            order.clear()
            asyncio.run(wrap(dict(scope), receive, send))
            assert order[:2] == ["start", "body"]
        assert wrap.stats()["failures"] == {}


@pytest.mark.parametrize("error", [None, LookupError, asyncio.CancelledError])
def test_a_denial_that_ends_with_its_start_is_told_as_by_the_bare_app(error: type[BaseException] | None) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
        if error is not None:
            raise error

    scope = socket_scope(extensions={"websocket.http.response": {}})
    bare = asyncio.run(serve(app, dict(scope), []))
    with wrapped(app, durability="fsync") as wrap:
        seen = asyncio.run(serve(wrap, dict(scope), []))
    assert (seen.sent, type(seen.raised)) == (bare.sent, type(bare.raised))
    assert len(seen.sent) == 1


@pytest.mark.parametrize("first", ["websocket.close", "websocket.http.response.start"])
def test_a_denial_that_begins_when_it_may_not_is_told_as_by_the_bare_app(first: str) -> None:
    start: Message = {"type": "websocket.http.response.start", "status": 401, "headers": []}
    app = sending({**start, "type": first}, start)()
    scope = socket_scope(extensions={"websocket.http.response": {}})
    bare = asyncio.run(serve(app, dict(scope), []))
    with wrapped(app, durability="fsync") as wrap:
        seen = asyncio.run(serve(wrap, dict(scope), []))
    assert seen.sent == bare.sent


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


def test_with_no_journal_folder_hits_are_kept_in_memory(dsn: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with wrapped(page(), dsn, journal_dir=tmp_path / "file") as wrap:
        get(wrap)
        assert wrap.stats()["durability"] == "memory"
    assert len(rows(dsn)) == 1
