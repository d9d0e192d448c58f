"""What the command line reads from the store: one connection, named queries, typed rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg

from .command_session import PATIENCE, CommandQueries, command_errors, opened
from .connection import ServerSession

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
LATEST = datetime.max.replace(tzinfo=UTC) - DAY  # so that a day more can be told


@dataclass(frozen=True, slots=True)
class HitRow:
    """One hit as `tail` shows it; `fingerprint` is None for a visitor who asked not to be told apart."""

    id: UUID
    time: datetime
    method: str
    path: str
    status: int | None
    country: str | None
    agent: str | None
    fingerprint: UUID | None
    level: int
    score: int
    outcome: str
    duration_us: int = 0  # to the last body message
    decision_id: UUID | None = None
    site: str = ""

    @property
    def ended(self) -> datetime:
        """When the answer was over; of one that took longer than a day, a day after it began."""
        return min(self.time, LATEST) + max(timedelta(0), min(timedelta(microseconds=self.duration_us), DAY))


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """One decision with the request it was made on; the parts of the request are None where that is not stored."""

    id: UUID
    time: datetime
    refused: bool
    enforced: bool
    level: int
    level_before: int | None
    score: int
    retry_after: int  # seconds
    detail: Mapping[str, Any]
    fingerprint: UUID | None
    method: str | None
    path: str | None
    status: int | None
    outcome: str | None
    country: str | None
    agent: str | None
    os: str | None
    counted: int = 0  # refusals of this visitor in the same minute that have no row of their own


@dataclass(frozen=True, slots=True)
class Totals:
    """What all writers together have delivered; `updated_at` is None before the first."""

    written: int
    journals: int
    updated_at: datetime | None
    quarantined: int
    last_error: str | None
    human_sessions: int  # begun today (UTC)


@dataclass(frozen=True, slots=True)
class LastHour:
    """Hits of the last hour, by throttle level; `last_minute` is part of `hits`, those `ahead` of now are not.

    Nor are refusals past the rate, which are `counted`.
    """

    hits: int
    last_minute: int
    refused: int
    normal: int
    warning: int
    severe: int
    blocked: int
    counted: int
    ahead: int
    furthest: datetime | None  # the latest of those ahead


@dataclass(frozen=True, slots=True)
class Position:
    """How far one journal is delivered; `age` in seconds since it last moved."""

    journal: UUID
    host: str
    segment: int
    position: int
    rows: int
    quarantined: int
    age: float


@dataclass(frozen=True, slots=True)
class ClassSummary:
    """The sessions of one bot class; the levels count sessions by the highest level they reached."""

    class_: str
    visitors: int
    sessions: int
    hits: int
    refusals: int
    warning: int
    severe: int
    blocked: int


class Reader(CommandQueries):
    """Reads over one session."""

    def __init__(self, session: ServerSession) -> None:
        super().__init__(session, "reading")

    def hits(self, most: int, site: str | None = None, since: datetime = EPOCH) -> list[HitRow]:
        """Return the newest hits, oldest first: at most `most`, and those before `since` that ended after it."""
        rows = self._rows(HitRow, "latest_hits", {"most": most, "site": site, "since": since})
        return rows[::-1]

    def decision(self, decision: UUID) -> DecisionRow | None:
        """Return a decision, None when it is not (or not yet) stored."""
        return next(iter(self._rows(DecisionRow, "decision", {"id": decision})), None)

    def totals(self) -> Totals:
        """Return what was delivered in all."""
        return self._rows(Totals, "totals")[0]

    def last_hour(self) -> LastHour:
        """Return the counts of the last hour."""
        return self._rows(LastHour, "last_hour")[0]

    def positions(self, journals: Sequence[UUID], most: int) -> list[Position]:
        """Return how far these journals are delivered, and `most` others: those that moved last."""
        return self._rows(Position, "positions", {"journals": list(journals), "most": most + len(journals)})

    def summary(self, since: datetime, site: str) -> list[ClassSummary]:
        """Return what came to a site since a moment, by bot class; who may not be told apart is not in it."""
        return [ClassSummary(*row) for row in self._all("summary", {"since": since, "site": site})]

    def count_since(self, since: datetime, site: str) -> int:
        """Return the number of hits of a site since a moment."""
        return self._count("count_since", {"since": since, "site": site})

    def count_answered(self, since: datetime, site: str) -> int:
        """Return the number of hits of a site since a moment, and of the refusals that are counts."""
        return self._count("count_answered", {"since": since, "site": site})

    def quarantined(self) -> int:
        """Return the number of rows that were set aside."""
        return self._count("count_quarantined")

    def identity(self) -> str:
        """Return the identity of the database, the same under any host name; "" where it may not be read."""
        with (
            command_errors(),
            contextlib.suppress(psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedFunction),
            self._session.statement() as connection,
        ):
            row = connection.execute(self._queries["identity"]).fetchone()
            return str(row[0]) if row else ""
        return ""

    def _count(self, query: str, parameters: Mapping[str, Any] | None = None) -> int:
        return next((count for (count,) in self._all(query, parameters)), 0)


@contextlib.contextmanager
def connect(dsn: str, patience: float = PATIENCE) -> Iterator[Reader]:
    """Open a connection for reading; see `opened`. Raises StoreUnavailable, StoreMisconfigured."""
    with opened(dsn, patience) as session:
        yield Reader(session)
