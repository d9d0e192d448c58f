from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import asgi_analytics
from asgi_analytics.store import queries
from asgi_analytics.store.staging import Staging

PACKAGE = Path(asgi_analytics.__file__).parent
FILES = sorted(PACKAGE.rglob("*.sql"))
PARAMETER = re.compile(r"%\((\w+)\)s")
QUERIES = [(file, name) for file in FILES if file.parent.name == "sql" for name in queries.load(file.stem)]


@pytest.fixture
def connection(unchanged_dsn: str) -> Iterator[psycopg.Connection]:
    """A connection as those have it who write: with their temporary tables. All is undone in the end."""
    with psycopg.connect(unchanged_dsn) as connection, connection.transaction(force_rollback=True):
        Staging().make(connection)
        connection.execute(queries.load("recorded")["create_judged"])
        yield connection


def prepared(query: str) -> str:
    """The statement in Postgres' own notation; a parameter has the same number wherever it stands."""
    names = list(dict.fromkeys(PARAMETER.findall(query)))
    return PARAMETER.sub(lambda found: f"${names.index(found[1]) + 1}", query).replace("%%", "%")


def test_every_sql_file_is_among_those_that_are_checked() -> None:
    outside = [file for file in FILES if file.parent.name != "sql" and file.parent.name != "migrations"]
    assert not outside, "queries live in a folder named sql"
    assert ("fold.sql", "settle_sessions") in [(file.name, name) for file, name in QUERIES]


@pytest.mark.parametrize(
    ("file", "name"), [pytest.param(file, name, id=f"{file.stem}-{name}") for file, name in QUERIES]
)
def test_every_query_is_understood_by_postgres(connection: psycopg.Connection, file: Path, name: str) -> None:
    query = prepared(queries.load(file.stem)[name])
    kind = next(line for line in query.splitlines() if not line.startswith("--")).split(None, 1)[0].upper()
    command = query if kind in ("CREATE", "DROP", "LOCK") else f"PREPARE checked AS {query}"
    connection.execute(command, prepare=False)


@pytest.mark.parametrize("file", sorted({file for file, _ in QUERIES}), ids=lambda file: file.stem)
def test_names_are_not_used_twice(file: Path) -> None:
    names = re.findall(r"^-- name: (\w+)", file.read_text("utf-8"), re.MULTILINE)
    assert len(names) == len(set(names))
    assert list(queries.load(file.stem)) == names


def test_the_probe_has_all_columns_of_the_tables_that_hits_go_into(connection: psycopg.Connection) -> None:
    """Else one that was changed so that it takes no value of ours has each row of a journal set aside."""
    probe = " ".join(text for name, text in queries.load("writer").items() if name.startswith("probe"))
    written = {table: re.findall(r"\w+", names) for table, names in re.findall(r"INTO (\S+) \(([^)]+)\)", probe)}
    assert len(written) == 7
    for table, names in written.items():
        (found,) = connection.execute(
            "SELECT array_agg(attname::text) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0", [table]
        ).fetchone() or (None,)
        assert sorted(names) == sorted(found or ()), table
