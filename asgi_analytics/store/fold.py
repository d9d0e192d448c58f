"""The fold: rows of a batch go into the tables, and what they add up to into sessions, visitors and reputations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from ..batch import DECISION, HIT, REFUSED, Frames
from ..model import Merged
from . import queries, values
from .staging import Staging, listed

# Columns by name: an operator may have added some. Never prepared: the empty plan that an operator's rule makes of it
# (DO INSTEAD NOTHING) would stay in use after the rule is dropped.
_INSERT_HITS = sql.SQL("INSERT INTO analytics.hits ({0}) SELECT {0} FROM staging")
_INSERT_DECISIONS = sql.SQL("INSERT INTO analytics.decisions ({0}) SELECT {0} FROM decided ON CONFLICT DO NOTHING")


def by_kind(frames: Frames) -> dict[bytes, list[bytes]]:
    """Return the rows of frames as `Fold.move` takes them."""
    return {kind: frames.rows(kind) for kind in (HIT, DECISION, REFUSED)}


class Fold:
    """Moves rows within a transaction that has the temporary tables. Raises psycopg.Error.

    `reputation`: as from values.parameters; `timeout`: between two hits of a session.
    """

    def __init__(self, staging: Staging, reputation: Mapping[str, Any], timeout: timedelta, bans: bool) -> None:
        self._staging = staging
        self._reputation = reputation
        self._timeout = timeout
        self._bans = bans
        self._queries = queries.load("fold")

    def move(
        self,
        connection: psycopg.Connection,
        rows: Mapping[bytes, list[bytes]],
        columns: Mapping[bytes, Sequence[str]],
        journal: UUID,
    ) -> list[Merged]:
        """Move rows by kind; returns the merged totals of visitors that other workers have seen too."""
        if decisions := rows[DECISION]:
            self._staging.fill(connection, "decided", columns[DECISION], decisions)
            connection.execute(_INSERT_DECISIONS.format(listed(columns[DECISION])), prepare=False)
        if refused := rows[REFUSED]:
            self._staging.fill(connection, "refused", columns[REFUSED], refused)
        merged = []
        if hits := rows[HIT]:
            self._staging.fill(connection, "staging", columns[HIT], hits)
            merged = self._move_hits(connection, columns[HIT], journal, bool(refused))
        if refused:
            connection.execute(self._queries["fold_refusals"])
        return merged

    def _move_hits(
        self, connection: psycopg.Connection, columns: Sequence[str], journal: UUID, with_refusals: bool
    ) -> list[Merged]:
        moved = self._settle(connection)
        connection.execute(self._queries["fold_sessions"])
        if with_refusals:
            connection.execute(self._queries["lock_visitors"])
        parameters = {"journal": journal, **self._reputation}
        cursor = connection.execute(self._queries["fold_fingerprints"], parameters)
        totals = [values.merged(row) for row in cursor.fetchall()]
        self._fold_incidents(connection)
        connection.execute(_INSERT_HITS.format(listed(columns)), prepare=False)
        learnt = {merged.fingerprint for merged in totals}
        return totals + [values.settled(row) for row in moved if row[0].bytes not in learnt]

    def _settle(self, connection: psycopg.Connection) -> list[tuple[Any, ...]]:
        """Give hits that continue a stored session its id; return fingerprints with the old and the new id."""
        fold, parameters = self._queries, {"timeout": self._timeout}
        unsettled = connection.execute(fold["name_sessions"], parameters).fetchone()
        if not unsettled or not unsettled[0]:
            return []
        moved = connection.execute(fold["settle_sessions"], parameters).fetchall()
        if moved:
            fingerprints, names, ids = map(list, zip(*moved, strict=True))
            connection.execute(fold["move_hits"], {"fingerprints": fingerprints, "names": names, "ids": ids})
        return moved

    def _fold_incidents(self, connection: psycopg.Connection) -> None:
        fold, parameters = self._queries, self._reputation
        connection.execute(fold["notice_incidents"], parameters)
        lowered = [row[0] for row in connection.execute(fold["fold_incidents"], parameters).fetchall()]
        if lowered and self._bans:
            connection.execute(fold["ban_repeaters"], {**parameters, "fingerprints": lowered})
