"""An app whose process dies, forks and blocks on demand: `uvicorn tests.acceptance.faults.app:app`."""

from __future__ import annotations

import asyncio
import ctypes
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from asgi_analytics import AnalyticsMiddleware
from asgi_analytics.middleware import Receive, Scope, Send

OPEN: Any = {"limits": "100000/second", "network_limits": "100000/second", "batch_age": 0.05, "mode": "observe"}


def _nothing() -> None:
    """What a child process does."""


def _fork(leave: Callable[[int], object]) -> None:
    if (child := os.fork()) == 0:
        leave(0)
    os.waitpid(child, 0)


def _pool(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    child = context.Process(target=_nothing)
    child.start()
    child.join(20)
    assert child.exitcode == 0


ACTS: dict[str, Callable[[], object]] = {
    "/act/exit": lambda: os._exit(3),
    "/act/segfault": lambda: ctypes.string_at(0),
    "/act/abort": lambda: os.kill(os.getpid(), signal.SIGABRT),
    "/act/fork__exit": lambda: _fork(os._exit),
    "/act/multiprocessing_fork": lambda: _pool("fork"),
    "/act/multiprocessing_spawn": lambda: _pool("spawn"),
}


HEARTS: set[asyncio.Task[None]] = set()
LAGS = [0.0]  # seconds that the event loop was late, since they were asked for


async def heart() -> None:
    """Beat a hundred times a second."""
    while True:
        began = time.monotonic()
        await asyncio.sleep(0.01)
        LAGS.append(time.monotonic() - began - 0.01)


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with this process's id; a path of ACTS acts before it answers."""
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return
    if act := ACTS.get(scope["path"]):
        act()
    if scope["path"] == "/lag":
        HEARTS.add(asyncio.create_task(heart())) if not HEARTS else None
        body = str(max(LAGS)).encode()
        LAGS[:] = [0.0]
    else:
        body = str(os.getpid()).encode()
    headers = [(b"content-type", b"text/html"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["path"].startswith("/unsaid/"):  # that all of it was sent
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await asyncio.sleep(60)
    await send({"type": "http.response.body", "body": body})


app = AnalyticsMiddleware(bare, **{**OPEN, **json.loads(os.environ.get("RIG_OPTIONS", "{}"))})
