"""The fold: rows of a batch go into the tables, and what they add up to into sessions, visitors and reputations."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from ..batch import DECISION, HIT, REFUSED, Frames
from ..model import Merged
from ..reputation import ReputationRules
from . import queries, values
from .doubt import field
from .staging import Staging, listed

MAX_POLICIES = 16  # of others, that are kept
# Columns by name: an operator may have added some. Never prepared: the empty plan that an operator's rule makes of it
# (DO INSTEAD NOTHING) would stay in use after the rule is dropped.
_INSERT_HITS = sql.SQL("INSERT INTO analytics.hits ({0}) SELECT {0} FROM staging")
# Each by itself; what is not taken goes into turned_away. (Errors of the class of a time-out end it.)
TRY_EACH_HIT = sql.SQL("""
CREATE TEMP TABLE turned_away (id uuid, state text, told text, rule text, inside boolean) ON COMMIT DROP;
SET CONSTRAINTS ALL IMMEDIATE;
DO $$
DECLARE
    one record;
    rule text;
    context text;
    lines text[];
BEGIN
    FOR one IN SELECT ctid AS place, id FROM pg_temp.staging LOOP
        BEGIN
            INSERT INTO analytics.hits ({0}) SELECT {0} FROM pg_temp.staging WHERE staging.ctid = one.place;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS rule = CONSTRAINT_NAME, context = PG_EXCEPTION_CONTEXT;
            lines := string_to_array(context, E'\\n');  -- the last two are of this block
            context := nullif(array_to_string(lines[1:cardinality(lines) - 2], ' '), '');
            INSERT INTO pg_temp.turned_away VALUES (
                one.id, SQLSTATE, SQLERRM || coalesce(' CONTEXT: ' || context, ''), rule, context IS NOT NULL);
        END;
    END LOOP;
END $$
""")
TURNED_AWAY = "SELECT id, state, told, rule, inside FROM pg_temp.turned_away"
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
        insert: sql.SQL = _INSERT_HITS,
    ) -> list[Merged]:
        """Move rows by kind; returns the merged totals of visitors that other workers have seen too.

        `insert`: takes the hits from staging, with their columns as {0}.
        """
        if decisions := rows[DECISION]:
            self._staging.fill(connection, "decided", columns[DECISION], decisions)
            connection.execute(_INSERT_DECISIONS.format(listed(columns[DECISION])), prepare=False)
        if refused := rows[REFUSED]:
            self._staging.fill(connection, "refused", columns[REFUSED], refused)
        merged = []
        if hits := rows[HIT]:
            self._staging.fill(connection, "staging", columns[HIT], hits)
            merged = self._fold_hits(connection, journal, bool(refused))
            connection.execute(insert.format(listed(columns[HIT])), prepare=False)
        if refused:
            connection.execute(self._queries["fold_refusals"])
        return merged

    def _fold_hits(self, connection: psycopg.Connection, journal: UUID, with_refusals: bool) -> list[Merged]:
        moved = self._settle(connection)
        connection.execute(self._queries["fold_sessions"])
        if with_refusals:
            connection.execute(self._queries["lock_visitors"])
        parameters = {"journal": journal, **self._reputation}
        cursor = connection.execute(self._queries["fold_fingerprints"], parameters)
        totals = [values.merged(row) for row in cursor.fetchall()]
        self._fold_incidents(connection)
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


class Folds:
    """The fold by this worker's policy, and those by the policies of others.

    `rules`: of reputation; `site`: whose visitors are banned where `bans` is set, None: all; `version`: of this
    worker's `policy`, "" where that is not known, of which bot_score, cooldown and session_timeout matter here.
    """

    def __init__(
        self,
        staging: Staging,
        rules: ReputationRules,
        *,
        bans: bool,
        site: str | None,
        version: str,
        policy: Mapping[str, Any],
    ) -> None:
        self._staging = staging
        self._rules = rules
        self._bans = bans
        self._site = site
        self._version = version
        self._policy = policy
        self._others: dict[str, Fold] = {}
        self.own = self._new(policy)

    def of(
        self,
        connection: psycopg.Connection,
        rows: Mapping[bytes, list[bytes]],
        columns: Mapping[bytes, Sequence[str]],
    ) -> Fold:
        """Return the fold by the policy that rows of one policy were judged by; our own where that is not known.

        What is left over, or was set aside, may be of another site, or from before a change.
        """
        version = _policy_of(rows[HIT][0], columns[HIT]) if rows[HIT] else ""
        if version in ("", self._version):
            return self.own
        if version not in self._others:
            with connection.cursor(row_factory=dict_row) as cursor:
                found = cursor.execute(queries.load("fold")["policy"], {"version": version}).fetchone()
            if found is None:
                return self.own
            if len(self._others) >= MAX_POLICIES:
                self._others.clear()
            told = {name: value for name, value in found.items() if value is not None}
            self._others[version] = self._new({**self._policy, **told})
        return self._others[version]

    def _new(self, policy: Mapping[str, Any]) -> Fold:
        judged = values.parameters(self._rules, policy["bot_score"], policy["cooldown"])
        timeout = timedelta(seconds=policy["session_timeout"])
        return Fold(self._staging, {**judged, "site": self._site}, timeout, self._bans)


def _policy_of(row: bytes, columns: Sequence[str]) -> str:
    """Return the version of the policy that a hit was judged by; "" where it has none."""
    if "policy" in columns:
        with contextlib.suppress(struct.error):
            return field(row, list(columns).index("policy")).decode("utf-8", "replace").replace("\0", "")
    return ""
