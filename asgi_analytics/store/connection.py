"""Connections to Postgres, each owned by one thread: with which settings they begin, and how they end."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from math import inf
from typing import Any, TypeVar

import psycopg
from psycopg import pq, sql
from psycopg.abc import Buffer, PQGen
from psycopg.types.datetime import TimestamptzLoader

from ..clock import SystemClock, release_gil
from ..errors import StoreMisconfigured
from .dsn import conninfo

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
# Of connections, where the DSN does not say otherwise: a server that vanished is noticed in half a minute.
PARAMETERS: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30000,
}
# And of its session. A dead client must not keep its locks: its successor waits for its last transaction to end.
WRITER_SETTINGS: dict[str, str] = {
    "default_transaction_isolation": "read committed",  # after a lock wait, see what its holder wrote
    "synchronous_commit": "on",
    "idle_in_transaction_session_timeout": "10s",
    "idle_session_timeout": "0",
    "statement_timeout": "60s",
    "lock_timeout": "10s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30000",
    "client_connection_check_interval": "5s",
    "jit": "off",
}
SINCE_17 = {"transaction_timeout": "0"}  # of PostgreSQL
GRACE = 10.0  # seconds after which a server that should have ended a statement is taken to be frozen
CLOCKS_APART = 30.0  # seconds between this machine and the server, from which on it is said
FORK_PATIENCE = 0.25  # seconds
T = TypeVar("T")


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


@contextlib.contextmanager
def connecting() -> Iterator[None]:
    """Keep other threads from forking for a while: the child would have OpenSSL's locks, held by nobody who is there.

    It could neither connect nor end: libcrypto cleans up at the exit.
    """
    one = object()
    _CONNECTING[id(one)] = one
    try:
        yield
    finally:
        _CONNECTING.pop(id(one), None)


def _wait_for_connecting() -> None:
    """Wait before a fork, not for long: who waits for a server that does not answer is not in OpenSSL."""
    until = SystemClock.monotonic() + FORK_PATIENCE
    while _CONNECTING and SystemClock.monotonic() < until:
        release_gil()


_CONNECTING: dict[int, object] = {}
os.register_at_fork(before=_wait_for_connecting, after_in_child=_CONNECTING.clear)


class BoundedConnection(psycopg.Connection):
    """Waits for each answer for at most `patience` seconds: a frozen server keeps a connection alive for ever."""

    patience = inf

    def wait(self, gen: PQGen[T], *arguments: Any, **named: Any) -> T:
        """Raises psycopg.OperationalError, and closes the connection, if no answer comes in time."""
        return super().wait(gen if self.patience == inf else self._in_time(gen), *arguments, **named)

    def _in_time(self, gen: PQGen[T]) -> PQGen[T]:
        until = SystemClock.monotonic() + self.patience
        try:
            wanted = next(gen)
            while SystemClock.monotonic() < until:
                wanted = gen.send((yield wanted))
        except StopIteration as end:
            answer: T = end.value
            return answer
        self.pgconn.finish()
        raise psycopg.OperationalError(f"no answer within {self.patience:g} s")


def connect_writer(dsn: str, patience: float = inf) -> psycopg.Connection:
    """Open the writer's connection; `writer_session` adds the settings. Raises psycopg.Error."""
    return _connect(dsn, "asgi-analytics writer", patience)


def writer_session(connection: psycopg.Connection) -> ServerSession:
    """Return the session of the writer's connection. Raises psycopg.Error."""
    later = SINCE_17 if connection.info.server_version >= 170_000 else {}
    return ServerSession(connection, {**WRITER_SETTINGS, **later})


def connect_command(dsn: str, name: str = "asgi-analytics cli", patience: float = inf) -> psycopg.Connection:
    """Open a connection for a command; a ServerSession adds the settings. Raises psycopg.Error."""
    connection = _connect(dsn, name, patience)
    connection.prepare_threshold = None  # behind a pooler, the next session lacks the statements prepared in this one
    connection.adapters.register_loader("timestamptz", _ClampedLoader)
    return connection


def _connect(dsn: str, name: str, patience: float) -> psycopg.Connection:
    with connecting():
        connection = BoundedConnection.connect(conninfo(dsn, {**PARAMETERS, "application_name": name}), autocommit=True)
    connection.patience = patience
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
