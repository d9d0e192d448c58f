"""How a database is told from others by its connection string."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from asgi_analytics.store.dsn import conninfo, database_key

ENVIRONMENT = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE", "PGSERVICEFILE")


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ENVIRONMENT:
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.usefixtures("no_environment")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("service=prod", "service=staging"),
        ("service=prod host=db", "service=staging host=db"),
        ("postgresql://alice@db/", "postgresql://bob@db/"),
        ("postgresql://db/prod", "postgresql://db/staging"),
        ("postgresql://db/prod", "postgresql://db:5433/prod"),
    ],
)
def test_what_may_be_two_databases_has_two_keys(one: str, other: str) -> None:
    assert database_key(one) != database_key(other)


@pytest.mark.usefixtures("no_environment")
@pytest.mark.parametrize(
    ("variable", "dsn"),
    [
        ("PGHOST", "dbname=app"),
        ("PGHOSTADDR", "host=db dbname=app"),
        ("PGPORT", "host=db dbname=app"),
        ("PGDATABASE", "postgresql://db"),
        ("PGUSER", "postgresql://db"),
        ("PGSERVICE", "host=db"),
    ],
)
def test_what_the_environment_says_tells_databases_apart(
    monkeypatch: pytest.MonkeyPatch, variable: str, dsn: str
) -> None:
    keys = [database_key(dsn)]
    for value in ("1111", "2222"):
        monkeypatch.setenv(variable, value)
        keys.append(database_key(dsn))
    assert len(set(keys)) == 3


def test_a_text_that_names_host_and_database_has_the_key_that_it_always_had(
    no_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = "postgresql://alice:secret@db.example/app"
    assert database_key(plain) == "5f629b798abace606ba73c8126838af4"
    assert database_key("host=db.example dbname=app user=bob") == database_key(plain)
    whole = database_key("host=db.example port=5433 dbname=app")
    assert whole == "c767997cf4a6cd774303cf285c67c000"
    for variable in ENVIRONMENT:
        if variable != "PGHOSTADDR":
            monkeypatch.setenv(variable, "7777")
    assert database_key("host=db.example port=5433 dbname=app") == whole


@pytest.mark.usefixtures("no_environment")
def test_the_same_database_has_the_same_key_however_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    named = database_key("host=db dbname=app port=5433")
    monkeypatch.setenv("PGHOST", "db")
    monkeypatch.setenv("PGPORT", "5433")
    assert database_key("dbname=app") == named
    monkeypatch.setenv("PGDATABASE", "app")
    assert database_key("postgresql://") == named
    assert database_key("postgresql://DB:5433/app") == named


@pytest.mark.usefixtures("no_environment")
def test_the_port_that_goes_without_saying_may_be_said() -> None:
    """Or a journal that was left over is delivered by nobody once the connection string is written in another way."""
    assert database_key("postgresql://db:5432/app") == database_key("postgresql://db/app")


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("-c jit=on", "-c jit=on"),
        ("--lock-timeout=1 -c jit=on", "--lock-timeout=1 -c jit=on -c lock_timeout=0"),
        ("-cstatement_timeout=1", "-cstatement_timeout=1 -c statement_timeout=0"),
    ],
)
def test_of_the_options_of_a_text_its_time_outs_wait_until_a_session_has_ours(given: str, sent: str) -> None:
    assert conninfo_to_dict(conninfo(make_conninfo(host="db", options=given), {}))["options"] == sent
