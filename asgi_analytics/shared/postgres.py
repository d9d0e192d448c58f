"""Quotas shared through Postgres: the default. A short transaction per exchange, on a connection of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from ..columns import one_line
from ..decide.lending import LIFE, believed, size_of
from ..errors import EmbeddedPostgresError, SharedUnavailable, StoreError
from ..protocols import Ask, Exchanged, Grant
from ..store import queries
from ..store.connection import Connected, ServerSession
from ..store.dsn import conninfo
from .bounds import MAX_SCARCE

TIDY = 240  # exchanges between two clean-ups
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
}


class PostgresQuotas(Connected):
    """SharedQuotas over the tables counters and workers. Not thread-safe: one thread owns it."""

    def __init__(self, dsn: Callable[[], str], site: str = "default") -> None:
        self._dsn = dsn
        self._site = site
        self._queries = queries.load("quotas")
        self._exchanges = 0
        self._session: ServerSession | None = None  # of the open connection

    def exchange(self, worker: bytes, revision: int, asks: Sequence[Ask]) -> Exchanged:
        """Take in what a worker used, and lend. Raises SharedUnavailable."""
        with self._wrapped():
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

    def _open(self) -> ServerSession:
        if self._session is None or self._connection is None or self._connection.closed:
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
