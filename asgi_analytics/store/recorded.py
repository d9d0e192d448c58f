"""Recorded hits, read again in the order of their time, and rewritten in batches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from ..model import ClaimStatus
from . import queries
from .command_session import command_errors, opened
from .connection import ServerSession

FETCHED = 5_000  # rows per round trip
SESSIONS = 1_000  # in a batch
NOT_YET = UUID(int=0)
# Hits may be many, and are read in one transaction.
PATIENT = {"statement_timeout": "0", "idle_in_transaction_session_timeout": "0", "transaction_timeout": "0"}
PATIENCE = 86_400.0  # seconds
COPY_JUDGED = "COPY judged (id, time, score, level, bot_class) FROM STDIN"


class RecordedHit(NamedTuple):  # made for every row of a period
    """A hit as it was recorded, as far as verdicts depend on it."""

    id: UUID
    time: datetime
    seconds: float  # since 1970
    clock: float | None  # monotonic seconds of the worker; None in rows from before it was recorded
    fingerprint: UUID | None  # None: the visitor asked not to be told apart
    network: UUID | None
    session_id: UUID | None
    method: str
    path: str
    route: str | None
    status: int | None
    first_byte_us: int | None  # None: the app never began to answer
    page_view: bool
    from_inside: bool
    outdated: bool
    outcome: str
    refused: bool  # in observe mode too, where the app answered all the same
    score: int
    level: int
    bot_class: str | None
    crawler: str | None
    browser: str | None
    policy: str | None
    exempt: bool  # behaviour was not judged
    banned: bool  # refused by a ruling: no policy changes that
    claim: str | None  # what was found of a crawler's claim (model.ClaimStatus); None: nothing is claimed
    inputs: int | None = None  # see asgi_analytics.inputs; None in rows from before they were recorded
    numbers: int | None = None
    path_inputs: int | None = None  # None: the path is the one that was asked for

    @property
    def verified(self) -> bool:
        """Whether the crawler's claim was checked and holds."""
        return self.claim == ClaimStatus.VERIFIED


class Judged(NamedTuple):
    """A hit's key and its new verdict."""

    id: UUID
    time: datetime
    score: int
    level: int
    bot_class: str | None


class Recorded:
    """Hits of one period and site, over two connections: one reads by a cursor, the other writes."""

    def __init__(self, dsn: str, since: float, until: float, site: str | None = None) -> None:
        self._dsn = dsn
        self._period = {"since": _moment(since), "until": _moment(until), "site": site}
        self._queries = queries.load("recorded")

    def hits(self) -> Iterator[RecordedHit]:
        """Yield the hits by time through a server-side cursor: memory holds FETCHED of them. Raises StoreError."""
        with command_errors(), opened(self._dsn, PATIENCE, **PATIENT) as session:
            try:
                with (
                    session.transaction() as connection,
                    connection.cursor("recorded", row_factory=class_row(RecordedHit)) as cursor,
                ):
                    cursor.itersize = FETCHED
                    for hit in cursor.execute(self._queries["recorded_hits"], self._period):  # noqa: UP028 - it would close the cursor first
                        yield hit
            except psycopg.Error as error:
                if not isinstance(error.__context__, GeneratorExit):  # else the reader stopped, and the server died
                    raise

    def count(self) -> int:
        """Return the number of hits."""
        row = self._one("count_recorded")
        return row[0] if row else 0

    def policy(self) -> tuple[str, Mapping[str, Any]] | None:
        """Return version and settings of the policy in force at the site; None where none was recorded."""
        row = self._one("policy_in_force")
        return None if row is None else (row[0], row[1])

    def sites(self) -> list[str]:
        """Return the names of sites that have visitors, twenty at most."""
        return [site for (site,) in self._all("sites")]

    def _one(self, query: str) -> tuple[Any, ...] | None:
        return next(iter(self._all(query)), None)

    def _all(self, query: str) -> list[tuple[Any, ...]]:
        with command_errors(), opened(self._dsn, PATIENCE, **PATIENT) as session, session.transaction() as connection:
            return connection.execute(self._queries[query], self._period).fetchall()


class Rewriter:
    """Writes new verdicts; each call is one transaction."""

    def __init__(self, session: ServerSession, version: str) -> None:
        self._session = session
        self._version = version
        self._queries = queries.load("recorded")

    def remember(self, settings: Mapping[str, Any]) -> None:
        """Store the policy that the version stands for. Raises StoreError."""
        with command_errors(), self._session.statement() as connection:
            remember_policy(connection, self._version, settings)

    def note(self, until: float, site: str) -> None:
        """Note that hits get another version than that in force when they were judged. Raises StoreError."""
        given = {"version": self._version, "until": _moment(until), "site": site}
        with command_errors(), self._session.statement() as connection:
            connection.execute(self._queries["note_reclassified"], given)

    def hits(self, rows: Sequence[Judged]) -> int:
        """Rewrite hits and return how many were; rows that retention dropped meanwhile are none. Raises StoreError."""
        times = [row.time for row in rows]
        bounds = {"version": self._version, "first": min(times), "last": max(times)}
        with command_errors(), self._session.transaction() as connection, connection.cursor() as cursor:
            cursor.execute(self._queries["create_judged"])
            with cursor.copy(COPY_JUDGED) as copy:
                for row in rows:
                    copy.write_row(row)
            rewritten = cursor.execute(self._queries["rewrite_hits"], bounds).rowcount
            if self._session.is_pooled:  # other programs get the session next
                cursor.execute(self._queries["drop_judged"])
        return rewritten

    def sessions(self, since: float, until: float, site: str | None = None) -> Iterator[tuple[int, int]]:
        """Rewrite sessions batch by batch; yields (looked at, rewritten). One with hits of other versions stays."""
        given = {"since": _moment(since), "until": _moment(until), "site": site, "version": self._version}
        after = NOT_YET
        while True:
            with command_errors(), self._session.transaction() as connection:
                asked = {**given, "after": after, "most": SESSIONS}
                ids = [row[0] for row in connection.execute(self._queries["lock_sessions"], asked)]
                rewritten = connection.execute(self._queries["rewrite_sessions"], {**given, "ids": ids}).rowcount
            if not ids:
                return
            after = ids[-1]
            yield len(ids), rewritten


@contextlib.contextmanager
def rewriter(dsn: str, version: str) -> Iterator[Rewriter]:
    """Open a connection for writing. Raises StoreUnavailable, StoreMisconfigured."""
    with opened(dsn, PATIENCE, **PATIENT) as session:
        yield Rewriter(session, version)


def remember_policy(
    connection: psycopg.Connection, version: str, settings: Mapping[str, Any], in_force: bool = False
) -> None:
    """Store a policy under its version; `in_force` where live traffic is judged by it from now on."""
    given = {"version": version, "settings": Jsonb(dict(settings)), "in_force": in_force}
    connection.execute(queries.load("recorded")["remember_policy"], given)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
