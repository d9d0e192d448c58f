"""AnalyticsMiddleware: options in, and the way of one request from top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import cycle, repeat
from typing import Any, Unpack

from .database import resolve_dsn
from .engine import Engine, stop_all
from .exchange.beginning import begin, begin_strictly, writable
from .exchange.coercion import text
from .exchange.http import SCOPE_KEY, Exchange
from .exchange.outcome import outcome_of
from .exchange.timed import TimedExchange
from .exchange.websocket import WebSocketExchange
from .joining import joined
from .overhead import SAMPLE
from .protocols import ASGIApp, Message, Receive, Scope, Send
from .settings import Options, Settings
from .threads import end_threads, run_in_thread

__all__ = ["ASGIApp", "AnalyticsMiddleware", "Message", "Receive", "Scope", "Send"]


@dataclass(slots=True)
class _Lifespan:
    """The lifespan of an app that runs."""

    engine: Engine
    has_begun: bool = False  # the app has said whether it has started
    is_ending: bool = False  # the server has asked for it, or the app has said so
    is_over: bool = False  # the app has said so: nothing of ours may follow, for granian then stops the event loop


_lifespans: ContextVar[tuple[_Lifespan, ...]] = ContextVar("asgi_analytics_lifespans", default=())
STARTUP_PATIENCE = 2.0  # seconds that start-up waits for the salts that all workers share


class AnalyticsMiddleware:
    """Wraps an ASGI app: identifies, judges, answers for and records every request.

    help(asgi_analytics.Options) explains the options. Raises ConfigurationError for an unknown or wrong one.
    """

    def __init__(self, app: ASGIApp, **options: Unpack[Options]) -> None:
        self.app = app
        self.settings = Settings.build(**options)
        self._engine = Engine(self.settings, resolve_dsn(self.settings.dsn))
        self._engine.owners.add(self)
        self._filters = bool(self.settings.include or self.settings.exclude)
        self._enforce = self.settings.mode == "enforce"
        self._exchanges: dict[str, Iterator[type[Exchange]]] = {}  # by type of scope; filled by the first request

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
            await exchange.finish(outcome_of(error, send))
            raise
        finally:
            scope.pop(SCOPE_KEY, None)
        if not exchange.recorded:
            await exchange.finish()

    def stats(self) -> dict[str, Any]:
        """Return counters of this process and the cost of our own steps; README.md, "Operating it", names each."""
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
            if app is not None and not self._engine.started:
                self._join(app)
            self._exchanges = {
                "websocket": repeat(WebSocketExchange),
                "http": cycle((Exchange,) * (SAMPLE - 1) + (TimedExchange,)),
            }
        return self._exchanges.get(scope["type"])

    def _join(self, app: object) -> None:
        try:
            self._engine = joined(self._engine, app)
        except Exception as error:  # noqa: BLE001 - as in begin: options of a site may not be comparable
            self._engine.failed("join", error)
        self._engine.owners.add(self)

    def _is_excluded(self, scope: Scope) -> bool:
        """Tell whether a path is not analysed. Options name paths as routes do, without the root_path of a mount."""
        settings, path, root = self.settings, text(scope.get("path")), text(scope.get("root_path")).rstrip("/")
        if root and f"{path}/".startswith(f"{root}/"):  # some servers and proxies take it off themselves
            path = path[len(root) :] or "/"
        return path.startswith(settings.exclude) or bool(settings.include and not path.startswith(settings.include))

    async def _pass_by(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._lifespan(scope, receive, send)
        return await self.app(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start before the app says that it has started, stop before it says that it has stopped.

        We start even if the app then raises, as one without lifespan support does: so the salts are there before the
        first request. At shutdown an app may return or raise without sending a message: then we stop there.
        """
        lifespan = _Lifespan(self._engine)
        around = _lifespans.get()
        lifespans = (*(one for one in around if not one.is_ending), lifespan)
        _lifespans.set(lifespans)
        await self._run_in_thread("start", self._engine.start)

        async def receive_and_note() -> Message:
            message = await receive()
            lifespan.is_ending = lifespan.is_ending or message["type"] == "lifespan.shutdown"
            return message

        async def send_when_ready(message: Message) -> None:
            lifespan.has_begun = True
            if message["type"] == "lifespan.startup.complete":
                await self._run_in_thread("start", self._engine.wait, STARTUP_PATIENCE)
            elif message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                lifespan.is_ending = lifespan.is_over = True
                await self._stop(lifespans)
            await send(message)

        try:
            await self.app(scope, receive_and_note, send_when_ready)
        except Exception:
            await self._end_unannounced(lifespans)
            raise
        else:
            await self._end_unannounced(lifespans)
        finally:
            _lifespans.set(around)  # for a task that outlives the app, such as one that runs apps in turn
            end_threads()

    async def _end_unannounced(self, lifespans: Sequence[_Lifespan]) -> None:
        lifespan = lifespans[-1]
        if not lifespan.is_over:
            await self._stop(lifespans)
        if not (lifespan.has_begun or lifespan.is_ending):  # it has no lifespan, and is served now
            await self._run_in_thread("start", lifespan.engine.wait, STARTUP_PATIENCE)

    async def _stop(self, lifespans: Iterable[_Lifespan]) -> None:
        """Stop the engines of all nested lifespans that are ending at once, so that their time-outs do not add up."""
        engines = [lifespan.engine for lifespan in lifespans if lifespan.is_ending]
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
