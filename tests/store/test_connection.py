from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from asgi_analytics.commands.doctor.postgres import database_checks
from asgi_analytics.errors import StoreMisconfigured
from asgi_analytics.shared.postgres import PostgresQuotas
from asgi_analytics.store import connection, reading
from asgi_analytics.store import migrate as migrations
from asgi_analytics.store.connection import connect_command
from asgi_analytics.store.migrate import Migration, migrate
from asgi_analytics.store.postgres import PostgresStore
from asgi_analytics.store.recorded import Recorded
from tests.acceptance.pooler import Pooler
from tests.acceptance.wire import Wire
from tests.conftest import _address
from tests.drive import called
from tests.record.rig import as_worker
from tests.record.rows import NOW_US, batch, deliver, fetch, hit

from .folding import write_hits

_numbers = itertools.count(1)
BOUNDED = (
    *("tail", "stats", "actors", f"explain {UUID(int=0)}", "ban 192.0.2.1 --for 1h --reason x", "purge --older 90d"),
    *("quarantine retry", "what-if", "reclassify"),
)
PATHS = ["/plain", "/zürich", "/日本"]


@contextmanager
def database_in(postgres: str, encoding: str) -> Iterator[str]:
    """An empty database of an encoding."""
    text = f"asgi_analytics_{encoding.lower()}_{os.getpid()}_{next(_numbers)}"
    name = sql.Identifier(text)
    create = sql.SQL("CREATE DATABASE {} TEMPLATE template0 LOCALE 'C' ENCODING {}")
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(create.format(name, sql.Literal(encoding)))
        try:
            yield _address(postgres, text)
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


def store_paths(dsn: str) -> None:
    store = PostgresStore(lambda: dsn)
    store.connect()
    deliver(store, batch([hit(path) for path in PATHS]))
    store.close()


def by_environment(dsn: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    return dsn


def by_database(dsn: str, monkeypatch: pytest.MonkeyPatch) -> str:
    with psycopg.connect(dsn, autocommit=True) as connection:
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} SET client_encoding = latin1").format(name))
    return dsn


def by_dsn(dsn: str, monkeypatch: pytest.MonkeyPatch) -> str:
    return make_conninfo(dsn, client_encoding="LATIN1")


@pytest.mark.parametrize("meddle", [by_environment, by_database, by_dsn])
def test_text_is_stored_as_it_was_sent_whatever_encoding_others_prefer(
    dsn: str, monkeypatch: pytest.MonkeyPatch, meddle: Callable[[str, pytest.MonkeyPatch], str]
) -> None:
    store_paths(meddle(dsn, monkeypatch))
    monkeypatch.delenv("PGCLIENTENCODING", raising=False)
    rows = fetch(dsn, "SELECT convert_to(path, 'UTF8') AS path FROM analytics.hits")
    assert sorted(row["path"].decode() for row in rows) == PATHS


@pytest.mark.parametrize("path", ["public, pg_temp", ""])
def test_tables_of_others_are_not_taken_for_ours_whatever_the_search_path(dsn: str, path: str) -> None:
    fetch(dsn, "CREATE TABLE public.staging (x integer)")
    with psycopg.connect(dsn, autocommit=True) as connection:
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} SET search_path = {}").format(name, sql.SQL(path or "''")))
    store_paths(dsn)
    assert len(fetch(dsn, "SELECT path FROM analytics.hits")) == len(PATHS)
    assert fetch(dsn, "SELECT x FROM public.staging") == []


def trap(dsn: str) -> None:
    """Let anybody make functions in public, as before PostgreSQL 15, and make some that fit better than the server's.

    Its own take arguments of any type, or of others than these.
    """
    fetch(dsn, "GRANT CREATE ON SCHEMA public TO PUBLIC; CREATE TABLE public.caught (name text)")
    body = "LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.caught VALUES ('{}'); RETURN NULL; END $$"
    for name, kind in (("concat_ws", "text"), ("format", "text"), ("jsonb_build_object", "jsonb")):
        for arguments in ("text, text", "text, integer", "text, text, text"):
            fetch(dsn, f"CREATE FUNCTION public.{name}({arguments}) RETURNS {kind} {body.format(name)}")
    for left, right in (("numeric", "integer"), ("integer", "numeric")):
        fetch(dsn, f"CREATE FUNCTION public.times({left}, {right}) RETURNS numeric {body.format('*')}")
        fetch(dsn, f"CREATE OPERATOR public.* (FUNCTION = public.times, LEFTARG = {left}, RIGHTARG = {right})")


def exchange_quotas(dsn: str) -> None:
    quotas = PostgresQuotas(lambda: dsn)
    quotas.exchange(b"w" * 16, 0, [])
    quotas.close()


def ask(dsn: str) -> None:
    for command in (("doctor",), ("stats",), ("actors",), ("quarantine", "retry"), ("explain", str(UUID(int=0)))):
        called(*command, "--dsn", dsn)


@pytest.mark.parametrize("use", [store_paths, exchange_quotas, ask])
def test_functions_that_anybody_may_make_are_not_called_for_the_servers(dsn: str, use: Callable[[str], None]) -> None:
    trap(dsn)
    fetch(dsn, "SELECT concat_ws('a', 'b', 'c')")
    assert fetch(dsn, "DELETE FROM public.caught RETURNING name") == [{"name": "concat_ws"}], "the trap works"
    use(dsn)
    assert fetch(dsn, "SELECT name FROM public.caught") == []


def test_migrations_call_no_functions_that_anybody_may_make(empty_dsn: str) -> None:
    trap(empty_dsn)
    migrations.migrate(empty_dsn)
    assert fetch(empty_dsn, "SELECT name FROM public.caught") == []


def test_an_operators_functions_are_found_where_nobody_else_may_make_any(dsn: str) -> None:
    fetch(dsn, "CREATE TABLE public.audit (path text); REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    fetch(
        dsn,
        "CREATE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO audit VALUES (NEW.path); RETURN NEW; END $$;"
        "CREATE TRIGGER audit BEFORE INSERT ON analytics.hits FOR EACH ROW EXECUTE FUNCTION public.audit()",
    )
    store_paths(dsn)
    assert sorted(row["path"] for row in fetch(dsn, "SELECT path FROM public.audit")) == PATHS


def test_commands_read_what_was_stored_whatever_encoding_others_prefer(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_paths(dsn)
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    with reading.connect(dsn) as reader:
        assert sorted(row.path for row in reader.hits(10)) == PATHS


def prefer(dsn: str, **settings: str) -> None:
    """Have all sessions of a database begin with these settings."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        database = sql.Identifier(connection.info.dbname)
        for name, value in settings.items():
            connection.execute(sql.SQL("ALTER DATABASE {} SET {} = {}").format(database, sql.Identifier(name), value))


def test_a_command_connects_as_the_dsn_says(dsn: str) -> None:
    named = make_conninfo(dsn, application_name="backup", connect_timeout=30)
    with connect_command(named) as connection:
        assert connection.execute("SHOW application_name").fetchone() == ("backup",)
        assert connection.info.get_parameters()["connect_timeout"] == "30"


def test_a_command_waits_for_no_server_that_has_vanished(dsn: str) -> None:
    """By itself the system asks after two hours, in which a job would hang."""
    with connect_command(dsn) as connection:
        assert connection.info.get_parameters()["keepalives_idle"] == "10"


def test_a_command_waits_for_no_server_that_is_frozen_though_its_connection_lives(dsn: str) -> None:
    with Wire(dsn) as wire, connect_command(wire.dsn, patience=0.3) as connection:
        with wire.broken("deaf"), pytest.raises(psycopg.OperationalError, match="no answer within"):
            connection.execute("SELECT 1")
        assert connection.closed


def test_no_command_but_migrations_waits_for_an_answer_without_a_bound(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_aside(dsn)
    opened: list[float] = []

    def connect(address: str, name: str, patience: float) -> psycopg.Connection:
        opened.append(patience)
        return open_bounded(address, name, patience)

    open_bounded = connection._connect
    monkeypatch.setattr(connection, "_connect", connect)
    for command in BOUNDED:
        called(*command.split(), "--dsn", dsn)
    assert len(opened) > len(BOUNDED)  # to try rows again takes another
    assert max(opened) < inf


def set_aside(dsn: str) -> None:
    store = PostgresStore(lambda: dsn)
    store.connect()
    store.position(b"journal".ljust(16, b"."))
    store.quarantine(batch([hit("/aside")]), "the schema was wrong then", "22001")
    store.close()


def test_commands_read_times_whatever_date_style_others_prefer(dsn: str) -> None:
    store_paths(dsn)
    prefer(dsn, datestyle="German")
    assert len(list(Recorded(dsn, 0.0, 4e9).hits())) == len(PATHS)
    assert [check.text for check in database_checks(dsn, time.time()) if check.advice] == []


@pytest.mark.parametrize("through", [lambda dsn: contextlib.nullcontext(SimpleNamespace(dsn=dsn)), Pooler])
def test_commands_tell_times_in_utc_whatever_zone_others_prefer(dsn: str, through: Callable[[str], Any]) -> None:
    store_paths(dsn)
    prefer(dsn, timezone="Pacific/Apia")
    with through(dsn) as way, reading.connect(way.dsn) as reader:
        assert {row.time.utcoffset() for row in reader.hits(10)} == {timedelta(0)}


def test_commands_read_moments_whole_however_short_others_prefer_numbers(dsn: str) -> None:
    store_paths(dsn)
    prefer(dsn, extra_float_digits="-6")
    assert [one.seconds for one in Recorded(dsn, 0.0, 4e9).hits()] == [NOW_US / 1e6] * len(PATHS)


HURRY = """
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_settings WHERE name = 'transaction_timeout') THEN  -- since PostgreSQL 17
        EXECUTE format('ALTER DATABASE %I SET transaction_timeout = %L', current_database(), '200ms');
    END IF;
END $$
"""
SLOW = """
CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END $$;
CREATE TRIGGER slow AFTER INSERT ON analytics.hits FOR EACH STATEMENT EXECUTE FUNCTION public.slow()
"""


def test_a_transfer_may_take_its_time_whatever_limit_others_prefer(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(SLOW)
        connection.execute(HURRY)
    store_paths(dsn)


@pytest.mark.parametrize("by", ["dsn", "environment", "service"])
@pytest.mark.parametrize("hurry", ["statement_timeout", "idle_session_timeout"])
def test_options_that_end_what_takes_a_millisecond_keep_nobody_out(
    dsn: str, hurry: str, by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = f"-c {hurry}=1"
    if by == "environment":
        monkeypatch.setenv("PGOPTIONS", options)
    elif by == "service":
        (tmp_path / "services").write_text(f"[hasty]\nport=1,2\noptions={options}\n")
        monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    named = {"dsn": {"options": options}, "service": {"service": "hasty"}}.get(by, {})
    store_paths(make_conninfo(dsn, **named))


def test_a_migration_may_take_its_time_whatever_limit_others_prefer(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute(HURRY)
    monkeypatch.setattr(migrations, "migrations", lambda: [Migration(1, "slow", "SELECT pg_sleep(0.3)", "sum")])
    assert migrate(empty_dsn) == ["slow"]


def test_a_database_that_cannot_hold_all_text_is_refused_and_doctor_names_it(postgres: str) -> None:
    with database_in(postgres, "LATIN1") as dsn:
        with pytest.raises(StoreMisconfigured, match="has encoding LATIN1"):
            PostgresStore(lambda: dsn).connect()
        with pytest.raises(StoreMisconfigured, match="has encoding LATIN1"):
            migrate(dsn)
        assert fetch(dsn, "SELECT to_regnamespace('analytics') AS made") == [{"made": None}]
        told = [f"{check.mark} {check.text} {check.advice}" for check in database_checks(dsn, 0.0)]
    assert [text for text in told if text.startswith("WRONG its encoding LATIN1") and "ENCODING 'UTF8'" in text] != []


def test_a_database_without_an_encoding_keeps_the_bytes(postgres: str) -> None:
    with database_in(postgres, "SQL_ASCII") as dsn:
        store_paths(dsn)
        rows = fetch(dsn, "SELECT path::bytea AS path FROM analytics.hits")
    assert sorted(row["path"].decode() for row in rows) == PATHS


def test_a_database_that_does_not_say_which_it_is_takes_rows_all_the_same(dsn: str) -> None:
    fetch(dsn, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    store = PostgresStore(lambda: as_worker(dsn))
    store.connect()
    assert store.server() == ""
    write_hits(store, b"A", 1)
    store.close()
