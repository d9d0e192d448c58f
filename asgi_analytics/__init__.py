"""One line around any ASGI app: every request identified, judged, answered and stored exactly once in Postgres."""

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
