"""How far each journal is committed: read, locked by whoever moves its rows, and moved on with them."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg

from ..batch import Batch
from ..clock import SystemClock, uuid7
from ..errors import StoreMisconfigured, StoreUnavailable
from . import queries
from .doubt import Doubts

Found = tuple[tuple[int, int], UUID | None]  # segment and offset; since when the journal is in doubt, None: it is not


class Positions:
    """The rows of analytics.positions, over whatever connection it is given. Raises psycopg.Error."""

    def __init__(self) -> None:
        self.doubts = Doubts()
        self.own: set[bytes] = set()  # journals of this process
        self._queries = queries.load("writer")

    def read(self, connection: psycopg.Connection, journal: bytes, end: tuple[int, int] | None) -> Found:
        """Return how far a journal is committed, and since when it is in doubt; registers a new one."""
        host = socket.gethostname().encode("utf-8", "replace").decode()[:200]  # a host name may be any bytes
        now = UUID(bytes=uuid7(SystemClock.time_ns()))
        parameters: dict[str, Any] = {"journal": UUID(bytes=journal), "host": host, "now": now}
        connection.execute(self._queries["register_journal"], parameters)
        row = connection.execute(self._queries["read_position"], parameters).fetchone()
        segment, offset, since, moved = row or (0, 0, now, False)
        is_beyond = end is not None and (segment, offset) > end
        is_reset = moved and since is None and (segment, offset) == (0, 0)
        if is_beyond or is_reset or self.doubts.went_back(journal, (segment, offset)):
            segment, offset, since = (0, 0, now) if is_beyond else (segment, offset, now)
            parameters |= {"segment": segment, "position": offset}
            connection.execute(self._queries["doubt_position"], parameters)
        return (segment, offset), since

    def note(self, journal: bytes, found: Found, own: bool) -> tuple[int, int]:
        """Note what was read, once it is committed, and return the position; `own`: of a journal of this process."""
        position, since = found
        self.doubts.see(journal, None if since is None else since.bytes)
        self.doubts.at(journal, position)
        if own:
            self.own.add(journal)
        return position

    def lock(self, connection: psycopg.Connection, batch: Batch) -> Batch:
        """Wait for a transaction of this journal that a lost connection left open; return what it left of the batch.

        It may have moved only a part: the batch was cut anew, when the journal had grown. Raises StoreUnavailable where
        the position is another than it must be.
        """
        row = connection.execute(self._queries["lock_position"], {"journal": UUID(bytes=batch.journal)}).fetchone()
        if row is None:
            raise StoreUnavailable("The journal's position row is gone; registering it again.")
        position = (row[0], row[1])
        if self.doubts.went_back(batch.journal, position):
            # After a fail-over that lost the last commits, behind a pooler that has kept our connection.
            raise StoreUnavailable("The position of a journal went back; reading it again.")
        if position <= (batch.segment, batch.frames[0].start):
            return batch
        if position > (batch.segment, batch.end):
            raise StoreUnavailable("The position of a journal went further than what was sent; reading it again.")
        return replace(batch, frames=batch.after(position))

    def advance(
        self, connection: psycopg.Connection, batch: Batch, rows: int, quarantined: int, settled: bool = False
    ) -> None:
        """Move a position on behind a batch; `settled`: it ends the doubt. Raises StoreMisconfigured if it stays."""
        parameters = {
            "journal": UUID(bytes=batch.journal),
            "segment": batch.segment,
            "position": batch.end,
            "rows": rows,
            "quarantined": quarantined,
            "settled": settled,
        }
        advanced = connection.execute(self._queries["advance_position"], parameters)
        if advanced.fetchone() != (batch.segment, batch.end):  # else the batch would be sent again
            raise StoreMisconfigured("The table positions takes no change: is there a trigger or a rule on it?")

    def keep(self, connection: psycopg.Connection) -> None:
        """Keep those of this process for as long as it lives."""
        connection.execute(self._queries["keep_positions"], {"journals": [UUID(bytes=one) for one in self.own]})
