"""Rows on trial: moved in transactions that are rolled back, to tell which of them the database does not take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar
from uuid import UUID

import psycopg

from ..batch import HIT, Batch, Frames, Refused
from ..columns import escape
from ..errors import RowRejected, StoreMisconfigured, StoreUnavailable
from . import queries
from .doubt import field
from .fold import TRY_EACH_HIT, TURNED_AWAY, Fold, by_kind
from .sqlstates import is_forbidden, is_poison

FEW = 20  # about how many rows of a batch are tried as a sample
T = TypeVar("T")


class Trials:
    """Tries rows. `begin` opens a transaction that has the temporary tables of a fold, and is rolled back."""

    def __init__(self, fold: Fold, begin: Callable[[], AbstractContextManager[psycopg.Connection]]) -> None:
        self._fold = fold
        self._begin = begin

    def refuses(self, batch: Batch, others: Batch | None) -> bool:
        """Tell whether a batch of one row is refused by a schema that takes a test row.

        An operator's rule may forbid just the test row: then a sample of those of `others` that are of the same kind
        decides. Raises StoreMisconfigured if the schema takes no rows: then all must wait.
        """
        if self.accepts(batch.frames, batch.columns):
            return False
        self._check_schema(batch.frames[0].kind, others)
        return True

    def refused_hits(self, batch: Batch) -> Mapping[int, Refused]:
        """Return which hits of a batch their table refuses one by one, by index; none where there is more to it.

        Raises StoreMisconfigured likewise.
        """
        found = self._turned_away(batch)
        if len(found) == batch.frames.count_of(HIT):  # rather the schema is at fault
            return {}
        if found:
            self._check_schema(HIT, batch)
        return found

    def slow_row(self, batch: Batch) -> int | None:
        """Return the index of the one row that makes a batch too slow, None where it is not one row."""
        frames = batch.frames
        return slow_row(len(frames), lambda first, last: self.accepts(frames[first:last], batch.columns, in_time=True))

    def accepts(self, frames: Frames, columns: Mapping[bytes, Sequence[str]], in_time: bool = False) -> bool:
        """Tell whether rows would get in; `in_time`: within a twentieth of statement_timeout."""
        try:
            with self._begin() as connection:
                if in_time:
                    connection.execute(queries.load("writer")["hurry"])
                self._fold.move(connection, by_kind(frames), columns, UUID(int=0))
        except RowRejected:
            return False
        except StoreUnavailable as error:
            if in_time and isinstance(error.__cause__, psycopg.errors.QueryCanceled):
                return False
            raise
        return True

    def _check_schema(self, kind: bytes, others: Batch | None) -> None:
        try:
            with self._begin() as connection:
                connection.execute(queries.load("writer")["probe"])
        except RowRejected as error:
            if others is None or not is_forbidden(error) or not self._accepts_some(kind, others):
                raise StoreMisconfigured(f"The schema takes no rows any more, was it changed? {error}") from error

    def _accepts_some(self, kind: bytes, batch: Batch) -> bool:
        """Tell whether one of a sample of the rows of a kind would get in."""
        few = sample([place for place, one in enumerate(batch.frames) if one.kind == kind])
        return any(self.accepts(batch.frames[place : place + 1], batch.columns) for place in few)

    def _turned_away(self, batch: Batch) -> Mapping[int, Refused]:
        rows, names, none = by_kind(batch.frames), batch.columns.get(HIT, ()), dict[int, Refused]()
        if not rows[HIT] or "id" not in names:
            return none
        try:
            with self._begin() as connection:
                self._fold.move(connection, rows, batch.columns, UUID(int=0), TRY_EACH_HIT)
                found = connection.execute(TURNED_AWAY).fetchall()
        except (RowRejected, StoreMisconfigured):  # by another table, or while it is read; or we may run no such block
            return none
        if not all(is_poison(state, rule, inside) for _, state, _, rule, inside in found):
            return none
        why = {number.bytes: Refused(HIT, escape(told), state) for number, state, told, *_ in found}
        place = list(names).index("id")
        ids = [field(row, place) for row in rows[HIT]]
        return {index: why[one] for index, one in zip(batch.frames.places(HIT), ids, strict=True) if one in why}


def slow_row(count: int, gets_in: Callable[[int, int], bool]) -> int | None:
    """Return the index of the one of `count` rows that keeps the rest from getting in, by bisection; None if not one.

    `gets_in` tries the rows of a half-open range. If the server is slow for all of them, two tries show it.
    """
    first, last = 0, count
    while last - first > 1:
        middle = (first + last) // 2
        if gets_in(first, middle):
            first = middle
        elif gets_in(middle, last):
            last = middle
        else:
            return None
    return None if gets_in(first, last) else first


def sample(rows: Sequence[T]) -> Sequence[T]:
    """Return about FEW of some rows, evenly spread."""
    return rows[:: len(rows) // FEW + 1]
