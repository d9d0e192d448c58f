"""One line around any ASGI app: every request identified, judged, answered and stored exactly once in Postgres.

AnalyticsMiddleware is the line; Options explains its keyword arguments; asgi_analytics.decide what counts as evidence.
In an app, beyond what README.md says:

- The scope is the server's own, so outer layers see what the app writes there. Only `state["analytics"]` is added,
  unless the app has something of its own by that name; an immutable `state` is replaced by a copy for the app.
- Where a command of the framework starts the app, as `quart run` does: `app.asgi_app =
  AnalyticsMiddleware(app.asgi_app, …)`; for `litestar run` the same with `app.asgi_handler`, which gets no lifespan
  events. NiceGUI's `app` has `add_middleware`. Starlette, FastAPI and Litestar tell the `route` of a hit; elsewhere a
  hook can, such as `process_view` in Django: `request.scope["path_template"] = request.resolver_match.route`.
- An answer that the app leaves unfinished, mostly because its visitor has left, is a hit with the outcome "aborted" and
  the status that was sent, if any; if the app failed, it is an "error". One that the app ends although its visitor has
  left, or its server refuses the end, is "complete", as with Falcon, or Starlette with a BaseHTTPMiddleware inside. A
  stream that is open when its worker is killed has no row; gunicorn kills its own ASGI worker (`-k asgi`) after
  `--graceful-timeout`.
- Of several middlewares around one request, the outermost handles it. Those of one app that are made per route
  (Litestar's `middleware=[…]`, Starlette's `Route(middleware=…)`) share one engine if their options are equal.
- Without lifespan events (Django, Daphne) the first request starts everything; what is left where SIGTERM ends the
  process, as it ends uvicorn, waits for the next start. Visitors who come before Postgres has given the salts are known
  to that worker only, for one session (`provisional`).
- Frozen between requests (AWS Lambda and the like), a hit may wait until the process is used again, or be lost with its
  disk: call `middleware.close()` before each invocation returns, which delivers what is waiting (some 50 ms, mostly for
  connecting); the next request starts everything again.
- If one virtual machine is resumed twice, both copies of a running worker deliver the same journal, and each loses a
  part: start the workers after resuming.
- An app that nothing refers to any more delivers and ends within about a second.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # for who reads types it is True; `typing` would be loaded for it
if TYPE_CHECKING:
    from .decide.signal import Signal
    from .decide.site import Site
    from .errors import (
        AnalyticsError,
        ConfigurationError,
        DatabaseNotConfigured,
        EmbeddedPostgresError,
        JournalError,
        MigrationError,
        StoreError,
    )
    from .facts import Actor, Finding, ThrottleLevel
    from .middleware import AnalyticsMiddleware
    from .model import Agent, Analytics, ClaimStatus, Decision, Place, Verification
    from .settings import Options, Privacy

__version__ = "0.1.0"

__all__ = [
    "Actor",
    "Agent",
    "Analytics",
    "AnalyticsError",
    "AnalyticsMiddleware",
    "ClaimStatus",
    "ConfigurationError",
    "DatabaseNotConfigured",
    "Decision",
    "EmbeddedPostgresError",
    "Finding",
    "JournalError",
    "MigrationError",
    "Options",
    "Place",
    "Privacy",
    "Signal",
    "Site",
    "StoreError",
    "ThrottleLevel",
    "Verification",
]

_MODULES = {  # of those that are no errors
    "Actor": "facts",
    "Agent": "model",
    "Analytics": "model",
    "AnalyticsMiddleware": "middleware",
    "ClaimStatus": "model",
    "Decision": "model",
    "Finding": "facts",
    "Options": "settings",
    "Place": "model",
    "Privacy": "settings",
    "Signal": "decide.signal",
    "Site": "decide.site",
    "ThrottleLevel": "facts",
    "Verification": "model",
}


def __getattr__(name: str) -> object:
    """Load what is asked for: half a second of modules is no business of a command that has yet to heed Ctrl-C."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f".{_MODULES.get(name, 'errors')}", __name__), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
