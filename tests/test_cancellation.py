"""A request that is cancelled is aborted, on either event loop; nobody invents an error for it."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio

from asgi_analytics.middleware import Receive, Scope, Send

from .drive import http_scope, rows, wrapped


async def noop(*message: Any) -> Any:
    await anyio.lowlevel.checkpoint()


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
