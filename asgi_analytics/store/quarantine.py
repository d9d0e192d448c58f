"""Rows that Postgres refused once: read, tried again, deleted. One transaction for each row that goes back."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg

from ..batch import DECISION, HIT, REFUSED
from ..errors import RowRejected, StoreMisconfigured
from .commands import CommandQueries, command_errors, opened
from .connection import ServerSession
from .doubt import field
from .postgres import KINDS, PostgresStore

MOST_STORES = 4  # each has a connection
_OF_KIND = {name: kind for kind, name in KINDS.items()}


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A row that was set aside; `raw` is in COPY binary format, empty for the kind "frame", which cannot be read."""

    id: int
    created_at: datetime
    journal: UUID
    segment: int
    position: int
    kind: str  # hit, decision, refusal or frame
    columns: Sequence[str]
    raw: bytes
    size: int  # bytes that were set aside
    sqlstate: str | None
    error: str

    @property
    def readable(self) -> bool:
        """Whether there is a row to try again."""
        return self.kind in _OF_KIND and bool(self.columns)


class Quarantine(CommandQueries):
    """What the command `quarantine` does. Raises StoreUnavailable, StoreMisconfigured."""

    def __init__(self, session: ServerSession, dsn: str) -> None:
        super().__init__(session, "quarantine")
        self._dsn = dsn
        self._stores: dict[str, PostgresStore] = {}  # by the policy that their rows were judged by

    def close(self) -> None:
        """Close the connections that `retry` has opened."""
        for store in self._stores.values():
            store.close()

    def rows(self, ids: Sequence[int] | None, most: int, after: int = -1) -> list[Quarantined]:
        """Return the rows of these ids, None: of all, oldest first, at most so many, behind the row `after`."""
        return self._rows(Quarantined, "quarantined", {"ids": _listed(ids), "most": most, "after": after})

    def retry(self, row: Quarantined) -> bool:
        """Move a row to where it belongs; False when somebody else did, or purged it, meanwhile.

        Raises RowRejected where it is refused again, such as for a column that its table no longer has.
        """
        kind = _OF_KIND[row.kind]
        rows = {one: [row.raw] if one == kind else [] for one in (HIT, DECISION, REFUSED)}
        store = self._store_of(row)
        if not store.is_connected:
            store.connect()
        try:
            return store.readmit(row.id, self._queries["take"], rows, {kind: tuple(row.columns)}, row.journal)
        except StoreMisconfigured as error:
            if isinstance(error.__cause__, psycopg.errors.UndefinedColumn):
                raise RowRejected(str(error)) from error
            raise

    def _store_of(self, row: Quarantined) -> PostgresStore:
        """Return one that takes a row in as the app's own does: what it calls a bot, and how long sessions wait."""
        version = _policy_of(row)
        if version not in self._stores:
            if len(self._stores) >= MOST_STORES:
                self.close()
                self._stores.clear()
            found = self._all("policy", {"version": version})
            bot_score, timeout = found[0] if found else (None, None)
            options: dict[str, Any] = {} if bot_score is None else {"bot_score": int(bot_score)}
            options |= {} if timeout is None else {"session_timeout": timeout}
            self._stores[version] = PostgresStore(lambda: self._dsn, migrate=False, **options)
        return self._stores[version]

    def purge(self, ids: Sequence[int] | None, older: timedelta | None) -> int:
        """Delete rows for good: of these ids, and older than that; returns how many."""
        with command_errors(), self._session.statement() as connection:
            return connection.execute(self._queries["purge"], {"ids": _listed(ids), "older": older}).rowcount


@contextlib.contextmanager
def connect(dsn: str) -> Iterator[Quarantine]:
    """Open the connection of the command. Raises StoreUnavailable, StoreMisconfigured."""
    with opened(dsn) as session, contextlib.closing(Quarantine(session, dsn)) as quarantine:
        yield quarantine


def _policy_of(row: Quarantined) -> str:
    """Return the version of the policy that a hit was judged by; "" where it has none."""
    if "policy" not in row.columns:
        return ""
    with contextlib.suppress(struct.error):
        return field(row.raw, list(row.columns).index("policy")).decode("utf-8", "replace").replace("\0", "")
    return ""


def _listed(ids: Sequence[int] | None) -> list[int] | None:
    return None if ids is None else list(ids)
