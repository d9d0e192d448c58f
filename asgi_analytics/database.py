"""Which database hits go to, and what identifies the journals that are for it."""

from __future__ import annotations

import os

from . import embedded
from .errors import DatabaseNotConfigured
from .record.destination import Destination
from .settings import CHECKS
from .store.dsn import database_address, database_key


def resolve_dsn(dsn: str | None) -> str | None:
    """Return the option, else ASGI_ANALYTICS_DSN, else DATABASE_URL, else None for the embedded Postgres.

    The driver of a SQLAlchemy URL is dropped. Raises DatabaseNotConfigured where no embedded one is installed either,
    ConfigurationError for what is no connection string, without repeating it: it may hold a password.
    """
    given = {"dsn": dsn, **{name: os.environ.get(name) or None for name in ("ASGI_ANALYTICS_DSN", "DATABASE_URL")}}
    for name, text in given.items():
        if text is not None:
            plain: str = CHECKS["dsn"](name, text)
            database_key(plain)
            return plain
    if not embedded.is_available():
        # In full, for docstrings are gone under python -OO.
        raise DatabaseNotConfigured(
            "No database: pass dsn=…, set ASGI_ANALYTICS_DSN or DATABASE_URL, or install asgi-analytics[demo]."
        )
    return None


def destination_of(dsn: str | None) -> Destination:
    """Return what identifies the database of journals; None: the embedded Postgres. Raises ConfigurationError."""
    if dsn:
        return Destination(database_key(dsn), database_address(dsn))
    embedded_name = f"embedded {embedded.default_data_dir()}"
    return Destination(embedded_name, embedded_name)
