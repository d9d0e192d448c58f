"""The lifespan of an app: we start before it says that it has started, and stop before it says that it has stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from .engine import Engine, stop_all
from .protocols import ASGIApp, Message, Receive, Scope, Send
from .threads import end_threads, run_in_thread

STARTUP_PATIENCE = 2.0  # seconds that start-up waits for the salts that all workers share


@dataclass(slots=True)
class _Lifespan:
    """The lifespan of an app that runs."""

    engine: Engine
    has_begun: bool = False  # the app has said whether it has started
    is_ending: bool = False  # the server has asked for it, or the app has said so
    is_over: bool = False  # the app has said so: nothing of ours may follow, for granian then stops the event loop


_lifespans: ContextVar[tuple[_Lifespan, ...]] = ContextVar("asgi_analytics_lifespans", default=())


async def run_lifespan(app: ASGIApp, engine: Engine, scope: Scope, receive: Receive, send: Send) -> None:
    """Run an app's lifespan, and start and stop the engine with it.

    The engine starts even if the app then raises, as an app without lifespan support does: the salts are to be known
    before the first request. An app may end without a message of shutdown: the engine stops when it returns or raises.
    """
    lifespan = _Lifespan(engine)
    around = _lifespans.get()
    lifespans = (*(one for one in around if not one.is_ending), lifespan)
    _lifespans.set(lifespans)
    await _try_in_thread(engine, "start", engine.start)

    async def receive_and_note() -> Message:
        message = await receive()
        lifespan.is_ending = lifespan.is_ending or message["type"] == "lifespan.shutdown"
        return message

    async def send_when_ready(message: Message) -> None:
        lifespan.has_begun = True
        if message["type"] == "lifespan.startup.complete":
            await _try_in_thread(engine, "start", engine.wait, STARTUP_PATIENCE)
        elif message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
            lifespan.is_ending = lifespan.is_over = True
            await _stop(lifespans)
        await send(message)

    try:
        await app(scope, receive_and_note, send_when_ready)
    except Exception:
        await _end_unannounced(lifespans)
        raise
    else:
        await _end_unannounced(lifespans)
    finally:
        _lifespans.set(around)  # for a task that outlives the app, such as one that runs apps in turn
        end_threads()


async def _end_unannounced(lifespans: Sequence[_Lifespan]) -> None:
    lifespan = lifespans[-1]
    if not lifespan.is_over:
        await _stop(lifespans)
    if not (lifespan.has_begun or lifespan.is_ending):  # it has no lifespan, and is served now
        await _try_in_thread(lifespan.engine, "start", lifespan.engine.wait, STARTUP_PATIENCE)


async def _stop(lifespans: Sequence[_Lifespan]) -> None:
    """Stop the engines of all nested lifespans that are ending at once, so that their time-outs do not add up."""
    engines = [lifespan.engine for lifespan in lifespans if lifespan.is_ending]
    if not engines:
        return
    own = lifespans[-1].engine
    await _try_in_thread(own, "stop", stop_all, engines)
    try:
        for engine in engines:
            await engine.hang_up()
    except Exception as error:  # noqa: BLE001 - as below
        own.failed("stop", error)


async def _try_in_thread(engine: Engine, where: str, act: Callable[..., object], *arguments: object) -> None:
    """Call a function in a thread. Our own bug must never cost the host its lifespan: it is reported."""
    try:
        await run_in_thread(act, *arguments)
    except Exception as error:  # noqa: BLE001 - see above
        engine.failed(where, error)
