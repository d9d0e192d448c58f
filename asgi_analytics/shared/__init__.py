"""Quotas that workers and hosts share: through Postgres, or through Valkey or Redis."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import ConfigurationError
from ..protocols import SharedQuotas
from ..settings import Settings
from .postgres import PostgresQuotas


def open_quotas(settings: Settings, dsn: Callable[[], str]) -> SharedQuotas:
    """Return what quotas are shared through. Opens no connection."""
    if settings.shared is None:
        return PostgresQuotas(dsn, settings.site)
    from .valkey import ValkeyQuotas

    return ValkeyQuotas(settings.shared, settings.site, settings.shared_timeout)


def check(settings: Settings) -> None:
    """Raises ConfigurationError where the option `shared` needs a library that is not installed."""
    if settings.shared is None:
        return
    try:
        import valkey  # noqa: F401
    except ImportError:
        raise ConfigurationError("Option shared needs the Valkey client: pip install 'asgi-analytics[redis]'.") from None
