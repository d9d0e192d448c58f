"""Rows on trial: moved in transactions that are rolled back, to tell which of them the database does not take."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar
from uuid import UUID

import psycopg
from psycopg import sql

from ..batch import HIT, Batch, Frame, Frames, Refused
from ..columns import escape
from ..errors import RowRejected, StoreMisconfigured, StoreUnavailable
from . import queries
from .doubt import field
from .fold import TRY_EACH_HIT, TURNED_AWAY, Fold, by_kind
from .sqlstates import is_forbidden, is_poison, table_of

OF_VISITORS = ("session_id", "fingerprint")  # columns of a row
# Tables that few hits change: that others get in does not tell whether these take rows, but test rows do.
SELDOM = ("incidents", "networks")
COMMON = {1, 2}  # which of these are like most; the other is the widest that there may be
PROBES = {0} | COMMON
BANS = "rulings"  # the table of bans, which hits lead to: one that takes none is at fault, not the hit
AT_FAULT = "The schema takes no rows any more, was it changed?"
DAY = 86_400_000_000  # microseconds
FIRST_DAY, LAST_DAY = -2_400_000, 100_000_000  # that Postgres knows, counted from 2000 on
FEW = 20  # about how many rows of a batch are tried as a sample
T = TypeVar("T")


class Trials:
    """Tries rows. `begin` opens a transaction that has the temporary tables of a fold, and is rolled back."""

    def __init__(self, fold: Fold, begin: Callable[[], AbstractContextManager[psycopg.Connection]]) -> None:
        self._fold = fold
        self._begin = begin

    def refuses(self, batch: Batch, others: Batch | None) -> bool:
        """Tell whether a batch of one row is refused by a schema that takes a test row.

        An operator's rule may forbid just the test row: then a sample of those of `others` that go into the same
        tables decides. Raises StoreMisconfigured if the schema takes no rows: then all must wait.
        """
        refusal = self.refusal(batch.frames, batch.columns)
        if refusal is None:
            return False
        table = table_of(refusal)
        if table == BANS:
            raise StoreMisconfigured(f"{AT_FAULT} {refusal}") from refusal
        self._check_schema(batch.frames[0], others)
        return True

    def refused_hits(self, batch: Batch) -> Mapping[int, Refused]:
        """Return which hits of a batch their table refuses one by one, by index; none where there is more to it.

        Raises StoreMisconfigured likewise.
        """
        found = self._turned_away(batch)
        if len(found) == batch.frames.count_of(HIT):  # rather the schema is at fault
            return {}
        if found:
            self._check_schema(batch.frames[min(found)], batch)
        return found

    def slow_row(self, batch: Batch) -> int | None:
        """Return the index of the one row that makes a batch too slow, None where it is not one row."""
        frames = batch.frames
        return slow_row(len(frames), lambda first, last: self._accepts_soon(frames[first:last], batch.columns))

    def refusal(
        self, frames: Frames, columns: Mapping[bytes, Sequence[str]], in_time: bool = False
    ) -> RowRejected | None:
        """Return why rows would not get in, None if they would; `in_time`: within a twentieth of statement_timeout."""
        try:
            with self._begin() as connection:
                if in_time:
                    connection.execute(queries.load("writer")["hurry"])
                self._fold.move(connection, by_kind(frames), columns, UUID(int=0))
        except RowRejected as error:
            return error
        return None

    def _accepts_soon(self, frames: Frames, columns: Mapping[bytes, Sequence[str]]) -> bool:
        try:
            return self.refusal(frames, columns, in_time=True) is None
        except StoreUnavailable as error:
            if isinstance(error.__cause__, psycopg.errors.QueryCanceled):
                return False
            raise

    def _check_schema(self, refused: Frame, others: Batch | None) -> None:
        error = self._probe("probe")
        if error and (others is None or not is_forbidden(error) or not self._accepts_one_like(refused, others)):
            raise StoreMisconfigured(f"{AT_FAULT} {error}") from error
        for table in SELDOM:
            errors = {number: one for number in PROBES if (one := self._probe(f"probe_{table}", number=number))}
            if errors.keys() >= COMMON or not all(map(is_forbidden, errors.values())):
                error = next(iter(errors.values()))
                raise StoreMisconfigured(f"{AT_FAULT} {error}") from error

    def _probe(self, query: str, **given: int) -> RowRejected | None:
        """Return why a test row would not get in, None if it would."""
        try:
            with self._begin() as connection:
                connection.execute(queries.load("writer")[query], given or None)
        except RowRejected as error:
            return error
        return None

    def _accepts_one_like(self, refused: Frame, batch: Batch) -> bool:
        """Tell whether one of a sample of the rows that go into the tables that a refused one does would get in."""
        kind, names = refused.kind, batch.columns.get(refused.kind, ())
        goes = _of_whom(refused.row, names)
        alike = [
            place
            for place, one in enumerate(batch.frames)
            if one.kind == kind and goes in (None, _of_whom(one.row, names))
        ]
        return any(self.refusal(batch.frames[place : place + 1], batch.columns) is None for place in sample(alike))

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


def hold_schema(connection: psycopg.Connection, batch: Batch) -> None:
    """Keep everybody from changing the tables that rows of a batch go into; an operator may work on old partitions."""
    given = queries.load("writer")
    connection.execute(given["hold_schema"])
    found = connection.execute(given["partitions_of"], {"days": sorted(_days(batch))}).fetchall()
    for name in found:
        connection.execute(sql.SQL("LOCK TABLE {} IN ROW EXCLUSIVE MODE").format(sql.Identifier(*name)))


def _days(batch: Batch) -> set[int]:
    """Return the days of hits, counted from 2000 on; none of those that cannot be read."""
    names, found = list(batch.columns.get(HIT, ())), set[int]()
    place = names.index("time") if "time" in names else 0
    for row in batch.frames.rows(HIT):
        with contextlib.suppress(struct.error):
            (time_us,) = struct.unpack("!q", field(row, place))
            found.add(min(max(time_us // DAY, FIRST_DAY), LAST_DAY))
    return found


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


def _of_whom(row: bytes, names: Sequence[str]) -> list[bool] | None:
    """Return whether a row is of a session, and of a visitor, and changes their tables; None where it is unreadable."""
    try:
        return [name in names and field(row, list(names).index(name)) != b"" for name in OF_VISITORS]
    except struct.error:
        return None


def sample(rows: Sequence[T]) -> Sequence[T]:
    """Return about FEW of some rows, evenly spread."""
    return rows[:: len(rows) // FEW + 1]
