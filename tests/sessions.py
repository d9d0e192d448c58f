"""A session by which tests look into their database, kept between queries: opening one takes longer than most."""

from __future__ import annotations

import select
from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row

_kept: list[psycopg.Connection[DictRow]] = []
_dsn: list[str] = []


def session(dsn: str) -> psycopg.Connection[DictRow]:
    """Return the session of this database, a new one where it has ended or another database had it."""
    if _dsn != [dsn] or _kept[0].closed or _has_ended(_kept[0]):
        for connection in _kept:
            connection.close()
        _kept[:], _dsn[:] = [psycopg.connect(dsn, autocommit=True, row_factory=dict_row)], [dsn]
    return _kept[0]


def _has_ended(connection: psycopg.Connection[Any]) -> bool:
    """Tell whether the server has said something to an idle session, as it does before it ends it."""
    return bool(select.select([connection.fileno()], [], [], 0)[0])
