"""The same app bare and wrapped, before a server that records: nothing differs but the documented headers."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.wsgi import WsgiToAsgi
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

import asgi_analytics
from asgi_analytics import AnalyticsMiddleware
from asgi_analytics.middleware import ASGIApp, Message, Receive, Scope, Send

from .build import COMPILED
from .drive import NOWHERE, Communicator, ask, get, http_scope, page, socket_scope, wrapped
from .transparent import Seen, normal, sending, serve, without_ours

START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
BODY: Message = {"type": "http.response.body", "body": b"end"}
color: contextvars.ContextVar[str] = contextvars.ContextVar("color", default="none")


@pytest.fixture(scope="module")
def wrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnalyticsMiddleware]:
    """One middleware for the apps of this module: `wrap.app` is the app."""
    folder = tmp_path_factory.mktemp("journal")
    with wrapped(page(), journal_dir=folder, limits="100000/second", mode="observe") as middleware:
        yield middleware


@pytest.fixture
def counted(wrap: AnalyticsMiddleware) -> Iterator[Callable[[], int]]:
    """How many hits were recorded since the test began; none of our steps may have failed."""
    before = wrap.stats()
    yield lambda: wrap.stats()["queued"] - before["queued"]
    assert wrap.stats()["failures"] == before["failures"]


@pytest.fixture
def both(wrap: AnalyticsMiddleware, counted: Callable[[], int]) -> Callable[..., tuple[Seen, Seen]]:
    """Run an app bare and wrapped in the same way."""

    def run(make: Callable[[], ASGIApp], scope: Scope | None = None, *incoming: Message) -> tuple[Seen, Seen]:
        asked = http_scope() if scope is None else scope
        bare = asyncio.run(serve(make(), copy.copy(asked), list(incoming)))
        wrap.app = make()
        return bare, asyncio.run(serve(wrap, copy.copy(asked), list(incoming)))

    return run


ANSWERS: dict[str, tuple[Any, ...]] = {
    "plain": (START, BODY),
    "stream": (START, *({**BODY, "more_body": True} for _ in range(5)), BODY),
    "empty last body": (START, {**BODY, "more_body": True}, {"type": "http.response.body"}),
    "extra keys": ({**START, "x": 1}, {**BODY, "y": object}),
    "trailers": (
        {**START, "trailers": True},
        BODY,
        {"type": "http.response.trailers", "headers": [(b"a", b"1")], "more_trailers": True},
        {"type": "http.response.trailers", "headers": [], "more_trailers": False},
    ),
    "pathsend": (START, {"type": "http.response.pathsend", "path": "/etc/hostname"}),
    "zerocopysend": (
        START,
        {"type": "http.response.zerocopysend", "file": 7, "offset": 1, "count": 2, "more_body": True},
        {"type": "http.response.zerocopysend", "file": 7},
    ),
    "early hints": ({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]}, START, BODY),
    "push": ({"type": "http.response.push", "path": "/a.css", "headers": []}, START, BODY),
    "debug": (START, {"type": "http.response.debug", "info": {"template": object}}, BODY),
    "unknown types": (
        {"type": "x.before"},
        START,
        {"type": "http.response.tea", "more_body": False},
        BODY,
        {"type": "z"},
    ),
    "no headers": ({"type": "http.response.start", "status": 204}, {"type": "http.response.body"}),
    "headers None": ({**START, "headers": None}, BODY),
    "headers tuple": ({**START, "headers": ((b"a", b"b"),)}, BODY),
    "headers of lists": ({**START, "headers": [[b"A", b"b"], [b"A", b"c"]]}, BODY),
    "memoryview": (START, {"type": "http.response.body", "body": memoryview(b"abc")}),
    "nothing": (),
    "start only": (START,),
    "never ends": (START, {**BODY, "more_body": True}),
    "body twice": (START, BODY, BODY),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_every_message_reaches_the_server_as_the_app_sent_it(
    name: str, both: Callable[..., tuple[Seen, Seen]], counted: Callable[[], int]
) -> None:
    bare, wrapped = both(sending(*ANSWERS[name]))
    assert without_ours(wrapped.sent) == normal(bare.sent)
    assert (wrapped.raised, counted()) == (None, 1)


@pytest.mark.parametrize(
    ("scope", "first", "kind", "key"),
    [
        (http_scope(), START, "http.response.body", "body"),
        (http_scope(), START, "http.response.zerocopysend", "count"),
        (socket_scope(), {"type": "websocket.accept"}, "websocket.send", "bytes"),
        (
            socket_scope(),
            {"type": "websocket.http.response.start", "status": 403},
            "websocket.http.response.body",
            "body",
        ),
    ],
    ids=["body", "file", "websocket", "denial"],
)
@pytest.mark.parametrize("value", [5, object(), float("inf")], ids=["number", "object", "infinity"])
def test_a_body_that_is_none_is_the_servers_to_judge(
    scope: Scope, first: Message, kind: str, key: str, value: Any, wrap: AnalyticsMiddleware
) -> None:
    message, before = {"type": kind, key: value}, wrap.stats()["queued"]
    wrap.app = sending(first, lambda: message)()
    seen = asyncio.run(serve(wrap, scope, []))
    assert (seen.raised, seen.sent[1], wrap.stats()["queued"]) == (None, message, before + 1)


def test_only_the_start_message_is_another_object(both: Callable[..., tuple[Seen, Seen]]) -> None:
    messages = [dict(START), {**BODY, "more_body": True}, dict(BODY)]
    _, wrapped = both(sending(*((lambda m=message: m) for message in messages)))
    assert wrapped.sent[0] is not messages[0]
    assert messages[0] == START
    assert [sent is message for sent, message in zip(wrapped.sent[1:], messages[1:], strict=True)] == [True, True]


@pytest.mark.parametrize("kind", ["generator", "iterator", "dict view"])
def test_one_shot_header_iterables_keep_all_headers(kind: str, both: Callable[..., tuple[Seen, Seen]]) -> None:
    pairs = [(b"content-type", b"text/html"), (b"set-cookie", b"a=1")]

    def start() -> Message:
        headers: Any = {"generator": (pair for pair in pairs), "iterator": iter(pairs)}.get(kind, dict(pairs).items())
        return {**START, "headers": headers}

    bare, wrapped = both(sending(start, BODY))
    assert without_ours(wrapped.sent) == normal(bare.sent)
    assert without_ours(wrapped.sent)[0]["headers"] == pairs


OPTIONAL = ("headers", "client", "query_string", "root_path", "raw_path", "scheme", "server", "http_version", "asgi")


@given(absent=st.sets(st.sampled_from(OPTIONAL)), none=st.sets(st.sampled_from(OPTIONAL)), state=st.booleans())
def test_any_optional_key_of_the_scope_may_be_missing(absent: set[str], none: set[str], state: bool) -> None:
    scope = {key: value for key, value in http_scope().items() if key not in absent}
    scope |= dict.fromkeys((none - absent) - {"asgi"}) | ({"state": {"lifespan": 1}} if state else {})
    shared_wrap.app = page()
    before = shared_wrap.stats()
    reply = asyncio.run(ask(shared_wrap, scope))
    after = shared_wrap.stats()
    assert (reply.status, reply.body, after["failures"]) == (200, b"<h1>hello</h1>", before["failures"])
    assert after["queued"] == before["queued"] + 1


@given(
    absent=st.sets(st.sampled_from(("headers", "body", "more_body", "trailers"))),
    chunks=st.lists(st.binary(max_size=9), max_size=4),
)
def test_any_optional_key_of_a_message_may_be_missing(absent: set[str], chunks: list[bytes]) -> None:
    start = {**START, "trailers": False}
    bodies = [{"type": "http.response.body", "body": chunk, "more_body": True} for chunk in chunks]
    messages = [start, *bodies, {**BODY, "more_body": False}]
    told: list[Message] = [{key: message[key] for key in message.keys() - absent} for message in messages]
    shared_wrap.app = sending(*told)()
    seen = asyncio.run(serve(shared_wrap, http_scope(), []))
    assert without_ours(seen.sent) == normal(told)


@pytest.fixture(autouse=True)
def share(wrap: AnalyticsMiddleware) -> None:
    # Hypothesis' functions take no function-scoped fixture.
    global shared_wrap
    shared_wrap = wrap


shared_wrap: AnalyticsMiddleware


# Errors
class Boom(BaseException):
    """Not an Exception."""


ERRORS = [
    RuntimeError("app"),
    asyncio.CancelledError(),
    ExceptionGroup("both", [ValueError(1), KeyError(2)]),
    BaseExceptionGroup("all", [SystemExit(1)]),
    GeneratorExit(),
    TimeoutError(),
    Boom(),
]
BEFORE = {"before the start": (), "after the start": (START,), "after the last body": (START, BODY)}


@pytest.mark.parametrize("when", BEFORE)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_of_the_app_reaches_the_server_as_the_same_object(
    error: BaseException, when: str, both: Callable[..., tuple[Seen, Seen]], counted: Callable[[], int]
) -> None:
    bare, wrapped = both(sending(*BEFORE[when], error=error))
    assert wrapped.raised is bare.raised is error
    assert (error.__context__, error.__cause__, counted()) == (None, None, 1)
    assert without_ours(wrapped.sent) == normal(bare.sent)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
def test_the_end_of_the_process_is_not_held_up(
    error: BaseException, both: Callable[..., tuple[Seen, Seen]], counted: Callable[[], int]
) -> None:
    _, wrapped = both(sending(START, error=error))
    assert (wrapped.raised, counted()) == (error, 1)


def test_a_traceback_has_one_frame_of_ours(both: Callable[..., tuple[Seen, Seen]]) -> None:
    _, wrapped = both(sending(error=RuntimeError("deep")))
    assert wrapped.raised is not None
    files = [frame.filename for frame in traceback.extract_tb(wrapped.raised.__traceback__)]
    package = Path(asgi_analytics.__file__).parent
    assert len([name for name in files if Path(name).is_relative_to(package)]) == 1


def test_what_the_servers_send_raises_reaches_the_app(wrap: AnalyticsMiddleware, counted: Callable[[], int]) -> None:
    caught: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(START)
        except OSError as error:
            caught.append(error)
            raise

    async def gone(message: Message) -> None:
        raise OSError("client is gone")

    wrap.app = app
    with pytest.raises(OSError, match="client is gone") as raised:
        asyncio.run(wrap(http_scope(), gone, gone))  # type: ignore[arg-type]
    assert (caught, counted()) == ([raised.value], 1)


def test_a_cancelled_request_is_one_hit_and_stays_cancelled(
    wrap: AnalyticsMiddleware, counted: Callable[[], int]
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await asyncio.Event().wait()

    async def run() -> None:
        server = Communicator(wrap, http_scope())
        assert (await server.receive_output())["type"] == "http.response.start"
        server.future.cancel()
        await asyncio.wait([server.future])
        assert server.future.cancelled()

    wrap.app = app
    asyncio.run(run())
    assert counted() == 1


# Where the app runs
def test_the_app_runs_in_the_servers_task_and_context(wrap: AnalyticsMiddleware) -> None:
    inside: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        inside.append((asyncio.current_task(), len(asyncio.all_tasks()), color.get()))
        color.set("blue")
        await page()(scope, receive, send)

    async def run() -> None:
        color.set("red")
        await ask(wrap, http_scope())
        assert inside == [(asyncio.current_task(), 1, "red")]
        assert color.get() == "blue"

    wrap.app = app
    asyncio.run(run())


def test_receive_is_the_servers_own_and_is_never_called_by_us(wrap: AnalyticsMiddleware) -> None:
    got: list[Receive] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        got.append(receive)
        await page()(scope, receive, send)

    async def receive() -> Message:
        raise AssertionError("called")

    async def send(message: Message) -> None:
        pass

    wrap.app = app
    asyncio.run(wrap(http_scope(), receive, send))
    assert got == [receive]


def test_one_send_of_the_app_is_one_send_to_the_server_before_it_returns(wrap: AnalyticsMiddleware) -> None:
    order: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in (START, {**BODY, "more_body": True}, BODY):
            await send(message)
            order.append("app")

    async def send(message: Message) -> None:
        await asyncio.sleep(0)
        order.append("server")

    wrap.app = app
    asyncio.run(wrap(http_scope(), send, send))  # type: ignore[arg-type]
    assert order == ["server", "app"] * 3


def test_two_loops_in_two_threads_share_one_middleware(wrap: AnalyticsMiddleware, counted: Callable[[], int]) -> None:
    wrap.app = page()
    statuses: list[int] = []

    async def many() -> None:
        replies = await asyncio.gather(*(ask(wrap, http_scope(f"/{number}")) for number in range(50)))
        statuses.extend(reply.status for reply in replies)

    threads = [threading.Thread(target=asyncio.run, args=(many(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (statuses, counted()) == ([200] * 100, 100)


def test_wrapped_twice_is_one_hit_and_one_set_of_headers(wrap: AnalyticsMiddleware, counted: Callable[[], int]) -> None:
    with wrapped(page()) as inner:
        wrap.app = inner
        reply = get(wrap)
        assert inner.stats()["queued"] == 0
    names = [name for name, _ in reply.headers]
    assert len(names) == len(set(names))
    assert counted() == 1


def test_a_mounted_app_that_is_wrapped_too_is_one_hit(wrap: AnalyticsMiddleware, counted: Callable[[], int]) -> None:
    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.scope["root_path"] + " " + request.state.analytics.agent.browser)

    part = Starlette(routes=[Route("/x", hello)], middleware=[Middleware(AnalyticsMiddleware, dsn=NOWHERE)])
    wrap.app = Starlette(routes=[Mount("/sub", app=part)])
    assert (get(wrap, "/sub/x").body, counted()) == (b"/sub Chrome", 1)


def test_starlettes_own_error_page_passes(wrap: AnalyticsMiddleware, counted: Callable[[], int]) -> None:
    async def broken(request: Request) -> PlainTextResponse:
        raise LookupError("broken")

    app = Starlette(routes=[Route("/", broken)])
    bare = asyncio.run(serve(app, http_scope(), []))
    wrap.app = app
    seen = asyncio.run(serve(wrap, http_scope(), []))
    assert without_ours(seen.sent) == normal(bare.sent)
    assert (type(seen.raised), str(seen.raised), counted()) == (LookupError, "broken", 1)


def test_a_wsgi_app_by_asgiref_is_served_without_a_warning(both: Callable[..., tuple[Seen, Seen]]) -> None:
    def hello(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("content-type", "text/plain")])
        return [environ["REQUEST_METHOD"].encode()]

    with warnings.catch_warnings():
        if not COMPILED:  # code that takes no mark of what it returns
            warnings.simplefilter("error")
        bare, seen = both(lambda: WsgiToAsgi(hello), None, {"type": "http.request"})
    assert (seen.raised, bare.raised) == (None, None)
    assert without_ours(seen.sent) == bare.sent
