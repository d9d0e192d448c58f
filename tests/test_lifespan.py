from __future__ import annotations

import asyncio
import copy

import pytest

from asgi_analytics.middleware import Message, Receive, Scope, Send

from .drive import Communicator, page, wrapped
from .transparent import serve


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
