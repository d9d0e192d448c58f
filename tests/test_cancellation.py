"""A request that is cancelled is aborted, on either event loop; nobody invents an error for it."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio

from asgi_analytics.middleware import ASGIApp, Message, Receive, Scope, Send

from .drive import http_scope, rows, wrapped
from .transparent import serve


async def noop(*message: Any) -> Any:
    await anyio.lowlevel.checkpoint()


@types.coroutine
def turn() -> Generator[None]:
    """What an app waits for that is never called again."""
    yield


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] == "/streaming":
        await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/nursery":
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)
        await anyio.sleep_forever()


@pytest.mark.parametrize(
    ("backend", "path", "status"),
    [
        ("asyncio", "/early", None),
        ("asyncio", "/streaming", 200),
        ("trio", "/early", None),
        ("trio", "/streaming", 200),
        ("trio", "/nursery", None),
    ],
)
def test_a_cancelled_request_is_aborted_and_has_no_status_but_the_apps(
    dsn: str, backend: str, path: str, status: int | None
) -> None:
    async def run() -> None:
        with anyio.move_on_after(0.05) as scope:
            await wrap(http_scope(path), noop, noop)
        assert scope.cancelled_caught

    with wrapped(app, dsn) as wrap:
        anyio.run(run, backend=backend)
    (row,) = rows(dsn)
    assert (row["outcome"], row["status"]) == ("aborted", status)


def test_an_error_beside_a_cancellation_is_an_error(dsn: str) -> None:
    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        raise BaseExceptionGroup("both", [asyncio.CancelledError(), RuntimeError("no")])

    with wrapped(failing, dsn) as wrap, pytest.raises(BaseExceptionGroup):
        asyncio.run(wrap(http_scope(), noop, noop))
    (row,) = rows(dsn)
    assert (row["outcome"], row["status"]) == ("error", 500)


@pytest.mark.parametrize(("error", "outcome"), [(asyncio.CancelledError(), "aborted"), (KeyError("no"), "error")])
def test_without_an_event_loop_an_error_is_told_from_a_cancellation(
    dsn: str, error: BaseException, outcome: str
) -> None:
    async def raising(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    with wrapped(raising, dsn) as wrap, pytest.raises(type(error)):
        wrap(http_scope(), noop, noop).send(None)
    (row,) = rows(dsn)
    assert row["outcome"] == outcome


@pytest.mark.parametrize(("path", "status"), [("/early", None), ("/streaming", 200)])
def test_an_app_that_is_thrown_away_with_its_event_loop_is_aborted_and_no_error(
    dsn: str, path: str, status: int | None
) -> None:
    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/streaming":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await turn()

    async def send(message: Message) -> None: ...

    with wrapped(waiting, dsn) as wrap:
        left = wrap(http_scope(path), noop, send)
        left.send(None)
        left.close()
    (row,) = rows(dsn)
    assert (row["outcome"], row["status"]) == ("aborted", status)


class Unanswered:
    """StrictQuotas that never answer."""

    failures = 0

    async def take(self, quotas: Any) -> None:
        await anyio.sleep_forever()

    async def close(self) -> None: ...


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_who_leaves_while_strict_quotas_are_asked_is_an_aborted_hit(dsn: str, backend: str) -> None:
    async def run() -> None:
        with anyio.move_on_after(0.05) as scope:
            await wrap(http_scope("/early"), noop, noop)
        assert scope.cancelled_caught

    with wrapped(app, dsn) as wrap:
        wrap._engine.strict = Unanswered()
        anyio.run(run, backend=backend)
        assert wrap.stats()["failures"] == {}
    (row,) = rows(dsn)
    assert (row["path"], row["outcome"], row["status"]) == ("/early", "aborted", None)


async def as_django(scope: Scope, receive: Receive, send: Send) -> None:
    assert (await receive())["type"] == "http.request"
    answering = asyncio.create_task(asyncio.sleep(60))
    assert (await receive())["type"] == "http.disconnect"
    answering.cancel()
    await asyncio.wait([answering])


async def as_quart(scope: Scope, receive: Receive, send: Send) -> None:
    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(listen()), asyncio.ensure_future(asyncio.sleep(60))]
    _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)


async def as_mcp(scope: Scope, receive: Receive, send: Send) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)
        while (await receive())["type"] != "http.disconnect":
            pass
        group.cancel_scope.cancel()


@pytest.mark.parametrize("give_up", [as_django, as_quart, as_mcp])
def test_an_app_that_gives_up_since_its_visitor_has_left_is_aborted_and_has_no_status(
    dsn: str, give_up: ASGIApp
) -> None:
    part: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}, {"type": "http.disconnect"}]
    with wrapped(give_up, dsn) as wrap:
        seen = asyncio.run(serve(wrap, http_scope("/slow"), part))
    assert (seen.sent, seen.received, seen.raised) == ([], part, None)
    (row,) = rows(dsn)
    assert (row["path"], row["outcome"], row["status"]) == ("/slow", "aborted", None)


async def plain(send: Send) -> None:
    while True:
        await send({"type": "http.response.body", "body": b"news", "more_body": True})


async def as_starlette(send: Send) -> None:
    try:
        await plain(send)
    except OSError:
        raise LookupError("disconnected") from None


async def in_group(send: Send) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(plain, send)


async def unlike(send: Send) -> None:
    raise ConnectionRefusedError("the app's own database")


@pytest.mark.parametrize(
    ("stream", "outcome"), [(plain, "aborted"), (as_starlette, "aborted"), (in_group, "aborted"), (unlike, "error")]
)
@pytest.mark.parametrize("durability", ["journal", "fsync"])
def test_who_is_gone_when_the_app_sends_has_left_and_is_no_error(
    dsn: str, stream: Callable[[Send], Awaitable[None]], outcome: str, durability: Any
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await stream(send)

    messages = iter(range(3))

    async def server(message: Message) -> None:
        if next(messages, None) is None:
            raise OSError("gone")

    with wrapped(app, dsn, durability=durability) as wrap, pytest.raises((OSError, LookupError, ExceptionGroup)):
        asyncio.run(wrap(http_scope(), noop, server))
    (row,) = rows(dsn)
    assert (row["outcome"], row["status"]) == (outcome, 200)
