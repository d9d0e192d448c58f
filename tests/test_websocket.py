"""A websocket is one row, and untouched on its way."""

from __future__ import annotations

import asyncio
import types
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager

import pytest

from asgi_analytics.middleware import ASGIApp, Message, Receive, Scope, Send
from asgi_analytics.testing import FakeClock

from .drive import OLD, STRICT, answer_lifespan, ask, block, http_scope, page, rows, socket_scope, start, wrapped
from .transparent import sending, serve


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


DISCONNECT: Message = {"type": "websocket.disconnect", "code": 1006}


CONNECT: Message = {"type": "websocket.connect"}


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "websocket.connect":
            await send({"type": "websocket.accept", "subprotocol": "chat", "headers": [(b"a", b"b")]})
        elif message["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message.get("text"), "bytes": message.get("bytes")})
        else:
            return


async def hesitate(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] == "client leaves the denial":
        await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
    while (await receive())["type"] != "websocket.disconnect":
        pass


ENDINGS: dict[str, tuple[Callable[[], ASGIApp], tuple[Message, ...]]] = {
    "client leaves": (
        lambda: echo,
        (
            CONNECT,
            {"type": "websocket.receive", "text": "hé", "bytes": None},
            {"type": "websocket.receive", "bytes": b"\0\xff"},
            DISCONNECT,
        ),
    ),
    "disconnect without code": (lambda: echo, (CONNECT, {"type": "websocket.disconnect"})),
    "server shuts down": (lambda: echo, (CONNECT, {"type": "websocket.disconnect", "code": 1012, "reason": "bye"})),
    "client leaves unaccepted": (lambda: hesitate, (CONNECT, DISCONNECT)),
    "client leaves the denial": (lambda: hesitate, (CONNECT, DISCONNECT)),
    "app closes": (sending({"type": "websocket.accept"}, {"type": "websocket.close", "code": 4000, "reason": "x"}), ()),
    "app closes without code": (sending({"type": "websocket.accept"}, {"type": "websocket.close"}), ()),
    "closed before the accept": (sending({"type": "websocket.close"}), ()),
    "denial response": (
        sending(
            {"type": "websocket.http.response.start", "status": 401, "headers": [(b"a", b"b")]},
            {"type": "websocket.http.response.body", "body": b"no"},
        ),
        (),
    ),
    "denial without a body": (
        sending(
            {"type": "websocket.http.response.start", "status": 401, "headers": []},
            {"type": "websocket.http.response.body"},
        ),
        (),
    ),
    "app returns early": (sending({"type": "websocket.accept"}), ()),
    "app raises": (sending({"type": "websocket.accept"}, error=RuntimeError("x")), ()),
    "app raises at once": (sending(error=RuntimeError("x")), ()),
    "sends after the close": (
        sending({"type": "websocket.accept"}, {"type": "websocket.close"}, {"type": "websocket.send", "text": "late"}),
        (),
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_websocket_is_untouched_and_one_hit(name: str) -> None:
    make, incoming = ENDINGS[name]
    bare = asyncio.run(serve(make(), socket_scope(), list(incoming)))
    with wrapped(make()) as middleware:
        seen = asyncio.run(serve(middleware, socket_scope(), list(incoming)))
        stats = middleware.stats()
    assert (seen.sent, seen.received) == (bare.sent, bare.received)
    assert type(seen.raised) is type(bare.raised)
    assert (stats["queued"], stats["failures"]) == (1, {})


def test_the_row_of_a_websocket_tells_how_it_ended(dsn: str) -> None:
    with wrapped(page(), dsn) as middleware:
        for name, (make, incoming) in ENDINGS.items():
            middleware.app = make()
            asyncio.run(serve(middleware, socket_scope(path=name), list(incoming)))
    found = rows(dsn)
    unanswered = ("app raises at once", "client leaves unaccepted")
    assert all(row["first_byte_us"] is not None for row in found if row["path"] not in unanswered)
    told = {row["path"]: (row["outcome"], row["status"], row["close_code"], row["bytes_sent"]) for row in found}
    assert told == {
        "client leaves": ("complete", 101, 1006, 5),
        "disconnect without code": ("complete", 101, 1005, 0),
        "server shuts down": ("complete", 101, 1012, 0),
        "client leaves unaccepted": ("aborted", None, 1006, 0),
        "client leaves the denial": ("aborted", 401, 1006, 0),
        "app closes": ("complete", 101, 4000, 0),
        "app closes without code": ("complete", 101, 1000, 0),
        "closed before the accept": ("complete", 403, 1000, 0),
        "denial response": ("complete", 401, None, 2),
        "denial without a body": ("complete", 401, None, 0),
        "app returns early": ("aborted", 101, None, 0),
        "app raises": ("error", 101, None, 0),
        "app raises at once": ("error", 500, None, 0),
        "sends after the close": ("complete", 101, 1000, 0),
    }


def test_a_visitor_who_is_gone_when_the_app_sends_has_left_and_is_no_error(dsn: str) -> None:
    told: list[BaseException] = []

    async def push(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        try:
            while True:
                await send({"type": "websocket.send", "text": "news"})
        except OSError as error:  # what Starlette does
            told.append(error)
            raise LookupError("disconnected") from error

    def server() -> tuple[Send, OSError]:
        messages, gone = iter(range(3)), OSError("gone")

        async def send(message: Message) -> None:
            if next(messages, None) is None:
                raise gone

        return send, gone

    for durability in ("journal", "fsync"):
        with wrapped(push, dsn, durability=durability) as wrap:
            send, gone = server()
            with pytest.raises(LookupError):
                asyncio.run(wrap(socket_scope(), None, send))  # type: ignore[arg-type]
            assert told.pop() is gone
    ends = [(row["outcome"], row["status"], row["close_code"]) for row in rows(dsn)]
    assert ends == [("complete", 101, 1006)] * 2


@asynccontextmanager
async def left_open(app: ASGIApp, scope: Scope) -> AsyncIterator[None]:
    """A websocket that is open while the block runs; then its visitor leaves."""
    arrived, left = iter([CONNECT]), asyncio.Event()

    async def receive() -> Message:
        for message in arrived:
            return message
        await left.wait()
        return DISCONNECT

    async def send(message: Message) -> None: ...

    opened = asyncio.ensure_future(app(scope, receive, send))
    await asyncio.sleep(0)
    yield
    left.set()
    await opened


@pytest.mark.parametrize("time", [0, 80_000], ids=["by day", "over midnight"])
def test_a_websocket_that_outlives_its_session_is_of_the_one_that_it_began_in(dsn: str, time: float) -> None:
    clock, seen = FakeClock(), {}
    clock.advance(time)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await answer_lifespan(receive, send)
        seen[scope["path"]] = scope["state"]["analytics"]
        await (echo if scope["type"] == "websocket" else page())(scope, receive, send)

    async def visit() -> None:
        await ask(wrap, http_scope("/first"))
        async with left_open(wrap, socket_scope()):
            clock.advance(7200)
            await ask(wrap, http_scope("/two-hours-later"))

    with wrapped(app, dsn, clock=clock) as wrap:
        start(wrap)
        asyncio.run(visit())
    by_path = {row["path"]: row["session_id"].hex for row in rows(dsn)}
    assert by_path == {path: found.session for path, found in seen.items()}
    assert by_path["/ws"] == by_path["/first"] != by_path["/two-hours-later"]
    of_sessions = rows(
        dsn,
        "SELECT path FROM analytics.hits JOIN analytics.sessions "
        "ON hits.session_id = sessions.id AND hits.fingerprint = sessions.fingerprint",
    )
    assert len(of_sessions) == len(seen)
    sessions = rows(dsn, "SELECT hits, last_seen_at - started_at AS length FROM analytics.sessions ORDER BY started_at")
    assert [(row["hits"], row["length"].total_seconds()) for row in sessions] == [(2, 0.0), (1, 0.0)]


def test_a_code_that_is_no_number_costs_no_row(dsn: str) -> None:
    app = sending({"type": "websocket.accept"}, {"type": "websocket.close", "code": [4000]})
    with wrapped(app(), dsn) as wrap:
        asyncio.run(serve(wrap, socket_scope(), []))
        assert wrap.stats()["failures"] == {}
    assert [(row["outcome"], row["close_code"]) for row in rows(dsn)] == [("complete", None)]


@types.coroutine
def turn() -> Generator[None]:
    """What a server waits for."""
    yield


def test_an_app_that_is_thrown_away_while_its_denial_is_held_is_no_error() -> None:
    # As those are that an event loop leaves behind.
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
        await turn()

    async def receive() -> Message:
        return CONNECT

    async def send(message: Message) -> None:
        await turn()

    with wrapped(app, durability="fsync") as wrap:
        left = wrap(socket_scope(extensions={"websocket.http.response": {}}), receive, send)
        left.send(None)
        left.close()
        assert wrap.stats()["queued"] == 1


def test_a_decision_on_a_websocket_that_outlives_its_session_over_midnight_is_of_its_visitor(dsn: str) -> None:
    clock = FakeClock()
    clock.advance(80_000)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (echo if scope["type"] == "websocket" else page())(scope, receive, send)

    async def visit() -> None:
        async with left_open(wrap, {**http_scope("/ws", headers=OLD), "type": "websocket", "scheme": "ws"}):
            clock.advance(7200)
            await ask(wrap, http_scope("/after-midnight", headers=OLD))

    with wrapped(app, dsn, clock=clock, cooldown=60, **STRICT) as wrap:
        start(wrap)
        block(wrap)
        clock.advance(61)  # the level cools down as the websocket is opened, which is a decision
        asyncio.run(visit())
    found = rows(
        dsn,
        "SELECT hits.fingerprint = decisions.fingerprint AS alike FROM analytics.hits "
        "JOIN analytics.decisions ON decisions.id = hits.decision_id WHERE path = '/ws'",
    )
    assert found == [{"alike": True}]
