"""What an error of Postgres means for a batch: wait, have an operator act, or set rows aside."""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Iterator

import psycopg

from ..columns import escape, one_line
from ..errors import RowRejected, StoreError, StoreMisconfigured, StoreUnavailable

# SQLSTATE classes; all others, and errors without one (connection lost, refused, DNS), are transient.
NEEDS_OPERATOR = ("28", "3D", "3F", "42")
# Single rows may be refused for these, also by an operator's trigger; the probe tells whether all are.
POISON = ("09", "20", "21", "22", "23", "27", "2F", "38", "39", "44", "54000", "54001", "P0")
# Implementation-defined classes of the SQL standard; all but the server's own are raised by an operator's trigger.
_FREE, _SERVERS = re.compile("[5-9I-Z]|45"), ("53", "54", "55", "57", "58", "72", "XX")
# These concern single rows only if raised inside an operator's trigger or function, which may raise anything, miss an
# object, or run into statement_timeout. From our own statements they concern all rows.
_BY_FUNCTION = (*NEEDS_OPERATOR, "0A", "55000", "57014")
NO_PLACE = "23514"  # SQLSTATE of a row that no partition takes, and of one that a constraint refuses
_NARROW = (None, "22001", "22003")  # a value is longer or larger than its column
_TELLS_ROW = ("23", "44")  # their DETAIL quotes the row or its key, in the server's language


@contextlib.contextmanager
def as_ours() -> Iterator[None]:
    """Turn the driver's errors into ours, by SQLSTATE class rather than by exception class."""
    try:
        yield
    except psycopg.Error as error:
        raise _ours(error) from error
    except (UnicodeError, OverflowError, struct.error) as error:
        raise RowRejected(_log_text(error)) from error


def _ours(error: psycopg.Error) -> StoreError:
    state, text = error.sqlstate, _log_text(error)
    if state is None and isinstance(error, psycopg.DataError):
        return RowRejected(text)
    if state is None:
        # These two are errors of connecting, which have no SQLSTATE.
        wrong = "authentication failed" in text or ("database" in text and "does not exist" in text)
        return StoreMisconfigured(text) if wrong else StoreUnavailable(text)
    if _is_of_a_row(state, bool(error.diag.context)):
        return RowRejected(text, state)
    if state.startswith(NEEDS_OPERATOR):
        return StoreMisconfigured(f"{text} (SQLSTATE {state})")
    return StoreUnavailable(f"{text} (SQLSTATE {state})")


def _is_of_a_row(state: str, in_function: bool) -> bool:
    if state.startswith(POISON) or (_FREE.match(state) and not state.startswith(_SERVERS)):
        return True
    return in_function and state.startswith(_BY_FUNCTION)


def is_poison(state: str, constraint: str, in_function: bool) -> bool:
    """Tell whether an error concerns the row alone that was inserted; a partition that it lacks can be made."""
    return _is_of_a_row(state, in_function) and (state != NO_PLACE or constraint != "")


def _log_text(error: Exception) -> str:
    """Return an error's text as one line for logs: without the row's data, and escaped for terminals."""
    text = str(error)
    if isinstance(error, psycopg.Error) and (error.sqlstate or "").startswith(_TELLS_ROW):
        diag = error.diag
        text = " ".join(filter(None, (diag.message_primary, diag.message_hint, diag.context))) or text
    return escape(one_line(text))


def is_forbidden(error: RowRejected) -> bool:
    """Tell whether an operator's rule refused a row, rather than a narrow column or a missing partition."""
    cause = error.__cause__
    if not isinstance(cause, psycopg.Error):
        return False
    if error.sqlstate == NO_PLACE:
        return cause.diag.constraint_name is not None
    return cause.diag.context is not None or error.sqlstate not in _NARROW


def table_of(error: RowRejected) -> str | None:
    """Return the table whose constraint refused a row, None where the server does not say."""
    cause = error.__cause__
    return cause.diag.table_name if isinstance(cause, psycopg.Error) else None
