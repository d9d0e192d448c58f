"""AnalyticsMiddleware: options in, and the way of one request from top to bottom."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Unpack

from anyio import to_thread

from .clock import uuid7
from .decide.verdict import admit, begin_session, count_session
from .engine import Engine, resolve_dsn
from .exchange import Exchange, TimedExchange, WebSocketExchange
from .model import Analytics
from .settings import Options, Settings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

KEY = "analytics"  # in scope["state"]
INSIDE = "asgi_analytics"  # in the scope handed on: somebody further out has this request already
STARTUP_PATIENCE = 2.0  # seconds that start-up waits for the salts that all workers share


class AnalyticsMiddleware:
    """Wraps an ASGI app: identifies, judges, answers for and records every request.

    Raises ConfigurationError for an unknown or wrong option. README.md, "Options", explains each.
    """

    def __init__(self, app: ASGIApp, **options: Unpack[Options]) -> None:
        self.app = app
        self.settings = Settings.build(**options)
        self._engine = Engine(self.settings, resolve_dsn(self.settings.dsn))
        self._filters = bool(self.settings.include or self.settings.exclude)
        self._enforce = self.settings.mode == "enforce"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The way of a request: identify, decide, then the app or a refusal, respond, record."""
        kind = scope["type"]
        if kind == "lifespan":
            return await self._lifespan(scope, receive, send)
        if (kind != "http" and kind != "websocket") or INSIDE in scope or (self._filters and self._is_excluded(scope)):
            return await self.app(scope, receive, send)
        exchange = self._begin(scope, receive, send)
        if exchange is None:
            return await self.app(scope, receive, send)
        if exchange.decision.refused and self._enforce:
            return await exchange.refuse()
        try:
            await self.app(exchange.scope, exchange.receive, exchange.send)
        except CancelledError:
            exchange.end("aborted")
            raise
        except BaseException:
            exchange.end("error")
            raise
        exchange.end()

    def stats(self) -> dict[str, Any]:
        """Return what became of the hits of this process, and what our own steps cost; see README, "Operating it"."""
        return self._engine.stats()

    def close(self) -> bool:
        """Deliver what is left and stop the background threads. Only needed where no lifespan events come."""
        return self._engine.stop()

    def _begin(self, scope: Scope, receive: Receive, send: Send) -> Exchange | None:
        """Identify and decide, without I/O. None when we failed: then the app is served as if we were not there."""
        engine = self._engine
        try:
            now, time_ns = engine.monotonic(), engine.clock.time_ns()
            if not engine.started:
                engine.start()
            headers = dict(scope.get("headers") or ())
            visitor, began = engine.identifier.visitor(scope, headers, now, time_ns)
            if began:
                begin_session(visitor.actor, now) if visitor.cookie is None else count_session(visitor.actor, now)
            if visitor.learnt is not None:
                engine.take_in(visitor, began, now, time_ns)
            decision = admit(visitor.actor, visitor.network, engine.policy, now)
            if decision.refused or decision.previous_level is not None:
                decision.id = uuid7(time_ns)
                engine.state.level_changed(visitor)
            inner = _with_findings(scope, Analytics(visitor, decision))
            make: type[Exchange] = TimedExchange if engine.steps.are_due() else Exchange
            if scope["type"] == "websocket":
                make = WebSocketExchange
            return make(engine, inner, headers, receive, send, visitor, decision, now, time_ns)
        except Exception as error:  # noqa: BLE001 - our own bug must never cost the host a request
            engine.failed("identify and decide", error)
            return None

    def _is_excluded(self, scope: Scope) -> bool:
        settings = self.settings
        path = scope.get("path", "")
        return path.startswith(settings.exclude) or bool(settings.include and not path.startswith(settings.include))

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start before the app says that it has started, stop before it says that it has stopped.

        An app that knows no lifespan raises; started by then, we have the salts before the first request comes.
        """
        await self._aside("start", self._engine.start)

        async def send_when_done(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await self._aside("start", self._engine.wait, STARTUP_PATIENCE)
            elif message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await self._aside("stop", self._engine.stop)
            await send(message)

        await self.app(scope, receive, send_when_done)

    async def _aside(self, where: str, act: Callable[..., object], *arguments: object) -> None:
        try:
            await to_thread.run_sync(act, *arguments)
        except Exception as error:  # noqa: BLE001 - as in _begin
            self._engine.failed(where, error)


def _with_findings(scope: Scope, findings: Analytics) -> Scope:
    """Return a copy of the scope with our findings in its state; the scope itself stays as it was.

    The state dict is shared with whoever is further out, as request.state is meant to be. Where our key is in it
    already, a server shares one dict among requests: then this request gets a copy.
    """
    inner = dict(scope)
    state = scope.get("state")
    if state is None:
        inner["state"] = {KEY: findings}
    elif KEY in state:
        inner["state"] = {**state, KEY: findings}
    else:
        state[KEY] = findings
    inner[INSIDE] = True
    return inner
