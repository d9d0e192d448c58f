"""AnalyticsMiddleware: options in, and the way of one request from top to bottom."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import cycle, repeat
from typing import Any, Unpack

from anyio import get_cancelled_exc_class

from .database import resolve_dsn
from .engine import Engine, stop_all
from .exchange import SCOPE_KEY, Exchange, Message, Receive, Scope, Send
from .joining import joined
from .settings import Options, Settings
from .steps import SAMPLE
from .threads import run_in_thread
from .timed import TimedExchange
from .websocket import WebSocketExchange

__all__ = ["ASGIApp", "AnalyticsMiddleware", "Message", "Receive", "Scope", "Send"]

ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(slots=True)
class _Span:
    """A lifespan that is under way."""

    engine: Engine
    ends: bool = False  # the server has asked for it, or the app has said so
    ended: bool = False  # the app has said so: nothing of ours may follow, for granian stops the event loop then


_around: ContextVar[tuple[_Span, ...]] = ContextVar("asgi_analytics_around", default=())
STARTUP_PATIENCE = 2.0  # seconds that start-up waits for the salts that all workers share


class AnalyticsMiddleware:
    """Wraps an ASGI app: identifies, judges, answers for and records every request.

    Raises ConfigurationError for an unknown or wrong option. README.md, "Options", explains each.
    """

    def __init__(self, app: ASGIApp, **options: Unpack[Options]) -> None:
        self.app = app
        self.settings = Settings.build(**options)
        self._engine = Engine(self.settings, resolve_dsn(self.settings.dsn))
        self._engine.owners.add(self)
        self._filters = bool(self.settings.include or self.settings.exclude)
        self._enforce = self.settings.mode == "enforce"
        self._kinds: dict[str, Iterator[type[Exchange]]] = {}  # by type of scope; filled by the first request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The way of a request: identify, decide, then the app or a refusal, respond, record."""
        kinds = self._kinds.get(scope["type"]) or self._met(scope)
        if kinds is None or SCOPE_KEY in scope or (self._filters and self._is_excluded(scope)):
            return await self._pass_by(scope, receive, send)
        if scope.__class__ is not dict:
            scope = writable(scope)
        if self._engine.strict is None:
            exchange = begin(next(kinds), self._engine, scope, receive, send)
        else:
            exchange = await begin_strictly(next(kinds), self._engine, scope, receive, send)
        if exchange is None:
            return await self.app(scope, receive, send)
        if exchange.decision.refused and self._enforce:
            return await exchange.refuse()
        # Two calls at once with one scope are one request to us: a scope is of one connection.
        scope[SCOPE_KEY] = True
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except BaseException as error:
            exchange.end("aborted" if was_cancelled(error) else "error")
            raise
        finally:
            scope.pop(SCOPE_KEY, None)
        if not exchange.recorded:
            exchange.end()

    @property
    def routes(self) -> Any:
        """The app's own routes: Starlette's Mount looks for them, to make the URLs of a mounted app that we wrap."""
        return getattr(self.app, "routes", [])

    def _met(self, scope: Scope) -> Iterator[type[Exchange]] | None:
        """Return what makes exchanges of a scope; None for a type that we pass by.

        Where a framework makes a middleware for each route (Litestar, Starlette's Route) they are known as one by the
        app that they are in: each with quotas and connections of its own would admit as many times as many.
        """
        if not self._kinds and scope["type"] in ("http", "websocket"):
            host = scope.get("app")
            if host is not None and not self._engine.started:
                self._join(host)
            self._kinds = {
                "websocket": repeat(WebSocketExchange),
                "http": cycle((Exchange,) * (SAMPLE - 1) + (TimedExchange,)),
            }
        return self._kinds.get(scope["type"])

    def _join(self, host: object) -> None:
        try:
            self._engine = joined(self._engine, host)
        except Exception as error:  # noqa: BLE001 - as in begin: options of a site may not be comparable
            self._engine.failed("join", error)
        self._engine.owners.add(self)

    async def _pass_by(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._lifespan(scope, receive, send)
        return await self.app(scope, receive, send)

    def stats(self) -> dict[str, Any]:
        """Return what became of the hits of this process, and what our own steps cost; see README, "Operating it"."""
        return self._engine.stats()

    def close(self) -> bool:
        """Deliver what is left and stop the background threads. Only needed where no lifespan events come."""
        return self._engine.stop()

    def _is_excluded(self, scope: Scope) -> bool:
        """Tell whether a path is passed by: as the app's routes are written, without the root_path it is mounted at."""
        settings, path, root = self.settings, scope.get("path", ""), (scope.get("root_path") or "").rstrip("/")
        if root and f"{path}/".startswith(f"{root}/"):  # some servers and proxies take it off themselves
            path = path[len(root) :] or "/"
        return path.startswith(settings.exclude) or bool(settings.include and not path.startswith(settings.include))

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start before the app says that it has started, stop before it says that it has stopped.

        An app that knows no lifespan raises; started by then, we have the salts before the first request comes. One
        that ends without a farewell is stopped as well.
        """
        span = _Span(self._engine)
        spans = (*(one for one in _around.get() if not one.ends), span)
        _around.set(spans)
        await self._run_in_thread("start", self._engine.start)

        async def receive_noted() -> Message:
            message = await receive()
            span.ends = span.ends or message["type"] == "lifespan.shutdown"
            return message

        async def send_when_done(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await self._run_in_thread("start", self._engine.wait, STARTUP_PATIENCE)
            elif message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                span.ends = span.ended = True
                await self._stop(spans)
            await send(message)

        try:
            await self.app(scope, receive_noted, send_when_done)
        except Exception:
            await self._stop_unsaid(spans)
            raise
        await self._stop_unsaid(spans)

    async def _stop_unsaid(self, spans: Sequence[_Span]) -> None:
        if not spans[-1].ended:
            await self._stop(spans)

    async def _stop(self, spans: Iterable[_Span]) -> None:
        """Stop the engine of each lifespan that ends: those further out stop with us, not after us."""
        engines = [span.engine for span in spans if span.ends]
        if not engines:
            return
        await self._run_in_thread("stop", stop_all, engines)
        try:
            for engine in engines:
                await engine.hang_up()
        except Exception as error:  # noqa: BLE001 - as in begin
            self._engine.failed("stop", error)

    async def _run_in_thread(self, where: str, act: Callable[..., object], *arguments: object) -> None:
        try:
            await run_in_thread(act, *arguments)
        except Exception as error:  # noqa: BLE001 - as in begin
            self._engine.failed(where, error)


def writable(scope: Scope) -> Scope:
    """Return a scope, or a copy of one that takes nothing: what the app writes there is not missed further out."""
    try:
        scope[SCOPE_KEY] = True
        del scope[SCOPE_KEY]
    except Exception:  # noqa: BLE001 - whatever it says
        return {**scope}
    return scope


def begin(kind: type[Exchange], engine: Engine, scope: Scope, receive: Receive, send: Send) -> Exchange | None:
    """Identify and decide, without I/O. None when we failed: then the app is served as if we were not there."""
    try:
        exchange = kind(engine, scope, receive, send)
        exchange.decide(scope)
    except Exception as error:  # noqa: BLE001 - our own bug must never cost the host a request
        engine.failed("identify and decide", error)
        return None
    return exchange


async def begin_strictly(
    kind: type[Exchange], engine: Engine, scope: Scope, receive: Receive, send: Send
) -> Exchange | None:
    """As `begin`, in strict mode: one round trip to the server that counts the requests of all workers."""
    try:
        exchange = kind(engine, scope, receive, send)
        exchange.decide(scope, await engine.ask_strict_quotas(exchange.visitor))
    except Exception as error:  # noqa: BLE001 - as above
        engine.failed("identify and decide", error)
        return None
    return exchange


def was_cancelled(error: BaseException) -> bool:
    """Tell whether an error is the event loop's way to end a task, asyncio's or trio's."""
    if isinstance(error, CancelledError):
        return True
    try:
        kind = get_cancelled_exc_class()
        return isinstance(error, kind) or (isinstance(error, BaseExceptionGroup) and error.split(kind)[1] is None)
    except Exception:  # noqa: BLE001 - no event loop that anyio knows, or a group that cannot be split
        return False
