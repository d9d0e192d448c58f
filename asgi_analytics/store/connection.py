"""Connections to Postgres, each owned by one thread: which database, with which settings, and how they end."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import psycopg
from psycopg import pq, sql
from psycopg.abc import Buffer
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.datetime import TimestamptzLoader

from ..columns import escape
from ..errors import ConfigurationError, StoreMisconfigured

OPTION = "Option dsn (or ASGI_ANALYTICS_DSN, DATABASE_URL)"
DEFAULT_PORT = "5432"
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
MAX_ADDRESS = 1_000  # characters
# We send and expect UTF-8; SQL_ASCII stores bytes as they come.
ENCODINGS = ("UTF8", "SQL_ASCII")
# The schemas on the search_path, but those where anybody may create functions: there a concat_ws(text, text, text)
# would be preferred to the server's variadic one, and run with our privileges (CVE-2018-1058).
TRUSTED = """
SELECT pg_catalog.string_agg(pg_catalog.quote_ident(kept.nspname), ', ' ORDER BY listed.place)
FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) WITH ORDINALITY AS listed (name, place)
JOIN pg_catalog.pg_namespace AS kept ON kept.nspname = listed.name
WHERE NOT pg_catalog.has_schema_privilege('public', kept.oid, 'CREATE')
    AND NOT pg_catalog.starts_with(kept.nspname, 'pg_')
"""
# What the driver, our queries and our output rely on, whatever role, database or environment set.
READ = {"DateStyle": "ISO", "TimeZone": "UTC", "standard_conforming_strings": "on", "extra_float_digits": "1"}
SET = sql.SQL("pg_catalog.set_config({}, {}, {})")
UTF8 = "create the database with ENCODING 'UTF8' (TEMPLATE template0)"


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
    return {one.keyword.decode(): one.val.decode("utf-8", "replace") for one in found if one.val}


class ServerSession:
    """A server session with our settings: set once, or behind a pooler in each transaction.

    A pooler in transaction mode (PgBouncer, Supavisor, …) may run each transaction in another session, shared with
    other programs: we leave nothing behind there.
    """

    def __init__(self, connection: psycopg.Connection, settings: Mapping[str, str]) -> None:
        """Raises psycopg.Error."""
        self._connection = connection
        self.is_pooled = is_pooled(connection)
        if self.is_pooled:
            connection.prepare_threshold = None
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        path = SET.format("search_path", trusted_path(connection), self.is_pooled)
        self._accepts([path])
        calls = [SET.format(name, value, self.is_pooled) for name, value in {**READ, **settings}.items()]
        if not self._accepts(calls):  # not every platform knows every setting, and none is essential
            calls = [call for call in calls if self._accepts([call])]
        self._settings = _select([*calls, path])

    def _accepts(self, calls: Sequence[sql.Composed]) -> bool:
        try:
            self._connection.execute(_select(calls))
        except (psycopg.errors.InvalidParameterValue, psycopg.errors.UndefinedObject):
            return False
        return True

    @contextlib.contextmanager
    def transaction(self, force_rollback: bool = False) -> Iterator[psycopg.Connection]:
        """Run a block in a transaction with these settings; `force_rollback` still fails where COMMIT would."""
        with self._connection.transaction(force_rollback=force_rollback):
            if self.is_pooled:
                self._connection.execute(self._settings)
            yield self._connection
            if force_rollback:
                self._connection.execute("SET CONSTRAINTS ALL IMMEDIATE")

    @contextlib.contextmanager
    def statement(self) -> Iterator[psycopg.Connection]:
        """Run statements in autocommit; behind a pooler in one transaction, unless one is open."""
        if self.is_pooled and self._connection.info.transaction_status == pq.TransactionStatus.IDLE:
            with self.transaction() as connection:
                yield connection
        else:
            yield self._connection


def local_settings(connection: psycopg.Connection) -> sql.Composed:
    """Return a query that makes the settings our queries rely on, for one transaction."""
    settings = {**READ, "search_path": trusted_path(connection)}
    return _select([SET.format(name, value, True) for name, value in settings.items()])


def _select(calls: Sequence[sql.Composed]) -> sql.Composed:
    return sql.SQL("SELECT ") + sql.SQL(", ").join(calls)


def trusted_path(connection: psycopg.Connection) -> str:
    """Return a search_path on which nobody else's functions or tables shadow the server's or ours.

    pg_temp comes first: on "public, pg_temp", a table in public would shadow our temporary one.
    """
    row = connection.execute(TRUSTED).fetchone()
    return f"pg_temp, {row[0]}" if row and row[0] else "pg_temp"


def is_pooled(connection: psycopg.Connection) -> bool:
    """Tell whether there is a pooler in between: it reports a backend pid of its own, or resets a session after use."""
    row = connection.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()
    if row is None or row[0] != connection.info.backend_pid:
        return True
    connection.execute("SELECT pg_catalog.set_config('asgi_analytics.kept', 'yes', false)")
    row = connection.execute("SELECT pg_catalog.current_setting('asgi_analytics.kept', true)").fetchone()
    return row is None or row[0] != "yes"


class Connected:
    """Holds a connection, once somebody has opened it."""

    _connection: psycopg.Connection | None = None

    def interrupt(self) -> None:
        """Unblock the thread that waits on the connection; callable from another thread."""
        connection = self._connection
        if connection is not None and not connection.closed:
            cut(connection)

    def abandon(self) -> None:
        """In a forked child: close the socket without a message to the server, for the session is the parent's."""
        if self._connection is not None:
            with contextlib.suppress(OSError, psycopg.Error):
                os.close(self._connection.fileno())
            _ABANDONED.append(self._connection)
            self._connection = None

    def close(self) -> None:
        """Close the connection, if any."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def cut(connection: psycopg.Connection) -> None:
    """Unblock the thread that waits on a connection. psycopg's cancel asks the server, which may be what hangs."""
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as wire:
        wire.shutdown(socket.SHUT_RDWR)


def conninfo(dsn: str, ours: Mapping[str, Any]) -> str:
    """Return a connection string with our settings where the DSN has none, and our encoding whatever it has."""
    given = conninfo_to_dict(dsn)
    added = {name: value for name, value in ours.items() if name not in given}
    return make_conninfo(dsn, **{**added, "client_encoding": "UTF8"})


def connect_command(dsn: str, name: str = "asgi-analytics cli") -> psycopg.Connection:
    """Open a connection for a command; a ServerSession adds the settings. Raises psycopg.Error."""
    ours = {"connect_timeout": 5, "application_name": name}
    # Behind a pooler, the next session lacks the statements prepared in this one.
    connection = psycopg.connect(conninfo(dsn, ours), autocommit=True, prepare_threshold=None)
    connection.adapters.register_loader("timestamptz", _ClampedLoader)
    return connection


class _ClampedLoader(TimestamptzLoader):
    """Clamps times to datetime's range: one beyond it, in an operator's row, must not hide all others."""

    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data)
        except psycopg.DataError:
            is_early = bytes(data).startswith(b"-") or bytes(data).endswith(b"BC")
            return (datetime.min if is_early else datetime.max).replace(tzinfo=UTC)


def check_encoding(connection: psycopg.Connection) -> None:
    """Refuse a database whose encoding cannot store all text. Raises StoreMisconfigured."""
    encoding = connection.info.parameter_status("server_encoding") or "UTF8"
    if encoding not in ENCODINGS:
        name = connection.info.dbname
        raise StoreMisconfigured(f"The database {name} has encoding {encoding}, which cannot hold all text: {UTF8}.")


# A connection inherited over fork must never be finalised here: its Terminate message would end the parent's session.
_ABANDONED: list[psycopg.Connection] = []
