"""The rows of the overhead benchmark: one app, bare and behind several middlewares."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator, MutableMapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from asgi_analytics import AnalyticsMiddleware

from .traffic import VirtualClock

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]

PAGE = b"<!doctype html><title>Page</title>" + b"<p>Some text.</p>" * 20
HEADERS = [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", b"%d" % len(PAGE))]
FOUR = [
    (b"ratelimit-policy", b'"second";q=100;w=1, "minute";q=1500;w=60'),
    (b"ratelimit", b'"second";r=99;t=1, "minute";r=1499;t=60'),
    (b"x-throttle-level", b"normal"),
    (b"x-rate-multiplier", b"1.0"),
]
BARE = {"asgi": "bare", "starlette": "bare Starlette"}
WITH_HEADERS = "pass-through, 4 headers"
BASE_HTTP = "no-op BaseHTTPMiddleware"
OURS = "asgi-analytics, everything on"
NOWHERE = "postgresql://nobody@127.0.0.1:1/nowhere"  # refused at once


@dataclass(slots=True)
class Peer:
    """One row: an app, and the framework whose bare app it is compared with."""

    name: str
    app: App
    framework: str = "asgi"
    clock: VirtualClock = field(default_factory=VirtualClock)
    check: Callable[[], None] = lambda: None


async def page(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a page, in two messages."""
    await send({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})
    await send({"type": "http.response.body", "body": PAGE})


class PassThrough:
    """What every middleware that looks at the answer does at least: it wraps `send`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def wrapped(message: Message) -> None:
            await send(message)

        await self.app(scope, receive, wrapped)


class PassThroughWithHeaders(PassThrough):
    """The same, and adds as many headers as we do."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def wrapped(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *FOUR]}
            await send(message)

        await self.app(scope, receive, wrapped)


class NoOp(BaseHTTPMiddleware):
    """Starlette's base class, with nothing of its own to do."""

    async def dispatch(self, request: Request, call_next: Any) -> Any:
        return await call_next(request)


def starlette() -> Starlette:
    """The same page as a Starlette route."""

    async def show(request: Request) -> HTMLResponse:
        return HTMLResponse(PAGE)

    return Starlette(routes=[Route("/{path:path}", show)])


def analytics(folder: str, stack: ExitStack) -> Peer:
    """Ours with the defaults: identity, session, GeoIP, user agent, quotas, signals, headers, journal."""
    clock = VirtualClock()
    app = AnalyticsMiddleware(page, dsn=NOWHERE, journal_dir=folder, clock=clock, shutdown_timeout=0)
    stack.callback(app.close)

    def check() -> None:
        stats = app.stats()
        assert not stats["failures"], stats
        assert not stats["dropped"], stats
        assert stats["durability"] == "journal", stats
        assert not stats["memory"]["flagged"], "a visitor was slowed down: this traffic is no longer lifelike"

    return Peer(OURS, app, clock=clock, check=check)


def slowapi() -> Peer:
    """slowapi with two limits by address in memory, and its headers."""
    from slowapi import Limiter
    from slowapi.middleware import SlowAPIASGIMiddleware
    from slowapi.util import get_remote_address

    app = starlette()
    app.state.limiter = Limiter(get_remote_address, default_limits=["100/second", "1500/minute"], headers_enabled=True)
    app.add_middleware(SlowAPIASGIMiddleware)
    return Peer("slowapi", app, "starlette")


def api_analytics() -> Peer:
    """api-analytics; what it would post now and then goes nowhere."""
    from api_analytics import core  # type: ignore[import-untyped,import-not-found,unused-ignore]
    from api_analytics.fastapi import Analytics  # type: ignore[import-untyped,import-not-found,unused-ignore]

    core._post_requests = lambda *_: None
    logging.getLogger("api_analytics").setLevel(logging.WARNING)
    app = starlette()
    app.add_middleware(Analytics, api_key="benchmark")
    return Peer("api-analytics", app, "starlette")


def opentelemetry() -> Peer:
    """OpenTelemetry's ASGI middleware, each span recorded and handed to an exporter that drops it."""
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

    class Nowhere(SpanExporter):
        def export(self, spans: Any) -> Any:
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Nowhere()))
    return Peer("OpenTelemetry ASGI", OpenTelemetryMiddleware(page, tracer_provider=provider))


def installed(folder: str, stack: ExitStack) -> list[Peer]:
    """Return all rows; a peer that is not installed is named and left out."""
    return [
        Peer("bare", page),
        Peer("pass-through", PassThrough(page)),
        Peer(WITH_HEADERS, PassThroughWithHeaders(page)),
        Peer(BASE_HTTP, NoOp(page)),
        analytics(folder, stack),
        *_optional("opentelemetry-instrumentation-asgi opentelemetry-sdk", opentelemetry),
        Peer(BARE["starlette"], starlette(), "starlette"),
        *_optional("slowapi", slowapi),
        *_optional("api-analytics", api_analytics),
    ]


def _optional(packages: str, build: Callable[[], Peer]) -> Iterator[Peer]:
    try:
        yield build()
    except ImportError:
        print(f"not installed: pip install {packages}")
