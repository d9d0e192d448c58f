from __future__ import annotations

import asyncio
import json
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

from asgi_analytics import (
    Analytics,
    AnalyticsMiddleware,
    ConfigurationError,
    DatabaseNotConfigured,
    Place,
    Privacy,
    ThrottleLevel,
    embedded,
)
from asgi_analytics.middleware import ASGIApp, Message, Receive, Scope, Send
from asgi_analytics.testing import FakeClock

from .drive import (
    OURS,
    Communicator,
    Reply,
    answer_lifespan,
    ask,
    get,
    http_scope,
    look,
    page,
    rows,
    socket_scope,
    start,
    wrapped,
)

OLD = {"user-agent": "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/70.0 Safari/537.36"}
# With an outdated browser each further page raises the level: three pages to Blocked.
STRICT: dict[str, Any] = {"bot_score": 1, "signal_thresholds": {"high_request_count": 1}}
COOKIE: dict[str, Any] = {"session_cookie": True, "secret": "correct horse battery staple"}


def block(app: ASGIApp) -> list[Reply]:
    return [get(app, f"/{path}", OLD) for path in "abc"]


def found(app: ASGIApp, into: list[Analytics]) -> ASGIApp:
    return look(app, lambda scope: into.append(scope["state"]["analytics"]) if scope["type"] == "http" else None)


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


@pytest.mark.parametrize("status", [404, HTTPStatus.NOT_FOUND])
def test_an_error_is_judged_whether_its_status_is_a_number_or_an_http_status(status: int) -> None:
    with wrapped(page(status=status), clock=FakeClock()) as wrap:
        assert [get(wrap, path).header("x-throttle-level") for path in ("/.env", "/login")] == ["warning", "warning"]


@pytest.mark.parametrize("status", [203, HTTPStatus.NON_AUTHORITATIVE_INFORMATION])
def test_a_page_is_a_page_whether_its_status_is_a_number_or_an_http_status(dsn: str, status: int) -> None:
    with wrapped(page(status=status), dsn) as wrap:
        get(wrap)
    assert [row["page_view"] for row in rows(dsn)] == [True]


# Refusals


def test_a_used_up_quota_refuses_without_asking_the_app(dsn: str) -> None:
    asked: list[Scope] = []
    with wrapped(look(page(), asked.append), dsn, clock=FakeClock(), limits="2/minute") as wrap:
        statuses = [get(wrap).status for _ in range(3)]
    assert (statuses, len(asked)) == ([200, 200, 429], 2)
    assert sorted(row["outcome"] for row in rows(dsn)) == ["complete", "complete", "refused"]
    (decision,) = rows(dsn, "SELECT * FROM analytics.decisions")
    assert (decision["refused"], decision["enforced"], decision["detail"]["violated"]) == (True, True, ["minute"])


def test_a_refusal_tells_the_id_under_which_its_reasons_are_stored(dsn: str) -> None:
    with wrapped(page(), dsn, clock=FakeClock(), limits="1/minute") as wrap:
        get(wrap)
        reply = get(wrap)
    problem = json.loads(reply.body)
    (decision,) = rows(dsn, "SELECT * FROM analytics.decisions")
    (hit,) = rows(dsn, "SELECT * FROM analytics.hits WHERE outcome = 'refused'")
    assert problem["decision"] == str(decision["id"]) == str(hit["decision_id"])
    assert problem["reasons"] == decision["detail"]["reasons"]
    assert reply.header("content-type") == "application/problem+json"
    assert (hit["status"], hit["bytes_sent"]) == (429, len(reply.body))
    assert reply.header("retry-after") == str(decision["retry_after"]) == str(problem["retry-after"])


def test_a_blocked_visitor_is_refused_until_it_has_cooled_down() -> None:
    clock = FakeClock()
    with wrapped(page(), clock=clock, cooldown=60, **STRICT) as wrap:
        block(wrap)
        refused = get(wrap, "/d", OLD)
        clock.advance(int(refused.header("retry-after") or 0))
        reply = get(wrap, "/d.txt", {**OLD, "sec-fetch-dest": "image"})
    assert (refused.status, refused.header("retry-after")) == (429, "61")
    assert (reply.status, reply.header("x-throttle-level")) == (200, "severe")


def test_head_is_refused_with_the_headers_of_get_and_no_body() -> None:
    with wrapped(page(), clock=FakeClock(), limits="1/minute") as wrap:
        get(wrap)
        by_get, by_head = get(wrap), get(wrap, method="HEAD")
    assert (by_head.status, by_head.body) == (429, b"")
    assert [name for name, _ in by_head.headers] == [name for name, _ in by_get.headers]


def test_a_network_is_bound_whatever_its_visitors_call_themselves() -> None:
    with wrapped(page(), clock=FakeClock(), network_limits="5/minute") as wrap:
        statuses = [get(wrap, headers={"user-agent": f"agent {number}"}).status for number in range(7)]
        elsewhere = get(wrap, client=("198.51.100.8", 1)).status
    assert (statuses, elsewhere) == ([200] * 5 + [429] * 2, 200)


def test_observe_mode_records_what_enforcing_would_do_and_refuses_nobody(dsn: str) -> None:
    seen: list[Analytics] = []
    with wrapped(found(page(), seen), dsn, clock=FakeClock(), mode="observe", limits="1/minute") as wrap:
        statuses = [get(wrap).status for _ in range(3)]
    assert statuses == [200] * 3
    assert [analytics.decision.refused for analytics in seen] == [False, True, True]
    assert {row["outcome"] for row in rows(dsn)} == {"complete"}
    assert [row["enforced"] for row in rows(dsn, "SELECT * FROM analytics.decisions")] == [False, False]


def test_refine_refusal_words_the_body_and_its_own_error_costs_nothing() -> None:
    with wrapped(page(), limits="1/minute", refine_refusal=lambda problem: {"status": problem["status"]}) as wrap:
        get(wrap)
        assert json.loads(get(wrap).body) == {"status": 429}
    with wrapped(page(), limits="1/minute", refine_refusal=lambda problem: problem["nothing"]) as wrap:
        get(wrap)
        assert json.loads(get(wrap).body)["status"] == 429
        assert wrap.stats()["failures"] == {"refine_refusal": 1}


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


# Options


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"limit": "1/second"}, "Unknown option 'limit'. Did you mean 'limits'? Allowed: dsn, site,"),
        ({"mode": "strict"}, 'Option mode=\'strict\' is not allowed; allowed: "enforce", "observe".'),
        ({"limits": "20 per second"}, 'allowed: "<number>/<second|minute|hour|day>"'),
        ({"limits": ["1/second", "2/second"]}, "at most one quota per window"),
        ({"cooldown": 0}, "Option cooldown=0 is not allowed; allowed: a number of seconds, 1 to 2592000"),
        ({"batch_rows": 1.5}, "Option batch_rows=1.5 is not allowed; allowed: a whole number of rows"),
        ({"trusted_proxies": "10.0.0.1/8"}, "without host bits"),
        ({"session_cookie": True}, "Option secret=None is not allowed; allowed: a text of at least 16 characters"),
        ({"secret": "short"}, "Option secret='…' is not allowed"),
        ({"exclude": "health"}, 'path prefixes that start with "/"'),
        ({"exclude": "/health*"}, 'path prefixes that start with "/", such as "/health", no patterns'),
        ({"privacy": "none"}, "Privacy(address=…, query=…, signals=…)"),
        ({"signal_points": {"typo": 1}}, "a mapping with keys among high_request_count"),
        ({"clock": 5}, "an object with time_ns() and monotonic()"),
        ({"dsn": "secret-password"}, "Option dsn='…' is not allowed"),
        ({"legacy_headers": 1}, "True or False"),
    ],
)
def test_a_wrong_option_is_named_with_its_value_and_what_is_allowed(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        AnalyticsMiddleware(page(), **{"dsn": "postgresql://x", **options})
    assert text in str(caught.value)


@pytest.mark.parametrize("wrong", [{"address": "hash"}, {"query": "all"}, {"signals": "maybe"}])
def test_a_wrong_privacy_setting_names_itself(wrong: dict[str, Any]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(ConfigurationError, match=f"privacy.{name}='{value}' is not allowed"):
        Privacy(**wrong)


def test_without_a_database_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "is_available", lambda: False)
    with pytest.raises(DatabaseNotConfigured, match="ASGI_ANALYTICS_DSN or DATABASE_URL"):
        AnalyticsMiddleware(page())


@pytest.mark.parametrize("name", ["ASGI_ANALYTICS_DSN", "DATABASE_URL"])
def test_the_environment_names_the_database(dsn: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, dsn)
    wrap = AnalyticsMiddleware(page())
    get(wrap)
    assert wrap.close() is True
    assert len(rows(dsn)) == 1


# Privacy


@pytest.mark.parametrize("signal", [{"sec-gpc": "1"}, {"dnt": "1"}])
def test_a_privacy_signal_leaves_a_count_without_visitor(dsn: str, signal: dict[str, str]) -> None:
    seen: list[Analytics] = []
    with wrapped(found(page(), seen), dsn, privacy=Privacy(address="full"), **COOKIE) as wrap:
        reply = get(wrap, headers=signal)
    (row,) = rows(dsn)
    assert (seen[0].visitor, seen[0].session, reply.cookies) == (None, None, [])
    unknown = ("session_id", "fingerprint", "network", "address", "region", "city", "asn", "organisation", "language")
    assert {row[name] for name in unknown} == {None}
    assert (row["browser"], row["page_view"]) == ("Chrome", True)
    assert rows(dsn, "SELECT 1 FROM analytics.sessions UNION ALL SELECT 1 FROM analytics.fingerprints") == []


def test_signals_drop_stores_nothing_and_counts_it(dsn: str) -> None:
    with wrapped(page(), dsn, privacy=Privacy(signals="drop"), limits="1/minute") as wrap:
        statuses = [get(wrap, headers={"sec-gpc": "1"}).status for _ in range(2)]
        assert wrap.stats()["dropped"] == {"privacy_signal": 2}
    assert (statuses, rows(dsn), rows(dsn, "SELECT * FROM analytics.decisions")) == ([200, 429], [], [])


def test_signals_ignore_treats_all_alike(dsn: str) -> None:
    with wrapped(page(), dsn, privacy=Privacy(signals="ignore")) as wrap:
        get(wrap, headers={"sec-gpc": "1"})
    (row,) = rows(dsn)
    assert row["fingerprint"]
    assert row["session_id"]


@pytest.mark.parametrize("value", ["0", "", "yes", "11"])
def test_only_the_value_1_is_a_privacy_signal(value: str) -> None:
    seen: list[Analytics] = []
    with wrapped(found(page(), seen)) as wrap:
        get(wrap, headers={"sec-gpc": value, "dnt": value})
    assert seen[0].visitor


@pytest.mark.parametrize(
    ("address", "client", "kept"),
    [
        ("none", "198.51.100.7", None),
        ("network", "198.51.100.7", "198.51.100.0/24"),
        ("network", "2001:db8:1:2:3:4:5:6", "2001:db8:1::/48"),
        ("full", "198.51.100.7", "198.51.100.7"),
        ("full", "::ffff:198.51.100.7", "198.51.100.7"),
    ],
)
def test_of_the_address_only_what_the_settings_keep_is_stored(dsn: str, address: Any, client: str, kept: str) -> None:
    with wrapped(page(), dsn, privacy=Privacy(address=address)) as wrap:
        get(wrap, client=(client, 1))
    (row,) = rows(dsn)
    assert row["address"] == kept


def test_by_default_no_address_no_query_and_no_secret_is_anywhere_in_the_journal_or_the_tables(
    dsn: str, tmp_path: Path
) -> None:
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc"
    with wrapped(page(), dsn, journal_dir=tmp_path / "j") as wrap:
        get(wrap, f"/reset/{token}", query_string=b"password=hunter2&token=s3cr3t")
        written = b"".join(path.read_bytes() for path in (tmp_path / "j").rglob("*") if path.is_file())
    text = str(rows(dsn)) + written.decode("latin-1")
    assert "/reset/" in text
    assert [word for word in ("hunter2", "s3cr3t", token, "198.51.100.7") if word in text] == []


# The session cookie


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


# Midnight


def test_midnight_renames_a_visitor_and_cuts_no_visit(dsn: str) -> None:
    clock = FakeClock()
    clock.advance(86_399)
    seen: list[tuple[str | None, str | None]] = []
    app = look(page(), lambda scope: seen.append(names(scope)) if scope["type"] == "http" else None)
    with wrapped(app, dsn, clock=clock) as wrap:
        start(wrap)
        get(wrap, "/before")
        clock.advance(2)
        get(wrap, "/after")
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] == seen[1][1]
    before, after = rows(dsn, "SELECT * FROM analytics.hits ORDER BY time")
    assert before["session_id"] == after["session_id"]
    assert before["fingerprint"] != after["fingerprint"]
    assert before["network"] != after["network"]
    assert (before["provisional"], after["provisional"]) == (False, False)


def test_midnight_lifts_no_block(dsn: str) -> None:
    clock = FakeClock()
    clock.advance(86_390)
    with wrapped(page(), dsn, clock=clock, **STRICT) as wrap:
        start(wrap)
        block(wrap)
        clock.advance(20)
        assert get(wrap, "/d", OLD).status == 429


def test_a_salt_that_comes_late_keeps_the_visitor(dsn: str) -> None:
    seen: list[Analytics] = []
    with wrapped(found(page(), seen), dsn, limits="9/minute", clock=FakeClock()) as wrap:
        get(wrap)
        wrap._engine.start()
        wrap._engine.wait(10)
        left = get(wrap).header("ratelimit")
    assert left == '"minute";r=7;t=20'
    assert len({row["session_id"] for row in rows(dsn)}) == 1


@pytest.mark.parametrize("jump", [-3600, 3600, -60 * 365 * 86_400, 50 * 365 * 86_400])
def test_a_jump_of_the_wall_clock_moves_no_quota_and_lifts_no_block(jump: float) -> None:
    clock = FakeClock()
    with wrapped(page(), clock=clock, limits="5/minute", **STRICT) as wrap:
        block(wrap)
        get(wrap)
        clock.jump_wall(jump)
        assert get(wrap, "/d", OLD).status == 429
        assert get(wrap).header("ratelimit") == '"minute";r=3;t=20'


def test_a_session_ends_after_the_gap_and_another_begins(dsn: str) -> None:
    clock = FakeClock()
    with wrapped(page(), dsn, clock=clock, session_timeout=60) as wrap:
        start(wrap)
        for gap in (0, 60, 61):
            clock.advance(gap)
            get(wrap)
    kept = rows(dsn, "SELECT hits FROM analytics.sessions ORDER BY started_at")
    assert [row["hits"] for row in kept] == [2, 1]


def names(scope: Scope) -> tuple[str | None, str | None]:
    analytics: Analytics = scope["state"]["analytics"]
    return analytics.visitor, analytics.session


# Junk


@pytest.mark.parametrize(
    "client", [None, (), ("", 0), ["127.0.0.1", "x"], ("fe80::1%eth0", 1), ("testclient", 50000), 5]
)
def test_any_client_is_served_and_stored(dsn: str, client: Any) -> None:
    with wrapped(page(), dsn) as wrap:
        assert get(wrap, client=client).header("ratelimit")
        assert wrap.stats()["failures"] == {}
    assert len(rows(dsn)) == 1


@pytest.mark.parametrize("status", [99, 999, -1, 10**12, "200", None, 200.5])
def test_an_absurd_status_reaches_the_server_as_it_is_and_the_hit_is_stored(dsn: str, status: Any) -> None:
    with wrapped(page(status=status), dsn) as wrap:
        assert get(wrap).status is status
        get(wrap, "/neighbour")
    assert len(rows(dsn)) + len(rows(dsn, "SELECT * FROM analytics.quarantine")) == 2


@pytest.mark.parametrize("bad", ["\0", "\udcff", "a" * 1_000_000, "é" * 2000, "http://evil/x"])
def test_junk_in_path_and_method_is_stored_sanitised(dsn: str, bad: str) -> None:
    scope = http_scope("/" + bad, method=bad[:5000])
    scope["raw_path"] = b"/x"
    with wrapped(page(), dsn) as wrap:
        assert asyncio.run(ask(wrap, scope)).status == 200
    (row,) = rows(dsn)
    assert len(row["path"]) <= 1024
    assert len(row["method"]) <= 16


def test_junk_in_every_header_is_stored_sanitised(dsn: str) -> None:
    junk = b"\xff\xfe\xed\xa0\x80\x00" + b"x" * 60_000
    names = (b"user-agent", b"referer", b"host", b"cookie", b"accept-language", b"x-forwarded-for", b"forwarded")
    scope = http_scope(headers=None)
    scope["headers"] = [(name, junk) for name in names] * 3
    scope["query_string"] = junk
    with wrapped(page(), dsn, trusted_proxies="198.51.100.0/24", privacy=Privacy("full", "redacted"), **COOKIE) as wrap:
        assert asyncio.run(ask(wrap, scope)).status == 200
        assert wrap.stats()["failures"] == {}
    assert len(rows(dsn)) == 1


def test_a_wrong_connection_string_fails_when_the_app_is_built() -> None:
    with pytest.raises(ConfigurationError, match="is not a connection string of Postgres") as raised:
        AnalyticsMiddleware(page(), dsn="host=db nonsense=secret")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("postgresql+asyncpg://user:p@db/app", "postgresql://user:p@db/app"),
        ("postgres+psycopg2://user:a+b%40@db:5432/app", "postgres://user:a+b%40@db:5432/app"),
        ("postgresql://user:a#?:b@[::1]:5432,db2:5433/app?sslmode=require", None),
        ("postgresql:///app?host=/run/postgresql", None),
        ("host=db password=postgresql+x://y", None),
    ],
)
def test_a_connection_string_is_taken_without_the_driver_of_sqlalchemy(text: str, taken: str | None) -> None:
    assert AnalyticsMiddleware(page(), dsn=text).settings.dsn == (taken or text)
