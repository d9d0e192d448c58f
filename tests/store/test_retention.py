"""Retention: what is older than it is to be kept goes, whatever the partitions are, and nothing else does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from asgi_analytics.clock import Calendar, SystemClock
from asgi_analytics.errors import StoreMisconfigured, StoreUnavailable
from asgi_analytics.store import queries, retention
from asgi_analytics.store.postgres import PostgresStore
from tests.drive import called, page, start, wrapped
from tests.record.rows import NOW_US, batch, deliver, fetch, hit
from tests.waiting import wait_until

DAY_US = 24 * 3600 * 1_000_000
KEPT = timedelta(days=30)
OTHERS = {
    "decisions": "INSERT INTO analytics.decisions SELECT gen_random_uuid(), {0}, 'default', gen_random_uuid(),"
    " NULL, NULL, true, true, 0, NULL, 0, 1, '{{}}'",
    "refusals": "INSERT INTO analytics.refusals SELECT {0}, 'default', gen_random_uuid(), gen_random_uuid(), 7",
    "quarantine": "INSERT INTO analytics.quarantine (created_at, journal, segment, position, kind, columns, raw, error)"
    " SELECT {0}, gen_random_uuid(), 1, 0, 'hit', '{{}}', '', ''",
}


def visit(store: PostgresStore, days_ago: float) -> None:
    """Store a hit of a visitor of its own."""
    name = f"{days_ago}".encode()
    deliver(store, batch([hit(f"/{days_ago}", visitor=name, session=name, time_us=NOW_US - round(days_ago * DAY_US))]))


def count(dsn: str, table: str) -> int:
    return int(fetch(dsn, f"SELECT count(*) AS rows FROM analytics.{table}")[0]["rows"])


def paths(dsn: str) -> list[str]:
    return [row["path"] for row in fetch(dsn, "SELECT path FROM analytics.hits ORDER BY time")]


def test_hits_sessions_and_visitors_that_are_older_go(store: PostgresStore, dsn: str) -> None:
    for days_ago in (400, 31, 29, 0):
        visit(store, days_ago)
    done = store.forget(KEPT)
    assert paths(dsn) == ["/29", "/0"]
    assert {table: count(dsn, table) for table in ("sessions", "fingerprints")} == {"sessions": 2, "fingerprints": 2}
    assert (done["hits"], done["sessions"], done["fingerprints"]) == (2, 2, 2)


@pytest.mark.parametrize("table", OTHERS)
def test_other_rows_that_are_older_go(store: PostgresStore, dsn: str, table: str) -> None:
    for days_ago in (31, 29):
        fetch(dsn, OTHERS[table].format(f"now() - interval '{days_ago} days'"))
    assert store.forget(KEPT)[table] == 1
    assert count(dsn, table) == 1


def test_partitions_that_are_older_as_a_whole_are_dropped(store: PostgresStore, dsn: str) -> None:
    fetch(dsn, "SELECT analytics.ensure_partitions(current_date - 40, current_date)")
    for days_ago in (35, 29):
        visit(store, days_ago)
    for setting in ("datestyle = 'German'", "standard_conforming_strings = off"):
        with suppress(psycopg.errors.FeatureNotSupported):  # from PostgreSQL 19 on strings are standard
            fetch(dsn, f'ALTER DATABASE "{psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]}" SET {setting}')
    store.connect()
    done = store.forget(KEPT)
    assert (done["partitions"], done["hits"]) == (10, 0)
    assert paths(dsn) == ["/29"]
    oldest = f"hits_{datetime.now(UTC) - timedelta(days=30):%Y%m%d}"
    names = fetch(dsn, "SELECT relname FROM pg_class WHERE relname ~ '^hits_[0-9]+$' AND relkind = 'r' ORDER BY 1")
    assert names[0]["relname"] == oldest


def test_partitions_of_an_operator_are_dropped_as_a_whole_only(store: PostgresStore, dsn: str) -> None:
    today = datetime.now(UTC).date()
    for name, first, last in (("quarter", -120, -40), ("month", -40, -10)):
        bounds = f"FOR VALUES FROM ('{today + timedelta(days=first)}') TO ('{today + timedelta(days=last)}')"
        fetch(dsn, f'CREATE TABLE public."their {name}" PARTITION OF analytics.hits {bounds}')
    for days_ago in (100, 38, 20, 0):
        visit(store, days_ago)
    done = store.forget(KEPT)
    assert (done["partitions"], done["hits"]) == (1, 1)
    assert paths(dsn) == ["/20", "/0"]


def test_hits_without_partitions_go_too(store: PostgresStore, dsn: str) -> None:
    fetch(dsn, "ALTER TABLE analytics.hits RENAME TO parts")
    fetch(dsn, "CREATE TABLE analytics.hits (LIKE analytics.parts)")
    for days_ago in (31, 0):
        visit(store, days_ago)
    assert store.forget(KEPT)["hits"] == 1
    assert paths(dsn) == ["/0"]


def test_a_visit_that_goes_on_is_kept_whole(store: PostgresStore, dsn: str) -> None:
    for days_ago in (31.0, 30.999, 0.0):
        deliver(store, batch([hit(visitor=b"v", session=b"s", time_us=NOW_US - round(days_ago * DAY_US))]))
    fetch(dsn, "UPDATE analytics.sessions SET last_seen_at = now()")
    assert store.forget(KEPT)["sessions"] == 0


def test_much_goes_in_several_goes_and_the_command_waits_for_all(
    store: PostgresStore, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MAX_ROWS", 2)
    fetch(dsn, OTHERS["refusals"].format("now() - interval '31 days'") + " FROM generate_series(1, 11)")
    assert store.forget(KEPT)["refusals"] == 2
    assert "9 rows of refusals are older" in called("purge", "--older", "30d", "--dsn", dsn).stdout
    assert count(dsn, "refusals") == 9
    printed = called("purge", "--older", "30d", "--yes", "--dsn", dsn)
    assert printed.stdout.splitlines()[0] == "0 partitions of hits dropped"
    assert "9 rows of refusals deleted" in printed.stdout
    assert count(dsn, "refusals") == 0


def test_a_single_row_is_told_in_the_singular(dsn: str) -> None:
    fetch(dsn, OTHERS["refusals"].format("now() - interval '31 days'"))
    told = [called("purge", "--older", "30d", *yes, "--dsn", dsn).stdout.splitlines() for yes in ((), ("--yes",))]
    assert "1 row of refusals is older" in told[0]
    assert "1 row of refusals deleted" in told[1]


def test_counting_all_hits_may_take_longer_than_other_statements_of_the_role(dsn: str) -> None:
    limited = make_conninfo(dsn, options="-c statement_timeout=5s")
    with retention.connect(limited) as session, session.statement() as connection:
        assert connection.execute("SHOW statement_timeout").fetchone() == ("0",)


def test_who_counts_keeps_nobody_from_deleting_and_is_kept_from_nothing(store: PostgresStore, dsn: str) -> None:
    """Counting all hits may take minutes, in which workers clear away nothing."""
    visit(store, 40)
    with retention.connect(dsn) as one, retention._transaction(one, deletes=False):
        assert store.forget(KEPT)["sessions"] == 1
    with retention.connect(dsn) as one, retention._transaction(one):
        answer = called("purge", "--older", "1d", "--dsn", dsn)
    assert (answer.returncode, answer.stderr) == (0, "")


def test_old_hits_of_one_moment_go_together(store: PostgresStore, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MAX_ROWS", 2)
    for days_ago in (*[33.0] * 5, 32.0, 31.0, 0.0):
        visit(store, days_ago)
    # Their sessions and visitors first.
    assert [store.forget(KEPT)["hits"] for _ in range(4)] == [0, 5, 2, 0]
    assert paths(dsn) == ["/0.0"]


def test_who_reads_for_long_keeps_a_partition_and_makes_nobody_wait(store: PostgresStore, dsn: str) -> None:
    fetch(dsn, "SELECT analytics.ensure_partitions(current_date - 32, current_date)")
    with psycopg.connect(dsn) as reader:
        reader.execute("SELECT count(*) FROM analytics.hits")
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            store.forget(KEPT)
        visit(store, 0)
    assert store.forget(KEPT)["partitions"] == 2


def test_a_purge_that_fails_half_way_says_what_it_has_deleted(store: PostgresStore, dsn: str) -> None:
    fetch(dsn, "SELECT analytics.ensure_partitions(current_date - 32, current_date)")
    visit(store, 31.5)
    with psycopg.connect(dsn) as reader:
        reader.execute("SELECT count(*) FROM analytics.hits")
        printed = called("purge", "--older", "30d", "--yes", "--dsn", dsn)
    assert printed.returncode == 1
    assert printed.stdout.splitlines()[:3] == [
        "0 partitions of hits dropped", "1 row of sessions deleted", "1 row of fingerprints deleted"
    ]  # fmt: skip
    assert "Another session holds a table" in printed.stderr


def test_who_publishes_hits_that_cannot_be_deleted_from_keeps_nothing_else(store: PostgresStore, dsn: str) -> None:
    visit(store, 40)
    visit(store, 0)
    fetch(dsn, "CREATE PUBLICATION everything FOR ALL TABLES")
    with pytest.raises(StoreUnavailable, match="REPLICA IDENTITY"):
        store.forget(KEPT)
    assert (count(dsn, "sessions"), count(dsn, "fingerprints")) == (1, 1)
    partitions = "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'analytics.hits'::regclass"
    for row in fetch(dsn, partitions):
        fetch(dsn, f"ALTER TABLE {row['name']} REPLICA IDENTITY FULL")
    assert store.forget(KEPT)["hits"] == 1


def test_what_a_worker_forgets_goes_in_parts_between_which_it_delivers(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MAX_ROWS", 2)
    monkeypatch.setattr(retention, "MAX_PARTITIONS", 1)
    store = PostgresStore(lambda: dsn, retention_days=30)
    with closing(store):
        store.connect()
        fetch(dsn, "SELECT analytics.ensure_partitions(current_date - 32, current_date)")
        fetch(dsn, OTHERS["refusals"].format("now() - interval '31 days'") + " FROM generate_series(1, 5)")
        left = [(store.tidy(), count(dsn, "refusals"), len(outdated(dsn))) for _ in range(6)]
    assert left == [(True, 3, 2), (True, 1, 2), (True, 0, 1), (True, 0, 0), (False, 0, 0), (False, 0, 0)]


def outdated(dsn: str) -> list[str]:
    """The partitions of 32 and 31 days ago."""
    names = [f"hits_{datetime.now(UTC) - timedelta(days=days):%Y%m%d}" for days in (32, 31)]
    found = fetch(dsn, "SELECT relname FROM pg_class WHERE relname = ANY(%s) ORDER BY 1", names)
    return [row["relname"] for row in found]


def test_a_partition_that_an_operator_detaches_at_that_moment_is_kept(store: PostgresStore, dsn: str) -> None:
    fetch(dsn, "SELECT analytics.ensure_partitions(current_date - 32, current_date)")
    oldest, _ = outdated(dsn)
    with psycopg.connect(dsn) as operator, ThreadPoolExecutor(1) as pool:
        operator.execute(f"ALTER TABLE analytics.hits DETACH PARTITION analytics.{oldest}".encode())
        forgotten = pool.submit(store.forget, KEPT)
        wait_until(lambda: fetch(dsn, "SELECT 1 FROM pg_locks WHERE NOT granted") != [])
        operator.commit()
        assert forgotten.result()["partitions"] == 1
    assert outdated(dsn) == [oldest]


def test_a_worker_forgets_by_itself(dsn: str, store: PostgresStore) -> None:
    for days_ago in (31, 0):
        visit(store, days_ago)
    with wrapped(page(), dsn, retention_days=30) as app:
        start(app)
        wait_until(lambda: paths(dsn) == ["/0"], 10, "the retention")


def test_who_does_not_own_the_tables_is_told(dsn: str, store: PostgresStore) -> None:
    fetch(dsn, "SELECT analytics.ensure_partitions(current_date - 32, current_date)")
    fetch(dsn, "DO $$ BEGIN CREATE ROLE worker LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    fetch(dsn, "GRANT USAGE ON SCHEMA analytics TO worker")
    fetch(dsn, "GRANT ALL ON ALL TABLES IN SCHEMA analytics TO worker")
    other = PostgresStore(lambda: make_conninfo(dsn, options="-c role=worker"), migrate=False)
    other.connect()
    with pytest.raises(StoreMisconfigured, match="must be owner of table hits_"):
        other.forget(KEPT)
    other.close()


@pytest.mark.parametrize("table", [table for table in retention.TABLES if table != "quarantine"])
def test_where_nothing_is_older_no_table_is_read_as_a_whole(dsn: str, table: str) -> None:
    query = b"EXPLAIN " + queries.load("retention")[f"forget_{table}"].encode()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET enable_seqscan = off")  # which a table without rows is read by all the same
        plan = connection.execute(query, {"kept": KEPT, "most": 1}).fetchall()
    assert [line for (line,) in plan if "Seq Scan" in line] == []


def test_two_purges_at_once_tell_of_each_partition_once(store: PostgresStore, dsn: str) -> None:
    fetch(dsn, "SELECT analytics.ensure_partitions(current_date - 60, current_date)")
    with psycopg.connect(dsn) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(hashtext('analytics.retention'))")
        with ThreadPoolExecutor(2) as pool:
            purges = [pool.submit(_purged, dsn) for _ in range(2)]
            wait_until(
                lambda: len(fetch(dsn, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")) == 2
            )
            holder.rollback()
            dropped = [purge.result() for purge in purges]
    assert sum(dropped) == 30


def test_nothing_is_old_by_a_servers_clock_that_is_days_ahead(
    dsn: str, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one that leaps by a year, for a minute, all would be gone by then."""
    visit(store, 40)
    late, now = SystemClock.time_ns() - 2 * DAY_US * 1000, SystemClock.time_ns
    with closing(PostgresStore(lambda: dsn, retention_days=30)) as other:
        other.connect()
        monkeypatch.setattr(SystemClock, "time_ns", lambda: late)
        other._calendar = Calendar()
        with pytest.raises(StoreMisconfigured, match="clock is 2 days ahead of this machine's"):
            other.tidy()
        assert count(dsn, "hits") == 1
        monkeypatch.setattr(SystemClock, "time_ns", now)
        other._calendar = Calendar()
        other.tidy()
    assert count(dsn, "hits") == 0


@pytest.mark.parametrize(("hours", "told"), [(1, "3,600 s ahead of"), (-1, "3,600 s behind"), (0, "")])
def test_a_worker_says_that_its_clock_is_not_the_servers(
    dsn: str, hours: int, told: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = SystemClock.time_ns
    monkeypatch.setattr(SystemClock, "time_ns", lambda: now() + hours * DAY_US * 1000 // 24)
    with closing(PostgresStore(lambda: dsn)) as store:
        store.connect()
        store.tidy()
    assert [told in line for line in caplog.messages] == ([True] if told else [])


def test_a_worker_waits_for_no_other_that_clears_away(dsn: str) -> None:
    """Each would hold up its delivery for two seconds, where several were started at the same time."""
    with closing(PostgresStore(lambda: dsn, retention_days=30)) as store, psycopg.connect(dsn) as other:
        store.connect()
        fetch(dsn, OTHERS["refusals"].format("now() - interval '31 days'"))
        other.execute("SELECT pg_advisory_xact_lock(hashtext('analytics.retention'))")
        assert not store.tidy()
        assert count(dsn, "refusals") == 1
        other.rollback()
        assert not store.tidy()
        assert count(dsn, "refusals") == 0


def _purged(dsn: str) -> int:
    with retention.connect(dsn) as session:
        return retention.forget(session, KEPT)["partitions"]


def test_what_becomes_older_while_it_is_purged_waits_for_the_next_purge(dsn: str) -> None:
    """Else one of what is older than a second would not end as long as visitors come."""
    again = OTHERS["refusals"].format("OLD.minute").replace(", 7", ", OLD.refusals + 1")
    fetch(dsn, OTHERS["refusals"].format("now() - interval '31 days'"))
    fetch(
        dsn,
        f"""CREATE FUNCTION public.again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF OLD.refusals < 30 THEN {again}; END IF; RETURN NULL; END $$;
        CREATE TRIGGER again AFTER DELETE ON analytics.refusals FOR EACH ROW EXECUTE FUNCTION public.again()""",
    )
    assert "1 row of refusals deleted" in called("purge", "--older", "30d", "--yes", "--dsn", dsn).stdout
    assert fetch(dsn, "SELECT refusals FROM analytics.refusals") == [{"refusals": 8}]
