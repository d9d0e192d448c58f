"""How an exchange begins: identified and decided. Whatever fails here, the app is served as if we were not there."""

from __future__ import annotations

from ..engine import Engine
from ..model import Decision
from ..protocols import Receive, Scope, Send, StrictAnswer
from .coercion import coerced
from .http import SCOPE_KEY, Exchange


def begin(kind: type[Exchange], engine: Engine, scope: Scope, receive: Receive, send: Send) -> Exchange | None:
    """Identify and decide, without I/O; None when that failed."""
    try:
        # Compiled code calls a class directly that it knows.
        known = kind is Exchange
        exchange = Exchange(engine, scope, receive, send) if known else kind(engine, scope, receive, send)
        exchange.decide(scope)
    except Exception as error:  # noqa: BLE001 - our own bug must never cost the host a request
        engine.failed("identify and decide", error)
        return _begin_converted(kind, engine, scope, receive, send)
    return exchange


async def begin_strictly(
    kind: type[Exchange], engine: Engine, scope: Scope, receive: Receive, send: Send
) -> Exchange | None:
    """As `begin`, in strict mode: one round trip to the server that counts the requests of all workers."""
    try:
        exchange = kind(engine, scope, receive, send)
        exchange.decide(scope, None if exchange.is_banned(scope) else await _asked(engine, exchange, scope))
    except Exception as error:  # noqa: BLE001 - as above
        engine.failed("identify and decide", error)
        return _begin_converted(kind, engine, scope, receive, send)
    return exchange


async def _asked(engine: Engine, exchange: Exchange, scope: Scope) -> StrictAnswer | None:
    try:
        return await engine.ask_strict_quotas(exchange.visitor, exchange.started_at)
    except BaseException as error:
        if not isinstance(error, Exception):  # the visitor left meanwhile: it was a request all the same
            actor = exchange.visitor.actor
            exchange.scope, exchange.decision = scope, Decision(actor.throttle.level, actor.score)
            exchange.end("aborted")
        raise


def _begin_converted(
    kind: type[Exchange], engine: Engine, scope: Scope, receive: Receive, send: Send
) -> Exchange | None:
    """As `begin`, by the scope converted to the types of ASGI and by the quotas of this worker."""
    try:
        readable = coerced(scope)
        exchange = kind(engine, readable, receive, send)
        exchange.decide(readable)
        exchange.scope = scope
    except Exception:  # noqa: BLE001 - the first error was reported
        return None
    return exchange


def writable(scope: Scope) -> Scope:
    """Return the scope itself, so that outer middlewares see what the app writes there; a copy if it is read-only."""
    try:
        scope[SCOPE_KEY] = True
        del scope[SCOPE_KEY]
    except Exception:  # noqa: BLE001 - whatever a mapping raises that is read-only
        return {**scope}
    return scope
