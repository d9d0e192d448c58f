"""What `doctor` checks in a database: in bounded time, whatever hangs; what it writes is rolled back."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from itertools import product

import psycopg

from ..columns import one_line
from ..errors import StoreUnavailable
from . import migrate, partitions, queries
from .command_session import command_errors
from .connection import ServerSession, cut
from .reading import Reader
from .trials import PROBES, SELDOM

PATIENCE = 15.0  # seconds that all questions together may take
LIMITS = {"statement_timeout": "5s", "lock_timeout": "2s"}
# Errors of connecting come without SQLSTATE; if the server speaks another language, its own text must do.
REFUSALS = (
    (r"password authentication failed", "the password, or the user, is wrong, or it has expired: check the DSN"),
    (r"no password supplied", "the DSN needs a password"),
    (r"no pg_hba.conf entry|authentication failed", "pg_hba.conf lets this user not in from here: add a line for it"),
    (r"is not permitted to log in", "ALTER ROLE … LOGIN"),
    (r"role .* does not exist", "there is no such user: CREATE ROLE … LOGIN, or check the DSN"),
    (r"database .* does not exist", "there is no such database: CREATE DATABASE, or check the DSN"),
    (r"permission denied for database", "GRANT CONNECT ON DATABASE to this user"),
    (r"too many (connections|clients)|connection slots", "the connection limit is reached: raise it, or close others"),
    (r"is not currently accepting connections", "ALTER DATABASE … ALLOW_CONNECTIONS true"),
    (r"starting up|not yet accepting|recovery mode|shutting down", "the server comes up or goes down: try again"),
    (r"timeout expired|timed out", "nobody answers there: a firewall, a frozen server, or a wrong host"),
    (r"negotiation: |expected authentication request", "what answers there is no Postgres: check the port in the DSN"),
    (r"Connection refused|No such file", "no server runs there: start it, or check host and port in the DSN"),
    (r"resolve|[Nn]ame or service not known", "the host name is not known: check the DSN"),
)
OTHERWISE = "check the DSN (--dsn, ASGI_ANALYTICS_DSN, DATABASE_URL) and the server"
STATES = (
    ("53100", "disk", "the server's disk is full: free space there; hits wait in the journals"),
    ("53", "resources", "the server is out of resources, see its log"),
    ("25006", "database", "it is read-only: name the primary in the DSN, or SET default_transaction_read_only = off"),
    ("55P03", "lock", "somebody holds a lock on our tables"),
    ("57014", "database", "it took more than 5 seconds: is the server overloaded, or a lock held?"),
    ("42501", "privileges", "grant what a writer needs, or use the owner"),
    ("42", "schema", "it was changed: restore tables and columns as `migrate` makes them"),
    ("22", "schema", "a column or constraint was changed so that rows of ours do not fit: restore it"),
    ("23", "schema", "a constraint was added that rows of ours do not meet: drop it"),
)

NO_PARTITION = (
    "partitions",
    "the app, or `asgi-analytics migrate`, makes those that nothing forbids; else make them, or a default one",
)


@dataclass(frozen=True, slots=True)
class WriteProblem:
    """Why a test write failed."""

    subject: str
    text: str
    advice: str


@dataclass(frozen=True, slots=True)
class Server:
    """Facts about a server; `number` as in server_version_num."""

    version: str
    number: int
    username: str
    database: str
    encoding: str
    read_only: bool
    standby: bool
    now: float  # wall seconds
    may_create: bool
    may_stage: bool
    may_use: bool


def advice_on(refusal: str) -> str:
    """Return advice on an error of connecting with this text."""
    return next((advice for pattern, advice in REFUSALS if re.search(pattern, refusal)), OTHERWISE)


class HealthReader(Reader):
    """A Reader that also finds what would hinder a writer."""

    def server(self) -> Server:
        """Return the facts about the server and what we may do there."""
        return self._rows(Server, "server")[0]

    def schema_state(self) -> migrate.SchemaState:
        """Return how the schema compares with this version's migrations."""
        with command_errors(), self._session.statement() as connection:
            return migrate.schema_state(connection)

    def missing_objects(self) -> list[str]:
        """Return the tables, views and functions of a migrated schema that are not there."""
        return [text for (text,) in self._all("missing_objects")]

    def missing_privileges(self) -> list[str]:
        """Return what a writer needs and this user may not do, in words."""
        return [text for (text,) in self._all("missing_privileges")]

    def missing_partitions(self) -> list[date]:
        """Return which of today and tomorrow have no partition; their hits go to the default one."""
        with command_errors(), self._session.statement() as connection:
            return partitions.missing_partitions(connection)

    def lock_holders(self) -> list[str]:
        """Return who keeps rows out of our tables by a lock for longer than a moment, in words."""
        found = dict(self._all("lock_holders", {}))
        if found:  # a partition is made, or what was vacuumed cut off, within a moment
            self._all("moment")
            found = {lock: told for lock, told in self._all("lock_holders", {}) if lock in found}
        return list(found.values())

    def write_problem(self) -> WriteProblem | None:
        """Write rows as large as ours get, and roll back; None if they fit."""
        try:
            with self._session.transaction(force_rollback=True) as connection:
                connection.execute(queries.load("writer")["probe"])
                for table, number in product(SELDOM, PROBES):
                    connection.execute(queries.load("writer")[f"probe_{table}"], {"number": number})
        except psycopg.Error as error:
            state, text = error.sqlstate or "", one_line(error)
            subject, advice = next(
                ((subject, advice) for start, subject, advice in STATES if state.startswith(start)),
                ("database", "see the server's log"),
            )
            if isinstance(error, psycopg.errors.CheckViolation) and not error.diag.constraint_name:
                subject, advice = NO_PARTITION
            return WriteProblem(subject, f"a row of ours is refused: {text} (SQLSTATE {state or 'none'})", advice)
        return None


@contextlib.contextmanager
def examine(dsn: str, patience: float = PATIENCE) -> Iterator[HealthReader]:
    """Open a connection that is cut after `patience` seconds. Raises StoreUnavailable, StoreMisconfigured."""
    with command_errors():
        connection = psycopg.connect(
            dsn,
            autocommit=True,
            connect_timeout=min(5, int(patience)),  # whatever the DSN says
            application_name="asgi-analytics doctor",
            client_encoding="UTF8",
            prepare_threshold=None,  # see connect_command
        )
    late = threading.Event()
    watch = threading.Timer(patience, _cut, (connection, late))
    watch.daemon = True
    watch.start()
    try:
        with command_errors():
            session = ServerSession(connection, LIMITS)
        yield HealthReader(session)
    except StoreUnavailable as error:
        if late.is_set():
            raise StoreUnavailable(f"It was connected, and did not answer within {patience:g} s: timed out") from error
        raise
    finally:
        watch.cancel()
        connection.close()


def _cut(connection: psycopg.Connection, late: threading.Event) -> None:
    late.set()
    cut(connection)
