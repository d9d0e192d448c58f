"""What an administrator sets, changes, forbids and clears away while the writer works: nothing is lost or doubled."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from tests.acceptance.faults.house import House
from tests.acceptance.faults.ledger import Account
from tests.acceptance.faults.process import some
from tests.acceptance.faults.test_postgres import Striking, between, cut_off, holding, terminate
from tests.waiting import wait_until

CONTRARY = {
    "array_nulls": "off",
    "backslash_quote": "off",
    "bytea_output": "escape",
    "client_encoding": "LATIN1",
    "client_min_messages": "debug5",
    "datestyle": "German",
    "default_transaction_deferrable": "on",
    "default_transaction_isolation": "serializable",
    "enable_hashjoin": "off",
    "enable_indexscan": "off",
    "enable_seqscan": "off",
    "extra_float_digits": "-15",
    "intervalstyle": "sql_standard",
    "jit": "on",
    "plan_cache_mode": "force_generic_plan",
    "quote_all_identifiers": "on",
    "row_security": "off",
    "search_path": "pg_temp",
    "standard_conforming_strings": "off",
    "synchronous_commit": "off",
    "temp_buffers": "800kB",
    "timezone": "Pacific/Apia",
    "transform_null_equals": "on",
    "work_mem": "64kB",
}
HASTE = {"statement_timeout": "40ms", "lock_timeout": "1ms", "idle_in_transaction_session_timeout": "1ms"}
WRITERS = " FROM pg_stat_activity WHERE application_name = 'asgi-analytics writer'"
NO_VIEW = "DROP VIEW IF EXISTS analytics.human_hits"


def of_role(**settings: str) -> Striking:
    """What is set for the writer's role; its next connection has it."""

    @contextmanager
    def strike(house: House) -> Iterator[None]:
        with psycopg.connect(house.admin, autocommit=True) as connection:
            for name, value in settings.items():
                query = sql.SQL("ALTER ROLE clerk SET {} = {}").format(sql.Identifier(name), value)
                with contextlib.suppress(psycopg.errors.FeatureNotSupported):  # of what PostgreSQL 19 lacks
                    connection.execute(query)
        with cut_off("SELECT 1", "ALTER ROLE clerk RESET ALL")(house):
            yield
        terminate(house)

    return strike


def of_server(setting: LiteralString) -> Striking:
    """What is set for the server, and taken back."""
    reset: LiteralString = "ALTER SYSTEM RESET ALL"

    @contextmanager
    def strike(house: House) -> Iterator[None]:
        house.do("ALTER SYSTEM SET " + setting, "SELECT pg_reload_conf()")
        try:
            with holding(house):
                yield
        finally:
            house.do(reset, "SELECT pg_reload_conf()")

    return strike


def again_and_again(statement: LiteralString, pause: float) -> Striking:
    """A statement that is repeated for as long as the fault holds."""

    @contextmanager
    def strike(house: House) -> Iterator[None]:
        stopping = threading.Event()

        def repeat() -> None:
            while not stopping.wait(pause):
                with contextlib.suppress(psycopg.Error):
                    house.do(statement)

        thread = threading.Thread(target=repeat)
        thread.start()
        try:
            with holding(house):
                yield
        finally:
            stopping.set()
            thread.join()

    return strike


def hidden(table: LiteralString) -> Striking:
    """Row security that shows its owner nothing, and lets it insert."""
    name: LiteralString = "analytics." + table
    policy: LiteralString = "CREATE POLICY blind ON " + name + " FOR INSERT WITH CHECK (true)"
    return between(
        "ALTER TABLE " + name + " ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; " + policy,
        "ALTER TABLE " + name + " DISABLE ROW LEVEL SECURITY; DROP POLICY blind ON " + name,
    )


def locked(table: LiteralString) -> Striking:
    """Somebody holds a table, and the writer has to connect anew."""

    @contextmanager
    def strike(house: House) -> Iterator[None]:
        with psycopg.connect(house.admin) as holder:
            holder.execute("LOCK TABLE analytics." + table + " IN ACCESS EXCLUSIVE MODE")
            terminate(house)
            with holding(house):
                yield
            holder.rollback()

    return strike


@contextmanager
def made_anew(house: House) -> Iterator[None]:
    with psycopg.connect(house.postgres.dsn, autocommit=True) as connection:
        connection.execute("DROP DATABASE office WITH (FORCE)")
        connection.execute("CREATE DATABASE office OWNER clerk TEMPLATE template0")
    wait_until(lambda: house.do("SELECT to_regclass('analytics.hits') IS NOT NULL") == [(True,)], what="a schema")
    yield


def rename(house: House, name: LiteralString, other: LiteralString) -> None:
    """Rename a database once nobody is connected to it: the writer comes back soon."""
    end: LiteralString = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '" + name + "'"
    with psycopg.connect(house.postgres.dsn, autocommit=True) as connection:

        def is_done() -> bool:
            connection.execute(end)
            with contextlib.suppress(psycopg.errors.ObjectInUse):
                connection.execute("ALTER DATABASE " + name + " RENAME TO " + other)
                return True
            return False

        wait_until(is_done, what="a moment without connections")


@contextmanager
def renamed_database(house: House) -> Iterator[None]:
    rename(house, "office", "away")
    try:
        with holding(house):
            yield
    finally:
        rename(house, "away", "office")


@contextmanager
def replaced_for_a_while(house: House) -> Iterator[None]:
    """Another database has its name, with nothing in it, gets the hits, and is dropped."""
    rename(house, "office", "away")
    with psycopg.connect(house.postgres.dsn, autocommit=True) as connection:
        connection.execute("CREATE DATABASE office OWNER clerk TEMPLATE template0")
    wait_until(lambda: house.do("SELECT to_regclass('analytics.hits') IS NOT NULL") == [(True,)], what="a schema")
    yield
    wait_until(lambda: house.do("SELECT count(*) > 50 FROM analytics.hits") == [(True,)], what="hits")
    rename(house, "office", "other")
    rename(house, "away", "office")
    with psycopg.connect(house.postgres.dsn, autocommit=True) as connection:
        connection.execute("DROP DATABASE other WITH (FORCE)")


@contextmanager
def without_locks(house: House) -> Iterator[None]:
    """Somebody holds all of max_locks_per_transaction, as a dump of thousands of tables does."""
    with psycopg.connect(house.admin) as holder:
        taken, more = 0, 1024
        holder.execute("SELECT 1")  # begins the transaction that keeps them
        while more:
            try:
                with holder.transaction():
                    holder.execute(
                        "SELECT pg_advisory_xact_lock(one) FROM generate_series(%s::int, %s::int) AS one",
                        (taken, taken + more),
                    )
                taken += more + 1
            except psycopg.errors.OutOfMemory:
                more //= 2
        with holding(house):
            yield
        holder.rollback()


@contextmanager
def detached_today(house: House) -> Iterator[None]:
    """Rows go into the default partition meanwhile; the operator moves them when the day's own comes back."""
    ((day,),) = house.do("SELECT tableoid::regclass::text FROM analytics.hits ORDER BY time DESC LIMIT 1")
    name = sql.SQL(day)
    with psycopg.connect(house.admin, autocommit=True) as connection:
        query = "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = %s::regclass"
        (bounds,) = connection.execute(query, (day,)).fetchone() or ("",)
        connection.execute(sql.SQL("ALTER TABLE analytics.hits DETACH PARTITION {}").format(name))
        with holding(house):
            yield
        with connection.transaction():
            connection.execute("LOCK TABLE analytics.hits")
            moved = "WITH moved AS (DELETE FROM analytics.hits_default RETURNING *) INSERT INTO {} SELECT * FROM moved"
            connection.execute(sql.SQL(moved).format(name))
            attach = sql.SQL("ALTER TABLE analytics.hits ATTACH PARTITION {} {}")
            connection.execute(attach.format(name, sql.SQL(bounds)))


FORBID = (
    "CREATE FUNCTION public.forbid() RETURNS event_trigger LANGUAGE plpgsql AS"
    " $$ BEGIN IF current_user = 'clerk' THEN RAISE EXCEPTION 'no changes here'; END IF; END $$;"
    " CREATE EVENT TRIGGER forbid ON ddl_command_start EXECUTE FUNCTION public.forbid()"
)
FREEZE = (
    "CREATE FUNCTION public.still() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
    " CREATE TRIGGER still BEFORE UPDATE ON analytics.positions FOR EACH ROW EXECUTE FUNCTION public.still()"
)
LOCKED = ("positions", "sessions", "fingerprints", "decisions", "salts", "networks", "incidents", "refusals",
          "policies", "rulings", "counters", "workers", "migrations", "hits_default")  # fmt: skip
FAULTS: dict[str, Striking] = {
    "contrary_settings": of_role(**CONTRARY),
    "hasty_timeouts": of_role(**HASTE),
    "idle_sessions_ended": of_role(idle_session_timeout="30ms"),
    "no_temporary_files": of_server("temp_file_limit = 0"),
    "no_locks_left": without_locks,
    "missing_standby": of_server("synchronous_standby_names = 'ghost'"),
    "read_only_server": of_server("default_transaction_read_only = on"),
    "cancelled": again_and_again("SELECT pg_cancel_backend(pid)" + WRITERS, 0.005),
    "terminated": again_and_again("SELECT pg_terminate_backend(pid)" + WRITERS, 0.02),
    "rewritten_tables": again_and_again("VACUUM FULL analytics.positions, analytics.sessions", 0.01),
    "rewritten_hits": again_and_again("VACUUM FULL analytics.hits", 0.01),
    "rebuilt_indexes": again_and_again("REINDEX TABLE analytics.sessions", 0.01),
    "hidden_hits": hidden("hits"),
    "hidden_positions": hidden("positions"),
    "published_tables": cut_off("CREATE PUBLICATION all_of_it FOR ALL TABLES", "DROP PUBLICATION all_of_it"),
    "published_without_identity": between(
        "ALTER TABLE analytics.positions REPLICA IDENTITY NOTHING;"
        " CREATE PUBLICATION part FOR TABLE analytics.positions",
        "DROP PUBLICATION part; ALTER TABLE analytics.positions REPLICA IDENTITY DEFAULT",
    ),
    "renamed_role": cut_off(
        "ALTER ROLE clerk RENAME TO sexton",
        "ALTER ROLE sexton RENAME TO clerk; ALTER ROLE clerk PASSWORD 'pencil'",
    ),
    "expired_password": cut_off("ALTER ROLE clerk VALID UNTIL '2020-01-01'", "ALTER ROLE clerk VALID UNTIL 'infinity'"),
    "detached_partition": detached_today,
    "another_role": cut_off(
        "CREATE ROLE guest; GRANT guest TO clerk; ALTER ROLE clerk SET role = 'guest'",
        "ALTER ROLE clerk RESET role; DROP ROLE guest",
    ),
    "functions_forbidden": cut_off(
        "REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA analytics FROM PUBLIC, clerk",
        "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA analytics TO PUBLIC, clerk",
    ),
    "refused_at_commit": between(
        "CREATE FUNCTION public.late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'late'; END $$;"
        " CREATE CONSTRAINT TRIGGER late AFTER INSERT ON analytics.hits INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION public.late()",
        "DROP FUNCTION public.late() CASCADE",
    ),
    "renamed_schema": between("ALTER SCHEMA analytics RENAME TO kept", "ALTER SCHEMA kept RENAME TO analytics"),
    "changes_forbidden": cut_off(FORBID, "DROP EVENT TRIGGER forbid; DROP FUNCTION public.forbid()"),
    "no_temporary_tables": cut_off(
        "REVOKE TEMPORARY ON DATABASE office FROM PUBLIC, clerk", "GRANT TEMPORARY ON DATABASE office TO PUBLIC, clerk"
    ),
    "nothing_cleared_away": cut_off(
        "REVOKE DELETE ON analytics.networks FROM clerk", "GRANT DELETE ON analytics.networks TO clerk"
    ),
    "renamed_salts": between(
        "ALTER TABLE analytics.salts RENAME TO pepper", "ALTER TABLE analytics.pepper RENAME TO salts"
    ),
    "forgotten_salts": cut_off("TRUNCATE analytics.salts", "SELECT 1"),
    "forgotten_visitors": between("TRUNCATE analytics.sessions, analytics.fingerprints", "SELECT 1"),
    "renamed_migrations": cut_off(
        "ALTER TABLE analytics.migrations RENAME TO done", "ALTER TABLE analytics.done RENAME TO migrations"
    ),
    "another_owner": between(
        "ALTER TABLE analytics.hits OWNER TO postgres; GRANT ALL ON analytics.hits TO clerk",
        "ALTER TABLE analytics.hits OWNER TO clerk",
    ),
    **{f"locked_{table}": locked(table) for table in LOCKED},
    "cleared_positions": between("DELETE FROM analytics.positions", "SELECT 1"),
    "cleared_positions_seen_anew": cut_off("DELETE FROM analytics.positions", "SELECT 1"),
    "positions_without_key": cut_off(
        "ALTER TABLE analytics.positions DROP CONSTRAINT positions_pkey",
        "ALTER TABLE analytics.positions ADD PRIMARY KEY (journal)",
    ),
    "rewound_positions": cut_off("UPDATE analytics.positions SET segment = 0, position = 0", "SELECT 1"),
    "advanced_positions": between("UPDATE analytics.positions SET segment = segment + 1000", "SELECT 1"),
    "advanced_positions_seen_anew": cut_off("UPDATE analytics.positions SET position = 1 << 30", "SELECT 1"),
    "retyped_positions": between(
        "ALTER TABLE analytics.positions ALTER position TYPE text",
        "ALTER TABLE analytics.positions ALTER position TYPE bigint USING position::bigint",
    ),
    "frozen_positions": between(FREEZE, "DROP FUNCTION public.still() CASCADE"),
    "wider_columns": between(f"{NO_VIEW}; ALTER TABLE analytics.hits ALTER status TYPE integer", "SELECT 1"),
    "other_columns": cut_off(
        f"{NO_VIEW}; ALTER TABLE analytics.hits ALTER bytes_sent TYPE text, ALTER id TYPE text, ALTER asn TYPE numeric",
        "ALTER TABLE analytics.decisions ALTER hit_id TYPE text, ALTER score TYPE numeric",
    ),
    "database_made_anew": made_anew,
    "renamed_database": renamed_database,
    "database_replaced_for_a_while": replaced_for_a_while,
}
FAST = ("contrary_settings", "hidden_positions", "renamed_schema", "nothing_cleared_away", "cleared_positions",
        "rewound_positions", "advanced_positions", "other_columns", "database_made_anew")  # fmt: skip


@pytest.mark.parametrize("fault", some(FAULTS, FAST))
def test_whatever_an_administrator_does_nothing_is_lost_and_nothing_doubled(
    house: House, account: Account, fault: str
) -> None:
    house.strike(account, FAULTS[fault])
    assert house.do("SELECT count(*) FROM analytics.quarantine") == [(0,)]
