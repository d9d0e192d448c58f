"""One line around any ASGI app: every request identified, judged, answered and stored exactly once in Postgres."""

from __future__ import annotations

from .decide.behaviour import Site
from .decide.signal import Signal
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
