"""What Python's collector of cycles has to look at, and what goes without it."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asgi_analytics import AnalyticsMiddleware
from asgi_analytics.middleware import Receive, Scope, Send

from .drive import NOWHERE, http_scope

MOST = 200  # visitors


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def site(scope: Scope, receive: Receive, send: Send) -> None:
    """A page, data, and what is missing: visitors leave every kind of trace."""
    kind = b"application/json" if scope["path"] == "/data" else b"text/html"
    status = 404 if scope["path"] == "/gone" else 200
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
    await send({"type": "http.response.body", "body": b"x"})


def visit(app: AnalyticsMiddleware, first: int, count: int) -> None:
    async def run() -> None:
        for number in range(first, first + count):
            client = (f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1)
            for path in ("/", "/data", "/gone"):
                await app(http_scope(path, client=client), receive, ignored)

    asyncio.run(run())


async def receive() -> dict[str, object]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def ignored(message: object) -> None:
    """Goes nowhere."""


def test_visitors_are_not_looked_at_by_the_collector(tmp_path: Path) -> None:
    """With thirty objects of each, 15,000 visitors stopped the event loop for a quarter of a second at a time."""
    app = AnalyticsMiddleware(site, dsn=NOWHERE, journal_dir=tmp_path)
    visit(app, 0, 100)
    gc.collect()
    before = len(gc.get_objects())
    visit(app, 100, 1_000)
    gc.collect()
    assert app.stats()["memory"]["visitors"] == 1_100
    grown = len(gc.get_objects()) - before
    assert grown < 500
    app.close()


@pytest.mark.usefixtures("no_collector")
def test_visitors_that_are_forgotten_are_freed_without_the_collector(tmp_path: Path) -> None:
    app = AnalyticsMiddleware(site, dsn=NOWHERE, journal_dir=tmp_path, max_visitors=MOST, max_networks=MOST)
    visit(app, 0, 2 * MOST)
    before = sys.getallocatedblocks()
    visit(app, 2 * MOST, 10 * MOST)
    assert app.stats()["memory"]["visitors"] == MOST
    # Each has some sixty blocks; three are of addresses that stay known.
    assert sys.getallocatedblocks() - before < 5 * 10 * MOST
    app.close()
