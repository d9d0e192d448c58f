"""Quotas that workers and hosts share: through Postgres, or through Valkey or Redis."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import ConfigurationError
from ..protocols import Clock, SharedQuotas, StrictQuotas
from ..settings import Settings
from .postgres import PostgresQuotas


def open_quotas(settings: Settings, dsn: Callable[[], str]) -> SharedQuotas:
    """Return what quotas are shared through; opens no connection."""
    if settings.shared is None:
        return PostgresQuotas(dsn, settings.site)
    from .valkey import ValkeyQuotas

    return ValkeyQuotas(settings.shared, settings.site, settings.shared_timeout)


def open_strict(settings: Settings, clock: Clock) -> StrictQuotas | None:
    """Return the quotas that each request asks in strict mode; None in lease mode.

    Raises ConfigurationError without the client library, and for a URL that it cannot read.
    """
    if settings.shared is None:
        return None
    server_of(settings.shared)
    from .strict import ValkeyStrict

    return ValkeyStrict(settings.shared, settings.shared_timeout, clock) if settings.shared_mode == "strict" else None


def server_of(url: str, *, asked: bool = False) -> str:
    """Return the address of a Valkey or Redis; `asked`: only once it has answered a ping.

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
        valkey.ping(url)
    return address
