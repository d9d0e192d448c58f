"""Partitions of hits that are not ours: an operator's, a tool's, a default one that has rows; and days without any."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from asgi_analytics.commands.doctor.postgres import database_checks
from asgi_analytics.errors import RowRejected, StoreMisconfigured
from asgi_analytics.store.connection import WRITER_SETTINGS
from asgi_analytics.store.partitions import make_partitions, make_partitions_of_staging, missing_partitions
from asgi_analytics.store.postgres import PostgresStore
from tests.drive import page, start, wrapped
from tests.record.rig import Rig
from tests.record.rows import NOW_US, batch, deliver, fetch, hit
from tests.waiting import wait_until

DAY_US = 24 * 3600 * 1_000_000
DROP_OURS = (
    "DO $$ DECLARE name text; BEGIN FOR name IN SELECT inhrelid::regclass FROM pg_inherits"
    " WHERE inhparent = 'analytics.hits'::regclass AND inhrelid <> 'analytics.hits_default'::regclass"
    " LOOP EXECUTE 'DROP TABLE ' || name; END LOOP; END $$"
)
NO_DEFAULT = "DROP TABLE analytics.hits_default"
OTHER_DEFAULT = (
    "ALTER TABLE analytics.hits DETACH PARTITION analytics.hits_default",
    'CREATE TABLE public."their rest" PARTITION OF analytics.hits DEFAULT',
)
FORBID = (
    "CREATE FUNCTION public.forbid() RETURNS event_trigger LANGUAGE plpgsql AS"
    " $$ BEGIN IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE schema_name <> 'pg_temp') THEN"
    " RAISE EXCEPTION 'no new tables here'; END IF; END $$",
    "CREATE EVENT TRIGGER forbid ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION public.forbid()",
)


def theirs(first: str, last: str, name: str = "analytics.theirs") -> str:
    return f"CREATE TABLE {name} PARTITION OF analytics.hits FOR VALUES FROM ({first}) TO ({last})"


def quoted(shift: int, time: str = "00:00:00+00") -> str:
    return f"'{today() + timedelta(days=shift)} {time}'"


def today() -> date:
    return datetime.now(UTC).date()


LAYOUTS: dict[str, tuple[str, ...]] = {
    "month": (DROP_OURS, theirs(quoted(-10), quoted(21))),
    "month ahead": (theirs(quoted(8), quoted(40)),),
    "everything": (DROP_OURS, theirs("MINVALUE", "MAXVALUE")),
    "from tomorrow on": (DROP_OURS, theirs(quoted(1), "MAXVALUE")),
    "days of another time zone": (
        DROP_OURS,
        *(theirs(quoted(day, "00:00:00+09"), quoted(day + 1, "00:00:00+09"), f"p{day + 9}") for day in range(-2, 3)),
    ),
    "half a day": (DROP_OURS, theirs(quoted(0, "12:00:00+00"), quoted(1, "06:30:00.5+00"))),
    "default of another name": (DROP_OURS, *OTHER_DEFAULT),
    "no default": (NO_DEFAULT,),
    "no default, months": (DROP_OURS, NO_DEFAULT, theirs(quoted(-10), quoted(21), 'public."their month"')),
    "partitions of partitions": (
        DROP_OURS,
        theirs(quoted(-10), quoted(21)) + " PARTITION BY LIST (site)",
        "CREATE TABLE analytics.deep PARTITION OF analytics.theirs DEFAULT",
    ),
    "no partitions at all": (
        "CREATE TABLE analytics.plain (LIKE analytics.hits)",
        "ALTER TABLE analytics.hits RENAME TO parts",
        "ALTER TABLE analytics.plain RENAME TO hits",
    ),
    "new tables forbidden": (DROP_OURS, *FORBID),
    "names that are taken": (DROP_OURS, f"CREATE VIEW analytics.hits_{today():%Y%m%d} AS SELECT 1 AS one"),
}


@pytest.fixture(params=LAYOUTS)
def layout(dsn: str, request: pytest.FixtureRequest) -> str:
    """The DSN of a database that has it."""
    fetch(dsn, "SELECT analytics.ensure_partitions(current_date, current_date)")
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in LAYOUTS[request.param]:
            connection.execute(statement.encode())
    return dsn


def stored(store: PostgresStore, path: str, shift: int = 0) -> None:
    """Store a hit of so many days from now."""
    deliver(store, batch([hit(path, time_us=NOW_US + shift * DAY_US)]))


class Plain(PostgresStore):
    """A store that makes no partitions by itself."""

    def make_partitions(self) -> None:
        """Leave it."""


def places(dsn: str) -> dict[str, str]:
    """The partition of each hit, by path."""
    rows = fetch(dsn, "SELECT path, tableoid::regclass::text AS place FROM analytics.hits")
    return {row["path"]: row["place"] for row in rows}


def test_rows_go_into_whatever_covers_their_day(layout: str) -> None:
    with psycopg.connect(layout, autocommit=True) as connection:
        connection.execute("SET datestyle = 'German'")
        make_partitions(connection)
        with contextlib.suppress(psycopg.errors.UndefinedObject):
            connection.execute("ALTER EVENT TRIGGER forbid DISABLE")  # it forbids temporary tables too
    store = PostgresStore(lambda: layout)
    store.connect()
    for shift in (0, -1, 1, 7, -400, 400):
        stored(store, f"/{shift}", shift)
        store.make_partitions()
    store.close()
    assert sorted(places(layout)) == ["/-1", "/-400", "/0", "/1", "/400", "/7"]
    told = [check for check in database_checks(layout, NOW_US / 1e6) if check.subject == "partitions"]
    assert [check.text for check in told] == ["there for today and tomorrow"]


@pytest.mark.parametrize("name", ["analytics.hits_p{}", "analytics.hits_20261130_{}"])
def test_days_that_another_tool_has_yet_to_come_to_are_left_to_it(dsn: str, name: str) -> None:
    """pg_partman makes those of the next four days each night, and stops at one that is covered."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(DROP_OURS)
        for night in range(3):
            for day in range(-2 if night == 0 else night + 4, night + 5):
                connection.execute(theirs(quoted(day), quoted(day + 1), name.format(day + 2)).encode())
            make_partitions(connection)
        count = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'analytics.hits'::regclass"
        assert connection.execute(count).fetchone() == (9 + 1,)


def test_the_first_worker_makes_those_of_these_days(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        assert missing_partitions(connection) == [today(), today() + timedelta(days=1)]
        with wrapped(page(), dsn) as app:
            start(app)
            wait_until(lambda: missing_partitions(connection) == [], what="the partitions")


def test_a_day_whose_rows_the_default_partition_has_stays_there(dsn: str) -> None:
    for kind, path in ((Plain, "/before"), (PostgresStore, "/after")):
        store = kind(lambda: dsn)
        store.connect()
        stored(store, path)
        store.close()
    assert places(dsn) == {"/after": "analytics.hits_default", "/before": "analytics.hits_default"}


def test_what_we_cannot_make_for_a_reader_keeps_no_rows_of_a_day_that_the_default_partition_has(dsn: str) -> None:
    store: PostgresStore = Plain(lambda: dsn)
    store.connect()
    stored(store, "/today")
    stored(store, "/tomorrow", 1)
    store.close()
    store = PostgresStore(lambda: dsn)
    with psycopg.connect(dsn) as report:
        report.execute("SELECT count(*) FROM analytics.hits")
        store.connect()
        stored(store, "/more")
    store.close()
    assert places(dsn)["/more"] == "analytics.hits_default"


def test_rows_that_no_partition_takes_wait_and_none_is_set_aside(dsn: str) -> None:
    for statement in (NO_DEFAULT, theirs(quoted(1), quoted(2)), *FORBID):
        fetch(dsn, statement)
    fetch(dsn, "ALTER EVENT TRIGGER forbid DISABLE")
    store: PostgresStore = Plain(lambda: dsn)
    store.connect()
    fetch(dsn, "ALTER EVENT TRIGGER forbid ENABLE")
    with pytest.raises(RowRejected, match="no partition of relation"):
        stored(store, "/waits")
    with pytest.raises(StoreMisconfigured, match="no partition of relation"):
        store.refuses(batch([hit("/waits")]), batch([hit("/waits"), hit("/tomorrow", time_us=NOW_US + DAY_US)]))
    fetch(dsn, "ALTER EVENT TRIGGER forbid DISABLE")
    stored(store, "/waits")
    store.close()
    assert list(places(dsn)) == ["/waits"]


def test_who_waits_to_make_partitions_has_no_lock_that_who_makes_them_needs(dsn: str) -> None:
    locks = "SELECT relation::regclass::text FROM pg_locks WHERE pid = %s AND relation = ANY(%s::regclass[])"
    with (
        ThreadPoolExecutor(1) as pool,
        psycopg.connect(dsn, autocommit=True) as other,
        psycopg.connect(dsn) as maker,
    ):
        maker.execute("SELECT pg_advisory_xact_lock(hashtext('analytics.ensure_partitions'))")
        made = pool.submit(other.execute, "SELECT analytics.ensure_partitions(current_date, current_date + 7)")
        waiting = "SELECT count(*) FROM pg_locks WHERE pid = %s AND NOT granted"
        wait_until(lambda: maker.execute(waiting, [other.info.backend_pid]).fetchone() == (1,), what="a wait")
        tables = ["analytics.hits", "analytics.hits_default"]
        assert maker.execute(locks, [other.info.backend_pid, tables]).fetchall() == []
        maker.rollback()
        assert made.result(10).fetchone() == (8,)


def test_a_partition_that_is_needed_is_made_when_who_holds_the_table_lets_go(dsn: str) -> None:
    fetch(dsn, DROP_OURS)
    with ThreadPoolExecutor(1) as pool, psycopg.connect(dsn, autocommit=True) as maker:
        with psycopg.connect(dsn) as report:
            report.execute("SELECT count(*) FROM analytics.hits")
            made = pool.submit(make_partitions, maker)
            with pytest.raises(TimeoutError):
                made.result(0.8)  # longer than it waits for a lock at once
        made.result(10)
        assert missing_partitions(maker) == []


def test_while_somebody_locks_the_default_partition_nobody_waits_for_long_and_nothing_is_missed(dsn: str) -> None:
    fetch(dsn, DROP_OURS)
    with (
        psycopg.connect(dsn) as other,
        psycopg.connect(dsn, autocommit=True, options="-c statement_timeout=20s") as maker,
    ):
        other.execute("LOCK TABLE analytics.hits_default IN ACCESS EXCLUSIVE MODE")
        make_partitions(maker)
        assert maker.execute("SHOW lock_timeout").fetchone() == ("0",), "it is for this alone"
        other.rollback()
        make_partitions(maker)
        assert maker.execute("SHOW lock_timeout").fetchone() == ("0",)
        assert missing_partitions(maker) == []


ZONES = pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12"])  # in one it is another day than UTC's


@ZONES
def test_the_partitions_of_rows_in_staging_are_made_once(dsn: str, zone: str) -> None:
    fetch(dsn, DROP_OURS)
    with psycopg.connect(dsn, options=f"-c timezone={zone}") as connection:
        connection.execute("CREATE TEMP TABLE staging (time timestamptz)")
        assert not make_partitions_of_staging(connection)
        for shift in (-3, 3):
            for hour in ("00:30", "23:30"):
                connection.execute("INSERT INTO staging VALUES (%s)", [f"{today() + timedelta(days=shift)} {hour}+00"])
        assert make_partitions_of_staging(connection)
        made = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'analytics.hits'::regclass"
        assert connection.execute(made).fetchone() == (8,), "seven days and the default one"
        assert not make_partitions_of_staging(connection)


@ZONES
def test_the_days_of_partitions_are_those_of_utc_and_who_has_made_them_waits_for_nothing(
    dsn: str, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(dsn, DROP_OURS)
    pauses = list[float]()
    monkeypatch.setattr("asgi_analytics.store.partitions.time.sleep", pauses.append)
    with psycopg.connect(dsn, autocommit=True, options=f"-c timezone={zone}") as connection:
        assert missing_partitions(connection) == [today(), today() + timedelta(days=1)]
        make_partitions(connection)
        assert (missing_partitions(connection), pauses) == ([], [])


FOREIGN_DEFAULT = (
    "DO $$ BEGIN CREATE ROLE maker; EXCEPTION WHEN duplicate_object THEN NULL; END $$; GRANT USAGE ON SCHEMA analytics"
    " TO maker; ALTER TABLE analytics.hits OWNER TO maker; ALTER FUNCTION analytics.ensure_partitions OWNER TO maker;"
    " ALTER FUNCTION analytics.lacking_partitions OWNER TO maker"
)


SLOW = ";".join(FORBID).replace("RAISE EXCEPTION 'no new tables here'", "PERFORM pg_sleep(60)")


@pytest.mark.parametrize(
    "harm", [FOREIGN_DEFAULT, SLOW.replace("<> 'pg_temp'", "= 'analytics'")], ids=["privilege", "too-slow"]
)
def test_where_partitions_cannot_be_made_rows_go_where_they_have_a_place(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    """As where somebody else owns the default one, or it has so many rows that to look through them takes too long."""
    monkeypatch.setitem(WRITER_SETTINGS, "statement_timeout", "1s")
    fetch(dsn, harm)
    with Rig(dsn, tmp_path / "j") as rig:
        rig.send(0, 5)
        wait_until(rig.delivered)
        assert (rig.counters.failures, rig.counters.retried) == ({"partitions": 1}, 0)
    assert set(places(dsn).values()) == {"analytics.hits_default"}


def test_doctor_says_that_the_default_partition_is_somebody_elses(dsn: str) -> None:
    fetch(dsn, FOREIGN_DEFAULT)
    told = [check for check in database_checks(dsn, NOW_US / 1e6) if check.subject == "partitions"]
    assert [(check.text, check.mark) for check in told] == [("permission denied for table hits_default", "WRONG")]
