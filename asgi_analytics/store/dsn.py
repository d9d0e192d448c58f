"""Connection strings: which database one names, and ours made of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ..columns import escape
from ..errors import ConfigurationError

OPTION = "Option dsn (or ASGI_ANALYTICS_DSN, DATABASE_URL)"
DEFAULT_PORT = "5432"
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
MAX_ADDRESS = 1_000  # characters
NOWHERE = {"host": "/dev/null/none", "hostaddr": ""}  # not connected to, only asked what libpq reads elsewhere
# Where a DSN, its service file or PGOPTIONS sets them, they may end what a session does before it has our settings.
TIME_OUTS = (
    "statement_timeout",
    "lock_timeout",
    "transaction_timeout",
    "idle_session_timeout",
    "idle_in_transaction_session_timeout",
)


def database_key(dsn: str) -> str:
    """Return the key of a database, a digest of host, port and name, without user and password.

    What the DSN leaves open is taken from where libpq takes it: the environment and the service file.
    Raises ConfigurationError, which does not repeat the text: it may hold a password.
    """
    return blake2b("\0".join(_parts(dsn).values()).encode(), digest_size=16).hexdigest()


def database_address(dsn: str) -> str:
    """Return the same in clear, for people; raises ConfigurationError."""
    parts = [f"{name}={escape(value)}" for name, value in _parts(dsn).items() if value]
    return " ".join(parts)[:MAX_ADDRESS]


def _parts(dsn: str) -> dict[str, str]:
    try:
        given = conninfo_to_dict(dsn)
        if "://" in str(given.get("dbname")):  # a nested URL: not parsed here, so its password would be shown
            raise ValueError
    except (psycopg.Error, ValueError):
        raise ConfigurationError(
            f"{OPTION} is not a connection string of Postgres; allowed: "
            '"postgresql://user:password@host/database" or "host=… dbname=…", with parameters that libpq knows, '
            "such as sslmode=require; in a URL a password is percent-encoded, its spaces (%20) and % (%25) too."
        ) from None
    _check_values(given)
    parts = {**_defaults(), **given}
    if parts.get("port") == DEFAULT_PORT:
        del parts["port"]  # given or not, it is the same database
    host = str(parts.get("host", ""))
    parts["host"] = host if host.startswith("/") else host.lower()
    parts["dbname"] = parts.get("dbname") or parts.get("user", "")
    named = ["host", "hostaddr", "port", "dbname"]
    if not {"host", "port", "dbname"} <= given.keys() and "service" in parts:
        named.append("service")  # its file gives the rest
    return {name: str(parts.get(name, "")) for name in named}


def _check_values(given: Mapping[str, Any]) -> None:
    """Refuse what libpq refuses only when it connects. Values are not repeated: a wrong one may be of a password."""
    ports = filter(None, str(given.get("port") or "").split(","))
    if not all(port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16 for port in ports):
        raise ConfigurationError(f"{OPTION} has a port that is not allowed; allowed: 1 to 65535.")
    if given.get("sslmode") not in (None, "", *SSL_MODES):
        raise ConfigurationError(f"{OPTION} has an sslmode that is not allowed; allowed: {', '.join(SSL_MODES)}.")


def _defaults() -> dict[str, str]:
    """Return what libpq takes where a connection string says nothing."""
    try:
        found = pq.Conninfo.get_defaults()
    except MemoryError:  # the driver's error for an unreadable service file: connecting will report it
        return {"service": os.environ.get("PGSERVICE", "")}
    return _texts(found)


def conninfo(dsn: str, ours: Mapping[str, Any]) -> str:
    """Return a connection string with our settings where the DSN has none, and our encoding whatever it has."""
    given = conninfo_to_dict(dsn)
    added = {name: value for name, value in ours.items() if name not in given}
    if options := _options(dsn):
        hasty = [name for name in TIME_OUTS if name in options.replace("-", "_")]
        added["options"] = " ".join([options, *(f"-c {name}=0" for name in hasty)])
    return make_conninfo(dsn, **{**added, "client_encoding": "UTF8"})


def _options(dsn: str) -> str:
    """Return the options that libpq takes for a session, be they of the DSN, its service file or the environment."""
    nowhere = pq.PGconn.connect_start(make_conninfo(dsn, **NOWHERE).encode())
    try:
        return _texts(nowhere.info).get("options", "")
    finally:
        nowhere.finish()


def _texts(found: Iterable[pq.ConninfoOption]) -> dict[str, str]:
    return {one.keyword.decode(): one.val.decode("utf-8", "replace") for one in found if one.val}
