"""Rows that Postgres refuses are set aside, and their neighbours stored."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_analytics.batch import HIT, Batch
from asgi_analytics.errors import RowRejected
from asgi_analytics.model import Merged
from asgi_analytics.record.frames import frame
from asgi_analytics.record.recorder import COLUMNS
from asgi_analytics.store.connection import WRITER_SETTINGS
from asgi_analytics.store.doubt import field
from asgi_analytics.store.postgres import PostgresStore
from asgi_analytics.store.trials import slow_row
from tests.record.rows import NOW_US, batch, fetch, hit, hit_frame, one
from tests.waiting import wait_until

from .rig import AT_COMMIT, REFUSING, TERMINATE, Rig, as_worker, stored


@pytest.mark.parametrize("broken", [hit("/e/x")[:-3] + b"xxx", hit("/e/x") + b"more", b"\0\x01\0\0"])
def test_a_poison_row_is_set_aside_and_its_neighbours_are_stored(dsn: str, tmp_path: Path, broken: bytes) -> None:
    rig = Rig(dsn, tmp_path / "j")
    rig.send(0, 20)
    rig.recorder._append(frame(HIT, broken))
    rig.send(20, 20)
    with rig:
        wait_until(rig.delivered)
    assert stored(dsn) == list(range(40))
    row = one(dsn, "SELECT kind, raw, sqlstate, columns FROM analytics.quarantine")
    assert (row["kind"], row["raw"], tuple(row["columns"])) == ("hit", broken, COLUMNS[HIT])
    assert row["sqlstate"][:2] == "22"
    assert (rig.counters.written, rig.counters.quarantined) == (40, 1)


def test_a_poison_row_waits_for_nobody_who_works_on_an_old_partition(dsn: str, tmp_path: Path) -> None:
    fetch(dsn, "CREATE TABLE public.old PARTITION OF analytics.hits FOR VALUES FROM ('2020-01-01') TO ('2020-02-01')")
    with psycopg.connect(dsn) as operator:
        operator.execute("LOCK TABLE public.old")  # as VACUUM FULL does
        with Rig(dsn, tmp_path / "j") as rig:
            rig.send(0, 20)
            rig.recorder._append(frame(HIT, hit("/e/x")[:-3] + b"xxx"))
            wait_until(rig.delivered, 8)  # before lock_timeout
    assert (rig.counters.written, rig.counters.quarantined, rig.counters.retried) == (20, 1, 0)


def test_a_row_that_was_set_aside_does_not_count_as_written_when_the_connection_breaks_later(rig: Rig) -> None:
    rig.send(0, 3)
    rig.recorder._append(frame(HIT, b"poison"))
    wait_until(rig.delivered)
    fetch(rig.dsn, TERMINATE)
    rig.writer._schedule.clear()  # so that it is something else that finds the connection gone
    state, delivery = rig.writer.state, rig.writer._delivery
    wait_until(lambda: rig.counters.retried > 0 and state.connected and bool(delivery._positions))
    assert (rig.counters.written, rig.counters.quarantined) == (3, 1)


def test_a_row_that_a_trigger_refuses_is_set_aside_and_its_neighbours_are_stored(dsn: str, tmp_path: Path) -> None:
    fetch(dsn, REFUSING.format("NEW.path = '/e/20'"))
    with Rig(dsn, tmp_path / "j") as rig:
        rig.send(0, 40)
        wait_until(rig.delivered)
    assert stored(dsn) == [number for number in range(40) if number != 20]
    assert one(dsn, "SELECT sqlstate FROM analytics.quarantine")["sqlstate"] == "P0001"


# As for a dashboard: what is longer than 8,000 bytes cannot be told, such as a row with long texts.
TELLING = REFUSING.replace("RAISE EXCEPTION 'not here'", "PERFORM pg_notify('hits', {})").format(
    "true", "NEW.path || repeat('x', CASE NEW.path WHEN '/e/20' THEN 8000 ELSE 5000 END)"
)
RAISING = "NEW.path = '/e/20' THEN RAISE EXCEPTION 'not here' USING ERRCODE = '{}'; END IF; IF false"


@pytest.mark.parametrize(
    "rule",
    [
        *(REFUSING.format(RAISING.format(state)) for state in ("45000", "UQ001", "38000", "42501", "0A000")),
        REFUSING.format("NEW.path = '/e/20' OR length(NEW.path) > 100"),
        TELLING,
        "CREATE INDEX ON analytics.hits ((substr(path, 4)::integer / (substr(path, 4)::integer - 20)))",
        AT_COMMIT.format("NEW.path = '/e/20' OR length(NEW.path) > 100"),
        "ALTER TABLE analytics.hits ADD CHECK (path <> '/e/20' AND bytes_sent < 1 << 30)",
        """
        CREATE TABLE public.sites (name text PRIMARY KEY); INSERT INTO public.sites VALUES ('default');
        ALTER TABLE analytics.hits ADD CHECK (path <> '/e/20'), ADD FOREIGN KEY (site) REFERENCES public.sites
        """,
    ],
    ids=[
        "own-code",
        "own-class",
        "another-language",
        "an-operators",
        "not-supported",
        "also-the-widest",
        "too-long-to-tell",
        "index-of-an-expression",
        "at-commit",
        "also-the-largest",
        "foreign-key",
    ],
)
def test_an_operators_rule_for_some_rows_holds_up_no_others(dsn: str, tmp_path: Path, rule: str) -> None:
    fetch(dsn, rule)
    with Rig(dsn, tmp_path / "j") as rig:
        rig.send(0, 40)
        wait_until(rig.delivered)
    assert stored(dsn) == [number for number in range(40) if number != 20]
    assert one(dsn, "SELECT count(*) AS n FROM analytics.quarantine") == {"n": 1}


@pytest.mark.parametrize(
    "rule",
    [
        "incidents ADD CHECK (points < 12)",
        "incidents ADD CHECK (kind <> 'blocked')",
        *("incidents ADD CHECK (points > 90)", "networks ADD CHECK (false)"),  # of these, for all
    ],
)
def test_a_rule_for_some_incidents_holds_up_no_other_hit(dsn: str, tmp_path: Path, rule: str) -> None:
    fetch(dsn, f"ALTER TABLE analytics.{rule}")
    rig = Rig(dsn, tmp_path / "j")
    for number in range(20):
        offence = {"visitor": b"offender", "level": 3, "level_before": 1} if number % 5 == 0 else {}
        rig.recorder._append(hit_frame(f"/e/{number}", **offence))
    with rig:
        wait_until(lambda: rig.writer.state.error is not None or rig.delivered())
        some = "> 90" not in rule and "false" not in rule
        assert (rig.writer.state.error is None) is some
        if some:
            assert stored(dsn) == [number for number in range(20) if number % 5]
            assert rig.counters.quarantined == 4


def test_a_row_that_a_trigger_takes_too_long_for_is_set_aside_and_its_neighbours_are_stored(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WRITER_SETTINGS, "statement_timeout", "100ms")
    fetch(dsn, REFUSING.format("NEW.path = '/e/7' THEN PERFORM pg_sleep(20); END IF; IF false"))
    rig = Rig(dsn, tmp_path / "j")
    rig.send(0, 10)
    with rig:
        wait_until(rig.delivered)
    assert stored(dsn) == [number for number in range(10) if number != 7]
    assert one(dsn, "SELECT sqlstate FROM analytics.quarantine")["sqlstate"] == "57014"


class Counting(PostgresStore):
    """A store that counts the transfers that took longer than a statement may."""

    slow = 0

    def write(self, batch: Batch) -> list[Merged]:
        try:
            return super().write(batch)
        except RowRejected as error:
            self.slow += error.took_too_long
            raise


# Ends a statement as statement_timeout does, without the wait, which is counted: so no other row is late on a busy
# machine. A sequence keeps what a transaction that is rolled back adds.
WAITING = """
    CREATE SEQUENCE public.waited; GRANT ALL ON public.waited TO public;
    CREATE FUNCTION public.wait() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM setval('public.waited', nextval('public.waited') - 1 +
            extract(epoch FROM current_setting('statement_timeout')::interval)::integer);
        RAISE EXCEPTION 'canceling statement due to statement timeout' USING ERRCODE = '57014';
    END $$;
    CREATE TRIGGER wait BEFORE INSERT ON analytics.hits
    FOR EACH ROW WHEN (NEW.path IN ({})) EXECUTE FUNCTION public.wait()
"""


@pytest.mark.parametrize(("rows", "poison"), [(40, {0}), (200, {137}), (200, {20, 199})], ids=["first", "one", "two"])
def test_a_row_that_takes_for_ever_is_found_without_waiting_for_it_at_each_step(
    dsn: str, tmp_path: Path, rows: int, poison: set[int]
) -> None:
    """All of the minute passes for all rows, and twice for the row by itself; each try has a twentieth of it."""
    fetch(dsn, WAITING.format(", ".join(f"'/e/{number}'" for number in poison)))
    rig, store = Rig(dsn, tmp_path / "j"), Counting(lambda: dsn)
    rig.writer._open_store = lambda: store
    rig.send(0, rows)
    with rig:
        wait_until(rig.delivered, 60)
    assert stored(dsn) == [number for number in range(rows) if number not in poison]
    assert rig.counters.quarantined == len(poison)
    if len(poison) == 1:
        assert store.slow == 2, "all, then the row by itself"
        assert rig.counters.retried == 0
        tries = rows.bit_length() + 1
        assert one(dsn, "SELECT last_value FROM public.waited")["last_value"] <= 3 * 60 + tries * 3


def test_where_the_server_is_slow_for_all_rows_none_is_at_fault(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WRITER_SETTINGS, "statement_timeout", "2s")
    some = batch([hit(f"/e/{number}") for number in range(8)])
    with contextlib.closing(PostgresStore(lambda: dsn)) as store, psycopg.connect(dsn) as other:
        store.connect()
        store.position(some.journal)
        assert store.slow_row(some) is None
        other.execute("LOCK analytics.sessions")
        assert store.slow_row(some) is None
        other.rollback()
        store.write(some)
    assert stored(dsn) == list(range(8))


@given(st.integers(1, 40), st.sets(st.integers(0, 39), max_size=3))
def test_one_slow_row_is_found_wherever_it_is_and_of_several_none(count: int, slow: set[int]) -> None:
    slow = {place for place in slow if place < count}
    tries: list[bool] = []

    def gets_in(first: int, last: int) -> bool:
        tries.append(slow.isdisjoint(range(first, last)))
        return tries[-1]

    assert slow_row(count, gets_in) == (slow.pop() if len(slow) == 1 else None)
    assert len(tries) <= 2 * count.bit_length() + 1


@pytest.mark.parametrize("state", ["P0001", "42501"])
def test_where_many_rows_are_refused_it_takes_few_transfers_to_set_them_aside(
    dsn: str, tmp_path: Path, state: str
) -> None:
    """As where an operator keeps bots out by a trigger: one by one, more would come than were set aside."""
    fetch(dsn, REFUSING.format(f"NEW.path ~ '[02468]$' THEN RAISE EXCEPTION 'not here' USING ERRCODE = '{state}'; END"
                               " IF; IF false"))  # fmt: skip
    rig = Rig(dsn, tmp_path / "j")
    store, calls = PostgresStore(lambda: dsn), list[int]()

    def write(batch: Batch) -> list[Merged]:
        calls.append(len(batch.frames))
        return PostgresStore.write(store, batch)

    store.write = write  # type: ignore[method-assign]
    rig.writer._open_store = lambda: store
    rig.send(0, 50)
    with rig:
        wait_until(rig.delivered)
    assert stored(dsn) == list(range(1, 50, 2))
    assert calls == [50, 50], "all, and then those that get in"
    assert (rig.counters.written, rig.counters.quarantined) == (25, 25)
    set_aside = fetch(dsn, "SELECT kind, sqlstate, error, columns, raw FROM analytics.quarantine ORDER BY position")
    assert {(row["kind"], row["sqlstate"]) for row in set_aside} == {("hit", state)}
    (told,) = {row["error"] for row in set_aside}
    assert told.startswith("not here CONTEXT: PL/pgSQL function ")
    assert told.endswith("refuse() line 2 at RAISE")
    assert [hit_path(row["raw"], row["columns"]) for row in set_aside] == [f"/e/{n}" for n in range(0, 50, 2)]


def hit_path(raw: bytes, columns: list[str]) -> str:
    return field(raw, columns.index("path")).decode()


def test_rows_that_their_partition_or_another_table_refuses_are_looked_at_one_by_one(dsn: str) -> None:
    some = batch([hit(f"/{number}", session=b"%d" % number) for number in range(4)])
    refuse = "ALTER TABLE analytics.sessions ADD CONSTRAINT few CHECK (started_at IS NULL) NOT VALID"
    with contextlib.closing(PostgresStore(lambda: dsn)) as store:
        store.connect()
        assert store.refused_hits(some) == {}
        fetch(dsn, refuse)
        assert store.refused_hits(some) == {}
        fetch(dsn, "ALTER TABLE analytics.sessions DROP CONSTRAINT few")
        fetch(dsn, "ALTER TABLE analytics.hits ADD CHECK (path <> '/2')")
        (refused,) = store.refused_hits(some).items()
        assert (refused[0], refused[1].kind, refused[1].sqlstate) == (2, HIT, "23514")
        assert refused[1].error.endswith('violates check constraint "hits_path_check"')
        far = batch([hit("/2", time_us=NOW_US + 400 * 86_400_000_000), hit("/2")])
        fetch(dsn, "DROP TABLE analytics.hits_default")
        assert store.refused_hits(far) == {}
    fetch(dsn, "REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC")
    with contextlib.closing(PostgresStore(lambda: as_worker(dsn), migrate=False)) as store:
        store.connect()
        assert store.refused_hits(some) == {}


def test_of_a_journal_in_doubt_no_row_that_is_stored_is_set_aside(dsn: str, tmp_path: Path) -> None:
    """Rows that got in would be refused by now; and a marked row that begins like a decision is none."""
    with Rig(dsn, tmp_path / "j") as rig:
        rig.send(0, 10)
        wait_until(rig.delivered)
        fetch(dsn, REFUSING.format("NEW.path ~ '[02468]$'"))
        fetch(dsn, "DELETE FROM analytics.positions")
        for number in range(10, 20):
            rig.recorder._append(hit_frame(f"/e/{number}", hit_id=b"\0\0d" + bytes(12) + bytes([number])))
        wait_until(lambda: rig.counters.quarantined > 0)
        wait_until(rig.delivered)
    assert stored(dsn) == [*range(10), *range(11, 20, 2)]
    rows = fetch(dsn, "SELECT raw, columns FROM analytics.quarantine ORDER BY position")
    assert [hit_path(row["raw"], row["columns"]) for row in rows] == [f"/e/{number}" for number in range(10, 20, 2)]
