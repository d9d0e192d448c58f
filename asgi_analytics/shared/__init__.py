"""Quotas that workers and hosts share: through Postgres, or through Valkey or Redis."""

from __future__ import annotations

import os
from collections.abc import Callable

from ..errors import ConfigurationError
from ..protocols import Clock, SharedQuotas, StrictQuotas
from ..settings import CHECKS, Settings
from .postgres import PostgresQuotas


def resolve_shared(option: str | None) -> str | None:
    """Return the option, else ASGI_ANALYTICS_SHARED, else None for Postgres. Raises ConfigurationError."""
    if option is not None:
        return option
    found: str | None = CHECKS["shared"]("ASGI_ANALYTICS_SHARED", os.environ.get("ASGI_ANALYTICS_SHARED") or None)
    return found


def open_quotas(settings: Settings, dsn: Callable[[], str]) -> SharedQuotas:
    """Return what quotas are shared through; opens no connection."""
    if settings.shared is None:
        return PostgresQuotas(dsn, settings.site)
    from .valkey import ValkeyQuotas

    return ValkeyQuotas(settings.shared, settings.site, settings.shared_timeout)


def open_strict(settings: Settings, clock: Clock, is_lost: Callable[[], bool]) -> StrictQuotas | None:
    """Return the quotas that each request asks in strict mode; None in lease mode.

    Raises ConfigurationError without the client library, and for a URL that it cannot read.
    """
    if settings.shared is None:
        return None
    server_of(settings.shared)
    from .strict import ValkeyStrict

    if settings.shared_mode != "strict":
        return None
    return ValkeyStrict(settings.shared, settings.shared_timeout, clock, is_lost)


def server_of(url: str, *, asked: bool = False) -> str:
    """Return the address of a Valkey or Redis; `asked`: only once it has answered as it answers workers.

    Raises ConfigurationError without the client library, and for a URL that it cannot read; SharedUnavailable.
    """
    try:
        from . import valkey
    except ImportError:
        raise ConfigurationError(
            "Option shared needs the client library: pip install 'asgi-analytics[redis]'."
        ) from None
    address = valkey.where(url)
    if asked:
        valkey.ask_once(url)
    return address
