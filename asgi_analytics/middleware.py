"""AnalyticsMiddleware: options in, and the way of one request from top to bottom."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, repeat
from typing import Any, Unpack

from .database import resolve_dsn
from .engine import Engine
from .errors import ConfigurationError
from .exchange.beginning import begin, begin_strictly, writable
from .exchange.coercion import text
from .exchange.http import SCOPE_KEY, Exchange
from .exchange.timed import TimedExchange
from .exchange.websocket import WebSocketExchange
from .joining import joined
from .lifespan import run_lifespan
from .log import log
from .overhead import SAMPLE
from .protocols import ASGIApp, Message, Receive, Scope, Send
from .settings import Options, Settings
from .shared import resolve_shared

__all__ = ["ASGIApp", "AnalyticsMiddleware", "Message", "Receive", "Scope", "Send"]
# A scope has one of these keys where Starlette or Litestar turn errors of the app into answers.
HANDLERS = frozenset(("starlette.exception_handlers", "litestar_app"))
MAX_LAYERS = 100  # middlewares of an app that are looked through


class AnalyticsMiddleware:
    """Wraps an ASGI app: identifies, judges, answers for and records every request.

    help(asgi_analytics.Options) explains the options. Raises ConfigurationError for an unknown or wrong one.
    """

    def __init__(self, app: ASGIApp, **options: Unpack[Options]) -> None:
        self.app = app
        try:
            options["shared"] = resolve_shared(options.get("shared"))
            self.settings = Settings.build(**options)
            self._engine = Engine(self.settings, resolve_dsn(self.settings.dsn))
        except ConfigurationError as error:
            # Starlette builds its middlewares at the first event, and uvicorn then says that it knows no lifespan.
            log.error("AnalyticsMiddleware cannot be built: %s", error)
            raise
        self._engine.owners.add(self)
        self._filters = bool(self.settings.include or self.settings.exclude)
        self._enforce = self.settings.mode == "enforce"
        self._exchanges: dict[str, Iterator[type[Exchange]]] = {}  # by type of scope; filled by the first request
        self._is_handled = False  # whether a framework outside handles errors of the app; set by the first request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The way of a request: identify, decide, then the app or a refusal, respond, record."""
        exchanges = self._exchanges.get(scope["type"]) or self._exchanges_of(scope)
        if exchanges is None or SCOPE_KEY in scope or (self._filters and self._is_excluded(scope)):
            return await self._pass_by(scope, receive, send)
        if scope.__class__ is not dict:
            scope = writable(scope)
        if self._engine.strict is None:
            exchange = begin(next(exchanges), self._engine, scope, receive, send)
        else:
            exchange = await begin_strictly(next(exchanges), self._engine, scope, receive, send)
        if exchange is None:
            return await self.app(scope, receive, send)
        if exchange.decision.refused and self._enforce:
            return None if await exchange.refuse() else await self.app(scope, receive, send)
        # Two calls at once with one scope are one request to us: a scope is of one connection.
        scope[SCOPE_KEY] = True
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except BaseException as error:
            await exchange.fail(error, send, self._is_handled)
            raise
        finally:
            scope.pop(SCOPE_KEY, None)
        if not exchange.recorded:
            await exchange.finish()

    def stats(self) -> dict[str, Any]:
        """Return counters of this process, since it started.

        queued, written, adopted: hits put into the journal; rows delivered; rows delivered for dead workers
        quarantined, retried: rows set aside; transfers that failed and are tried again
        dropped, failures: hits that are not stored, by reason; our own errors, by place
        pending_bytes, lag: bytes that wait, and for how many seconds
        journal_bytes: bytes of all journals in the folder
        connected, error: whether the writer reaches Postgres; its last error
        durability: "memory" where no journal can be written
        memory: what is held
        shared: sharing of quotas: workers that share, whether the server is reached, visitors and networks with leases,
            exchanges and their mean in ms, unanswered requests of strict mode, failures, outages
        crawlers: what is known of them
        steps_us: mean cost of our own steps in microseconds, from one request in 64
        """
        return self._engine.stats()

    def close(self) -> bool:
        """Deliver what is left and stop the background threads; returns whether all was delivered.

        Only needed where no lifespan events come.
        """
        return self._engine.stop()

    @property
    def routes(self) -> Any:
        """The app's own routes, where Starlette's Mount looks for them to make the URLs of a wrapped app."""
        return getattr(self.app, "routes", [])

    def _exchanges_of(self, scope: Scope) -> Iterator[type[Exchange]] | None:
        """Return an iterator over classes of exchanges for this type of scope; None for a type that we pass by.

        Some frameworks make a middleware per route (Litestar, Starlette's Route): those of one app, by scope["app"],
        share an engine, for with quotas of their own they would admit many times as much.
        """
        if not self._exchanges and scope["type"] in ("http", "websocket"):
            app = scope.get("app")
            if app is not None:
                self._join(app, scope)
            self._exchanges = {
                "websocket": repeat(WebSocketExchange),
                "http": cycle((Exchange,) * (SAMPLE - 1) + (TimedExchange,)),
            }
        return self._exchanges.get(scope["type"])

    def _join(self, app: Any, scope: Scope) -> None:
        try:
            if not self._engine.started:
                self._engine = joined(self._engine, app)
            self._is_handled = not (HANDLERS.isdisjoint(scope) or self._is_around(app))
        except Exception as error:  # noqa: BLE001 - as in begin: options of a site may not be comparable
            self._engine.failed("join", error)
        self._engine.owners.add(self)

    def _is_around(self, app: Any) -> bool:
        """Tell whether this is a middleware of the whole Starlette app, whose handlers of errors are inside then."""
        layer = getattr(app, "middleware_stack", None)
        for _ in range(MAX_LAYERS):
            if layer is self:
                return True
            layer = getattr(layer, "app", None)
        return False

    def _is_excluded(self, scope: Scope) -> bool:
        """Tell whether a path is not analysed. Options name paths as routes do, without the root_path of a mount."""
        settings, path, root = self.settings, text(scope.get("path")), text(scope.get("root_path")).rstrip("/")
        if root and f"{path}/".startswith(f"{root}/"):  # some servers and proxies take it off themselves
            path = path[len(root) :] or "/"
        return path.startswith(settings.exclude) or bool(settings.include and not path.startswith(settings.include))

    async def _pass_by(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await run_lifespan(self.app, self._engine, scope, receive, send)
        return await self.app(scope, receive, send)
