"""Quotas shared through Postgres: the default. A short transaction per exchange, on a connection of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple
from math import inf
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from ..clock import SystemClock
from ..columns import one_line
from ..decide.lending import LIFE, believed, size_of
from ..errors import EmbeddedPostgresError, SharedUnavailable, StoreError, StoreUnavailable
from ..protocols import Ask, Exchanged, Grant
from ..store import queries
from ..store.connection import Connected, ServerSession, connecting
from ..store.dsn import conninfo
from .bounds import MAX_SCARCE

TIDY = 240  # exchanges between two clean-ups
AWAY = 20.0  # seconds without the last connection there is: writers, which may wait for it, pause for less
STAY = 600.0  # seconds between two of these
FULL = "The server has no connection left: hits go first"
CLIENT: dict[str, Any] = {
    "application_name": "asgi-analytics quotas",
    "connect_timeout": 2,
    "tcp_user_timeout": 2000,
}
# Short time-outs: a late answer is of no use, for the limits hold per worker meanwhile.
SESSION = {
    "default_transaction_isolation": "read committed",
    "statement_timeout": "2s",
    "lock_timeout": "1s",
    "synchronous_commit": "off",
    "jit": "off",
    "idle_in_transaction_session_timeout": "3s",
    "idle_session_timeout": "0",
}


class PostgresQuotas(Connected):
    """SharedQuotas over the tables counters and workers. Not thread-safe: one thread owns it."""

    def __init__(self, dsn: Callable[[], str], site: str = "default") -> None:
        self._dsn = dsn
        self._site = site
        self._queries = queries.load("quotas")
        self._exchanges = 0
        self._session: ServerSession | None = None  # of the open connection
        self._away_until = -inf  # monotonic seconds

    def exchange(self, worker: bytes, revision: int, asks: Sequence[Ask]) -> Exchanged:
        """Take in what a worker used, and lend. Raises SharedUnavailable."""
        with self._wrapped():
            if self._exchanges % TIDY == 0:
                self._make_room()
            answer = self._exchange(worker, revision, asks)
            self._exchanges += 1
            if self._exchanges % TIDY == 0:
                with contextlib.suppress(psycopg.Error):  # the exchange is committed: a retry would report usage twice
                    self._execute("forget")
        return answer

    def leave(self, worker: bytes) -> None:
        """Forget a worker. Raises SharedUnavailable."""
        with self._wrapped():
            self._execute("leave", {"worker": UUID(bytes=worker)})

    def _exchange(self, worker: bytes, revision: int, asks: Sequence[Ask]) -> Exchanged:
        parameters = {
            "worker": UUID(bytes=worker),
            "site": self._site,
            "revision": revision,
            "life": LIFE,
            "most": MAX_SCARCE,
            "asks": Jsonb([[ask.counter.hex(), *astuple(ask)[1:]] for ask in asks]),
        }
        try:
            found = self._execute("exchange", parameters)
        except psycopg.errors.NullValueNotAllowed:  # one of the counters was cleared away meanwhile: it is made again
            found = self._execute("exchange", parameters)
        answer, ages = found.fetchone() or ({}, {})
        told = [(bytes.fromhex(name), stage, ages[name]) for name, stage, _ in answer["scarce"]]
        scarce = {name: stage for name, stage, age in told if age < believed(size_of(name))}
        newest = max((known for *_, known in answer["scarce"]), default=revision)
        grants = [Grant(bytes.fromhex(name), *told) for name, *told in answer["grants"]]
        return Exchanged(answer["workers"], newest, scarce, grants)

    def _execute(self, name: str, parameters: Mapping[str, Any] | None = None) -> psycopg.Cursor:
        with self._open().statement() as connection:
            return connection.execute(self._queries[name], parameters)

    def _make_room(self) -> None:
        """Let go of the last connection there is, for a while, now and then. Raises StoreUnavailable then."""
        if (now := SystemClock.monotonic()) < self._away_until + STAY:
            return
        with contextlib.suppress(psycopg.ProgrammingError):  # such as without the right to ask
            if self._execute("is_full").fetchone() == (True,):
                self._away_until = now + AWAY
                raise StoreUnavailable(FULL)

    def _open(self) -> ServerSession:
        if self._session is None or self._connection is None or self._connection.closed:
            if SystemClock.monotonic() < self._away_until:
                raise StoreUnavailable(FULL)
            with connecting():
                self._connection = psycopg.connect(conninfo(self._dsn(), CLIENT), autocommit=True)
            self._session = ServerSession(self._connection, SESSION)
        return self._session

    @contextlib.contextmanager
    def _wrapped(self) -> Iterator[None]:
        try:
            yield
        except (psycopg.Error, StoreError, EmbeddedPostgresError, OSError) as error:
            with contextlib.suppress(psycopg.Error):
                self.close()
            raise SharedUnavailable(one_line(error)) from error
