from __future__ import annotations

import asyncio
import copy
import threading
from contextlib import suppress
from typing import Any

import pytest

from asgi_analytics.middleware import ASGIApp, Message, Receive, Scope, Send

from .drive import Communicator, answer_lifespan, ask, get, http_scope, page, rows, start, wrapped
from .transparent import serve
from .waiting import wait_until


async def unsupported(scope: Scope, receive: Receive, send: Send) -> None:
    raise ValueError("lifespan is not supported")


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})


async def crashing_later(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    raise RuntimeError("at shutdown")


async def shutdown_failing(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.failed", "message": "x"})


async def returning(scope: Scope, receive: Receive, send: Send) -> None:
    return


LIFESPANS = {
    "supported": page(),
    "unsupported": unsupported,
    "startup failed": failing,
    "shutdown raises": crashing_later,
    "shutdown failed": shutdown_failing,
    "returns at once": returning,
}


@pytest.mark.parametrize("name", LIFESPANS)
def test_lifespan_is_what_it_is_without_us(name: str) -> None:
    app = LIFESPANS[name]
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    incoming: list[Message] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    bare = asyncio.run(serve(app, copy.deepcopy(scope), incoming))
    with wrapped(app) as middleware:
        seen = asyncio.run(serve(middleware, copy.deepcopy(scope), incoming))
    assert (seen.sent, seen.received) == (bare.sent, bare.received)
    assert (type(seen.raised), str(seen.raised)) == (type(bare.raised), str(bare.raised))


def test_lifespan_passes_the_scope_itself_and_its_state() -> None:
    got: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["pool"] = 1
        got.append(scope)

    scope: Scope = {"type": "lifespan", "state": {}}
    with wrapped(app) as middleware:
        asyncio.run(serve(middleware, scope, []))
    assert got[0] is scope
    assert scope["state"] == {"pool": 1}


def test_an_app_that_never_answers_the_lifespan_is_not_answered_for() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    async def run() -> None:
        with wrapped(app) as middleware:
            server = Communicator(middleware, {"type": "lifespan"})
            await server.send_input({"type": "lifespan.startup"})
            assert await server.receive_nothing(timeout=0.05)
            server.stop()

    asyncio.run(run())


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


@pytest.mark.parametrize("app", [unsupported, returning], ids=["raises", "returns"])
def test_the_server_of_an_app_without_lifespan_support_waits_for_that_salt_too(dsn: str, app: ASGIApp) -> None:
    with wrapped(app, dsn) as wrap:
        asyncio.run(serve(wrap, {"type": "lifespan"}, [{"type": "lifespan.startup"}]))
        wrap.app = page()
        get(wrap)
    (row,) = rows(dsn)
    assert row["provisional"] is False


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


def test_no_thread_of_ours_outlives_the_lifespan_though_its_loop_does() -> None:
    others = threading.enumerate()

    def calling() -> bool:
        return any(one.name == "asgi-analytics-call" for one in threading.enumerate() if one not in others)

    async def run() -> None:
        with wrapped(page()) as middleware:
            server = await begun(middleware)
            assert calling()
            await server.send_input({"type": "lifespan.shutdown"})
            await server.wait(10)
            await asyncio.to_thread(wait_until, lambda: not calling(), 5)

    asyncio.run(run())
