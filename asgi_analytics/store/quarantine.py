"""Rows that Postgres refused once: read, tried again, deleted. One transaction for each row that goes back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import psycopg

from ..batch import Batch, Frame, Frames
from ..errors import RowRejected, StoreMisconfigured
from .command_session import PATIENCE, CommandQueries, command_errors, opened
from .connection import ServerSession
from .postgres import KINDS, PostgresStore

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
        self._store = PostgresStore(lambda: dsn, migrate=False, patience=PATIENCE)

    def close(self) -> None:
        """Close the connection that `retry` has opened."""
        self._store.close()

    def rows(self, ids: Sequence[int] | None, most: int, after: int = -1) -> list[Quarantined]:
        """Return the rows of these ids, None: of all, oldest first, at most so many, behind the row `after`."""
        return self._rows(Quarantined, "quarantined", {"ids": _listed(ids), "most": most, "after": after})

    def retry(self, row: Quarantined) -> bool:
        """Move a row to where it belongs; False when it is gone meanwhile, or stored already.

        Raises RowRejected where it is refused again, such as for a column that its table no longer has.
        """
        kind, end = _OF_KIND[row.kind], row.position + len(row.raw)
        frames = Frames([Frame(kind, row.raw, row.position, end)])
        batch = Batch(row.journal.bytes, row.segment, {kind: tuple(row.columns)}, frames, end)
        if not self._store.is_connected:
            self._store.connect()
        try:
            return self._store.readmit(row.id, self._queries["take"], batch)
        except StoreMisconfigured as error:
            if isinstance(error.__cause__, psycopg.errors.UndefinedColumn):
                raise RowRejected(str(error)) from error
            raise

    def purge(self, ids: Sequence[int] | None, older: timedelta | None) -> int:
        """Delete rows for good: of these ids, and older than that; returns how many."""
        with command_errors(), self._session.statement() as connection:
            return connection.execute(self._queries["purge"], {"ids": _listed(ids), "older": older}).rowcount


@contextlib.contextmanager
def connect(dsn: str) -> Iterator[Quarantine]:
    """Open the connection of the command. Raises StoreUnavailable, StoreMisconfigured."""
    with opened(dsn) as session, contextlib.closing(Quarantine(session, dsn)) as quarantine:
        yield quarantine


def _listed(ids: Sequence[int] | None) -> list[int] | None:
    return None if ids is None else list(ids)
