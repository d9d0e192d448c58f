"""Where all rows are refused, as by a schema that was changed, none is set aside: they wait for an operator."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import psycopg
import pytest

from asgi_analytics.batch import DECISION, Batch
from asgi_analytics.embedded import EmbeddedPostgres
from asgi_analytics.errors import RowRejected, StoreMisconfigured
from asgi_analytics.facts import ThrottleLevel
from asgi_analytics.model import Decision
from asgi_analytics.record.encoding import decision_row
from asgi_analytics.record.frames import frame
from asgi_analytics.store.postgres import PostgresStore
from asgi_analytics.store.trials import Trials
from tests.record.rows import NOW_US, batch, fetch, hit, hit_frame, identity, one
from tests.waiting import wait_until

from .rig import AT_COMMIT, REFUSING, Rig, as_worker, stored

NARROW = "ALTER TABLE analytics.hits ADD CONSTRAINT narrow CHECK (length(path) < 3) NOT VALID"
WIDE = "ALTER TABLE analytics.hits DROP CONSTRAINT narrow"
FOLDED = ("sessions", "fingerprints", "incidents", "networks")  # tables of what hits add up to
NOTHING = "ALTER TABLE analytics.{0} ADD CONSTRAINT nothing CHECK (false) NOT VALID"
BROKEN = REFUSING.format("nobody_knows(NEW)").replace("hits", "{0}")


def test_a_schema_that_is_at_fault_but_when_it_is_looked_at_has_no_row_set_aside(dsn: str, tmp_path: Path) -> None:
    class Unlucky(PostgresStore):
        looks, is_over = 0, False

        def refuses(self, batch: Batch, others: Batch | None = None) -> bool:
            self.looks += 1
            fetch(dsn, WIDE)
            found = super().refuses(batch, others)
            if not self.is_over:
                fetch(dsn, NARROW)
            return found

    fetch(dsn, NARROW)
    rig, store = Rig(dsn, tmp_path / "j"), Unlucky(lambda: dsn)
    rig.writer._open_store = lambda: store
    rig.send(0, 20)
    with rig:
        wait_until(lambda: store.looks > 4 and rig.counters.retried > 1)
        store.is_over = True
        wait_until(rig.delivered)
    assert (stored(dsn), rig.counters.quarantined) == (list(range(20)), 0)


def test_nobody_changes_the_schema_between_the_trial_of_a_row_and_that_of_a_test_row(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal, came_between = Trials.refusal, []

    def slowly(self: Trials, *row: Any) -> RowRejected | None:
        found = refusal(self, *row)
        try:
            fetch(dsn, f"SET lock_timeout = '100ms'; {WIDE}")
            came_between.append(WIDE)
        except psycopg.errors.LockNotAvailable:
            pass
        return found

    monkeypatch.setattr(Trials, "refusal", slowly)
    fetch(dsn, NARROW)
    some = batch([hit("/e/1")])
    with contextlib.closing(PostgresStore(lambda: dsn)) as store:
        store.connect()
        with pytest.raises(StoreMisconfigured, match="takes no rows"):
            store.refuses(some)
        assert came_between == []
        fetch(dsn, WIDE)
        assert not store.refuses(some)


@pytest.mark.parametrize(
    ("harm", "repair"),
    [
        (REFUSING.format("true"), "DROP TRIGGER refuse ON analytics.hits"),
        (AT_COMMIT.format("true"), "DROP TRIGGER refuse ON analytics.hits"),
        ("ALTER TABLE analytics.hits RENAME TO away", "ALTER TABLE analytics.away RENAME TO hits"),
        (
            "ALTER TABLE analytics.sessions RENAME COLUMN hits TO x",
            "ALTER TABLE analytics.sessions RENAME COLUMN x TO hits",
        ),
        ("REVOKE INSERT ON analytics.hits FROM worker", "GRANT INSERT ON analytics.hits TO worker"),
        *(
            (
                f"ALTER TABLE analytics.{table} ADD CONSTRAINT fewer CHECK (hits < 10) NOT VALID",
                f"ALTER TABLE analytics.{table} DROP CONSTRAINT fewer",
            )
            for table in ("sessions", "fingerprints")
        ),
        (
            "ALTER TABLE analytics.positions ADD CONSTRAINT fewer CHECK (rows < 15) NOT VALID",
            "ALTER TABLE analytics.positions DROP CONSTRAINT fewer",
        ),
        # Of what a common row has, all the same: the largest row there may be keeps to these.
        *(
            (
                f"ALTER TABLE analytics.{table} ADD CONSTRAINT wrong CHECK ({rule}) NOT VALID",
                f"ALTER TABLE analytics.{table} DROP CONSTRAINT wrong",
            )
            for table, rule in (
                ("hits", "policy IS NULL OR length(policy) < 4"),
                ("hits", "route IS NOT NULL"),
                ("hits", "status > 500"),
                ("sessions", "entry_path IS NOT NULL"),
                ("fingerprints", "level_changed_at IS NOT NULL"),
            )
        ),
        (
            "DROP VIEW analytics.human_hits; ALTER TABLE analytics.hits ALTER policy TYPE varchar(4)",
            "ALTER TABLE analytics.hits ALTER policy TYPE text",
        ),
        (
            "DROP VIEW analytics.human_sessions; ALTER TABLE analytics.sessions ALTER policy TYPE varchar(4)",
            "ALTER TABLE analytics.sessions ALTER policy TYPE text",
        ),
        (
            "DROP VIEW analytics.human_hits; ALTER TABLE analytics.hits ALTER clock TYPE numeric(4, 2) USING 1.0",
            "ALTER TABLE analytics.hits ALTER clock TYPE float8",
        ),
    ],
    ids=[
        *("trigger", "at-commit", "table", "column", "privilege", "check-of-sessions", "check-of-fingerprints"),
        "check-of-positions",
        *("check-of-policies", "routes-required", "errors-only", "pages-required", "levels-required"),
        *("narrow-policy", "narrow-policy-of-sessions", "narrow-clock"),
    ],
)
def test_what_an_operator_must_repair_loses_nothing(dsn: str, tmp_path: Path, harm: str, repair: str) -> None:
    worker = as_worker(dsn)
    with Rig(worker, tmp_path / "j") as rig:
        rig.send(0, 10)
        wait_until(rig.delivered)
        fetch(dsn, harm)
        for number in range(10, 20):
            rig.recorder._append(hit_frame(f"/e/{number}", policy="0123456789ab"))
        wait_until(lambda: rig.writer.state.error is not None)
        assert one(dsn, "SELECT count(*) AS n FROM analytics.quarantine")["n"] == 0
        fetch(dsn, repair)
        wait_until(rig.delivered)
    assert stored(dsn) == list(range(20))


@pytest.mark.parametrize(
    ("table", "harm", "repair"),
    [
        *((table, NOTHING, "ALTER TABLE analytics.{0} DROP CONSTRAINT nothing") for table in FOLDED),
        *((table, BROKEN, "DROP TRIGGER refuse ON analytics.{0}") for table in FOLDED[:2]),
    ],
)
def test_a_table_that_takes_nothing_has_no_hit_set_aside_though_those_that_do_not_go_there_get_in(
    dsn: str, tmp_path: Path, table: str, harm: str, repair: str
) -> None:
    """As those of visitors who ask not to be told apart; of incidents, most."""
    fetch(dsn, harm.format(table))
    rig = Rig(dsn, tmp_path / "j")
    for number in range(0, 40, 2):
        nobody = hit_frame(f"/e/{number}", visitor=identity(tracked=False), session=None)
        rig.recorder._append(nobody + hit_frame(f"/e/{number + 1}", score=60 if number % 4 else 0))
    with rig:
        wait_until(lambda: rig.writer.state.error is not None or rig.delivered())
        fetch(dsn, repair.format(table))
        wait_until(rig.delivered)
    assert (stored(dsn), rig.counters.quarantined) == (list(range(40)), 0)


def test_a_table_of_rulings_that_takes_no_ban_has_no_hit_of_who_is_banned_set_aside(dsn: str, tmp_path: Path) -> None:
    fetch(dsn, NOTHING.format("rulings"))
    rig = Rig(dsn, tmp_path / "j")
    rig.writer._open_store = lambda: PostgresStore(lambda: dsn, bans=True)
    for number in range(20):
        offence = {"visitor": b"offender", "level": 3, "level_before": 1} if number % 5 == 0 else {}
        rig.recorder._append(hit_frame(f"/e/{number}", **offence))
    with rig:
        wait_until(lambda: rig.writer.state.error is not None or rig.delivered())
        fetch(dsn, "ALTER TABLE analytics.rulings DROP CONSTRAINT nothing")
        wait_until(rig.delivered)
    assert (stored(dsn), rig.counters.quarantined) == (list(range(20)), 0)
    assert one(dsn, "SELECT kind FROM analytics.rulings") == {"kind": "ban"}


def test_a_rule_that_refuses_all_hits_sets_none_aside_though_decisions_get_in(dsn: str, tmp_path: Path) -> None:
    fetch(dsn, "ALTER TABLE analytics.hits ADD CONSTRAINT narrow CHECK (length(path) < 3)")
    decision = Decision(ThrottleLevel.NORMAL, 0, id=b"d" * 16)
    row = decision_row(
        decision, {}, hit_id=b"h" * 16, time_us=NOW_US, enforced=True, site="default", identity=identity()
    )
    with Rig(dsn, tmp_path / "j") as rig:
        rig.recorder._append(frame(DECISION, row) + hit_frame("/e/0"))
        wait_until(lambda: rig.writer.state.error is not None)
        assert one(dsn, "SELECT count(*) AS n FROM analytics.quarantine")["n"] == 0
        fetch(dsn, "ALTER TABLE analytics.hits DROP CONSTRAINT narrow")
        wait_until(rig.delivered)
    assert stored(dsn) == [0]


def test_where_the_server_can_tell_no_more_hits_wait_and_none_is_set_aside(
    cluster_folder: Path, tmp_path: Path
) -> None:
    """A listener that does not listen fills the queue of NOTIFY; the COMMIT of any transaction that notifies fails."""
    with EmbeddedPostgres(cluster_folder) as server, psycopg.connect(server.dsn, autocommit=True) as connection:
        if connection.info.server_version < 170_000:
            pytest.skip("the queue takes 8 GB")
    with EmbeddedPostgres(cluster_folder, {"max_notify_queue_pages": "64"}) as server, Rig(server.dsn, tmp_path) as rig:
        rig.send(0, 1)
        wait_until(lambda: rig.counters.written == 1)
        fetch(server.dsn, REFUSING.replace("RAISE EXCEPTION 'not here'", "NOTIFY hits").format("true"))
        with psycopg.connect(server.dsn) as deaf, psycopg.connect(server.dsn, autocommit=True) as connection:
            deaf.execute("LISTEN hits")
            deaf.commit()
            deaf.execute("SELECT 1")
            with contextlib.suppress(psycopg.errors.ProgramLimitExceeded):
                while True:
                    connection.execute("SELECT pg_notify('hits', repeat('x', 7900))")
            rig.send(1, 20)
            wait_until(lambda: rig.counters.retried > 0)
            deaf.rollback()
        fetch(server.dsn, "SELECT pg_notification_queue_usage()")  # frees what nobody waits for
        wait_until(rig.delivered)
        assert (stored(server.dsn), rig.counters.quarantined) == (list(range(21)), 0)
