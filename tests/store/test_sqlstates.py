"""What an error of the driver means to the writer: wait, have an operator act, or set a row aside."""

from __future__ import annotations

import struct

import psycopg
import pytest
from psycopg.errors import lookup

from asgi_analytics.errors import RowRejected, StoreError, StoreMisconfigured, StoreUnavailable
from asgi_analytics.store.sqlstates import as_ours


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (psycopg.OperationalError("connection refused"), StoreUnavailable),
        (psycopg.OperationalError("FATAL: the database system is starting up"), StoreUnavailable),
        (psycopg.OperationalError('FATAL: role "x" does not exist'), StoreUnavailable),
        (psycopg.OperationalError('FATAL: database "x" does not exist'), StoreMisconfigured),
        (psycopg.OperationalError('FATAL: password authentication failed for user "x"'), StoreMisconfigured),
        (psycopg.DataError("cannot dump this"), RowRejected),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), RowRejected),
        (OverflowError("too large"), RowRejected),
        (struct.error("argument out of range"), RowRejected),
        *((lookup(state)("said"), RowRejected) for state in ("22021", "23514", "P0001")),
        *((lookup(state)("said"), StoreMisconfigured) for state in ("42P01", "42501", "3F000")),
        *(
            (lookup(state)("said"), StoreUnavailable)
            for state in ("08006", "40P01", "53100", "57P01", "57014", "XX000")
        ),
    ],
    ids=str,
)
def test_an_error_is_told_by_what_is_to_be_done(error: Exception, kind: type[StoreError]) -> None:
    with pytest.raises(StoreError) as raised, as_ours():
        raise error
    assert type(raised.value) is kind
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("detail", ["Failing row contains (secret).", "Fehlgeschlagene Zeile enthält (secret)."])
def test_what_is_told_of_a_refused_row_is_without_the_row_in_any_language(dsn: str, detail: str) -> None:
    said = f"RAISE 'violates »narrow«' USING ERRCODE = '23514', DETAIL = '{detail}', HINT = 'see the manual'"
    with psycopg.connect(dsn) as connection, pytest.raises(RowRejected) as raised, as_ours():
        connection.execute(f"DO $$ BEGIN {said}; END $$".encode())
    assert "secret" not in str(raised.value)
    assert str(raised.value).startswith("violates »narrow« see the manual PL/pgSQL function")
