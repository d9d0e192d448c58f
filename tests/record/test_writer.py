from __future__ import annotations

import errno
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from asgi_analytics.batch import DECISION, HIT, Batch
from asgi_analytics.clock import SystemClock
from asgi_analytics.embedded import EmbeddedPostgres
from asgi_analytics.errors import StoreUnavailable
from asgi_analytics.facts import ThrottleLevel
from asgi_analytics.model import Decision, Merged
from asgi_analytics.record import keeper
from asgi_analytics.record import writer as writer_module
from asgi_analytics.record.adoption import adopt
from asgi_analytics.record.encoding import decision_row
from asgi_analytics.record.journal import FileJournal
from asgi_analytics.record.pace import Backoff
from asgi_analytics.record.recorder import COLUMNS, Counters, Recorder
from asgi_analytics.record.segment import frame
from asgi_analytics.record.writer import Writer
from asgi_analytics.settings import Settings
from asgi_analytics.store.postgres import SESSION, PostgresStore
from asgi_analytics.testing import FakeClock, MemoryState, MemoryStore
from tests.record.rows import NOW_US, fetch, hit, hit_frame, identity, one

from .rig import WAIT, Rig, eventually, stored


@pytest.fixture
def rig(dsn: str, tmp_path: Path) -> Iterator[Rig]:
    with Rig(dsn, tmp_path / "j") as rig:
        yield rig


def test_all_rows_arrive_once(rig: Rig) -> None:
    rig.send(0, 1000)
    eventually(rig.delivered)
    rig.send(1000, 10)
    eventually(rig.delivered)
    assert stored(rig.dsn) == list(range(1010))
    assert (rig.counters.queued, rig.counters.written) == (1010, 1010)


def test_stopping_delivers_what_is_left_and_clears_the_folder(dsn: str, tmp_path: Path) -> None:
    rig = Rig(dsn, tmp_path / "j")
    with rig:
        rig.send(0, 700)
    assert stored(dsn) == list(range(700))
    assert list((tmp_path / "j").iterdir()) == []


def test_memory_mode_delivers_too(dsn: str, tmp_path: Path) -> None:
    with Rig(dsn, tmp_path / "j", "memory") as rig:
        rig.send(0, 300)
    assert stored(dsn) == list(range(300))
    assert not (tmp_path / "j").exists()


def test_a_folder_that_cannot_be_written_means_memory_and_one_warning(
    dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "j").write_text("a file")
    with caplog.at_level(logging.WARNING), Rig(dsn, tmp_path / "j") as rig:
        rig.send(0, 5)
    assert stored(dsn) == list(range(5))
    assert [record.message for record in caplog.records if "memory only" in record.message] != []


@pytest.mark.parametrize("broken", [hit("/e/x")[:-3] + b"xxx", hit("/e/x") + b"more", b"\0\x01\0\0"])
def test_a_poison_row_is_set_aside_and_its_neighbours_are_stored(dsn: str, tmp_path: Path, broken: bytes) -> None:
    rig = Rig(dsn, tmp_path / "j")
    rig.send(0, 20)
    rig.recorder._append(frame(HIT, broken))
    rig.send(20, 20)
    with rig:
        eventually(rig.delivered)
    assert stored(dsn) == list(range(40))
    row = one(dsn, "SELECT kind, raw, sqlstate, columns FROM analytics.quarantine")
    assert (row["kind"], row["raw"], tuple(row["columns"])) == ("hit", broken, COLUMNS[HIT])
    assert row["sqlstate"][:2] == "22"
    assert (rig.counters.written, rig.counters.quarantined) == (40, 1)


REFUSING = """
    CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN IF {} THEN RAISE EXCEPTION 'not here'; END IF; RETURN NEW; END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON analytics.hits FOR EACH ROW EXECUTE FUNCTION public.refuse()
"""
AT_COMMIT = REFUSING.replace("TRIGGER refuse BEFORE", "CONSTRAINT TRIGGER refuse AFTER").replace(
    "FOR EACH", "INITIALLY DEFERRED FOR EACH"
)


def test_a_row_that_a_trigger_refuses_is_set_aside_and_its_neighbours_are_stored(dsn: str, tmp_path: Path) -> None:
    fetch(dsn, REFUSING.format("NEW.path = '/e/20'"))
    with Rig(dsn, tmp_path / "j") as rig:
        rig.send(0, 40)
        eventually(rig.delivered)
    assert stored(dsn) == [number for number in range(40) if number != 20]
    assert one(dsn, "SELECT sqlstate FROM analytics.quarantine")["sqlstate"] == "P0001"


RAISING = "NEW.path = '/e/20' THEN RAISE EXCEPTION 'not here' USING ERRCODE = '{}'; END IF; IF false"


@pytest.mark.parametrize(
    "rule",
    [
        *(REFUSING.format(RAISING.format(state)) for state in ("45000", "UQ001", "38000", "42501", "0A000")),
        REFUSING.format("NEW.path = '/e/20' OR length(NEW.path) > 100"),
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
        "at-commit",
        "also-the-largest",
        "foreign-key",
    ],
)
def test_an_operators_rule_for_some_rows_holds_up_no_others(dsn: str, tmp_path: Path, rule: str) -> None:
    fetch(dsn, rule)
    with Rig(dsn, tmp_path / "j") as rig:
        rig.send(0, 40)
        eventually(rig.delivered)
    assert stored(dsn) == [number for number in range(40) if number != 20]
    assert one(dsn, "SELECT count(*) AS n FROM analytics.quarantine") == {"n": 1}


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
    ],
    ids=["trigger", "at-commit", "table", "column", "privilege", "check-of-sessions", "check-of-fingerprints"],
)
def test_what_an_operator_must_repair_loses_nothing(dsn: str, tmp_path: Path, harm: str, repair: str) -> None:
    worker = as_worker(dsn)
    with Rig(worker, tmp_path / "j") as rig:
        rig.send(0, 10)
        eventually(rig.delivered)
        fetch(dsn, harm)
        rig.send(10, 10)
        eventually(lambda: rig.writer.state.error is not None)
        assert one(dsn, "SELECT count(*) AS n FROM analytics.quarantine")["n"] == 0
        fetch(dsn, repair)
        eventually(rig.delivered)
    assert stored(dsn) == list(range(20))


def test_a_rule_that_refuses_all_hits_sets_none_aside_though_decisions_get_in(dsn: str, tmp_path: Path) -> None:
    fetch(dsn, "ALTER TABLE analytics.hits ADD CONSTRAINT narrow CHECK (length(path) < 3)")
    decision = Decision(ThrottleLevel.NORMAL, 0, id=b"d" * 16)
    row = decision_row(
        decision, {}, hit_id=b"h" * 16, time_us=NOW_US, enforced=True, site="default", identity=identity()
    )
    with Rig(dsn, tmp_path / "j") as rig:
        rig.recorder._append(frame(DECISION, row) + hit_frame("/e/0"))
        eventually(lambda: rig.writer.state.error is not None)
        assert one(dsn, "SELECT count(*) AS n FROM analytics.quarantine")["n"] == 0
        fetch(dsn, "ALTER TABLE analytics.hits DROP CONSTRAINT narrow")
        eventually(rig.delivered)
    assert stored(dsn) == [0]


def as_worker(dsn: str) -> str:
    """The same database for a role that owns nothing."""
    fetch(dsn, "DO $$ BEGIN CREATE ROLE worker LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    fetch(dsn, "GRANT ALL ON SCHEMA analytics TO worker")
    fetch(dsn, "GRANT ALL ON ALL TABLES IN SCHEMA analytics TO worker")
    separator = "&" if "?" in dsn else "?"
    return f"{dsn}{separator}options=-c%20role%3Dworker"


def test_a_terminated_backend_costs_nothing(rig: Rig) -> None:
    kill = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'asgi-analytics writer'"
    )
    eventually(lambda: rig.writer.state.connected)
    for turn in range(6):
        rig.send(turn * 200, 100)
        fetch(rig.dsn, kill)
        rig.send(turn * 200 + 100, 100)
        eventually(lambda: rig.counters.written > 0)
    eventually(rig.delivered)
    assert stored(rig.dsn) == list(range(1200))
    assert rig.counters.retried > 0


def test_stopping_ends_in_time_while_postgres_hangs_and_loses_nothing(
    own_postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    rig = Rig(own_postgres.dsn, tmp_path / "j")
    rig.writer.start()
    rig.send(0, 100)
    eventually(rig.delivered)
    (pid,) = fetch(
        own_postgres.dsn, "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'asgi-analytics w%%'"
    )
    os.kill(pid["pid"], signal.SIGSTOP)
    rig.send(100, 100)
    began = time.monotonic()
    assert rig.writer.stop(1.0) is False
    assert time.monotonic() - began < 2.0
    os.kill(pid["pid"], signal.SIGCONT)
    assert rig.recorder.journal is not None
    rig.recorder.journal.abandon()  # the process ends
    with Rig(own_postgres.dsn, tmp_path / "j") as successor:
        eventually(lambda: successor.counters.adopted > 0 or stored(own_postgres.dsn) == list(range(200)))
    assert stored(own_postgres.dsn) == list(range(200))


class Freezing(PostgresStore):
    """A store whose first backend stops answering as soon as we are at a step of connecting."""

    frozen = 0
    step = ""

    def _freeze(self, step: str) -> None:
        if step == self.step and not self.frozen:
            self.frozen = self._open().info.backend_pid
            os.kill(self.frozen, signal.SIGSTOP)

    def _apply_migrations(self, connection: psycopg.Connection) -> None:
        self._freeze("migrations")
        super()._apply_migrations(connection)

    def make_partitions(self) -> None:
        self._freeze("partitions")
        super().make_partitions()


@pytest.mark.parametrize("step", ["migrations", "partitions"])
def test_a_server_that_freezes_while_we_connect_is_left_for_another(
    own_postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr(writer_module, "STUCK", 1.0)
    rig, store = Rig(own_postgres.dsn, tmp_path / "j"), Freezing(lambda: own_postgres.dsn)
    store.step = step
    rig.writer._open_store = lambda: store
    rig.send(0, 10)
    with rig:
        try:
            eventually(rig.delivered)
        finally:
            os.kill(store.frozen, signal.SIGCONT)
    assert rig.counters.failures["stuck"] == 1
    assert stored(own_postgres.dsn) == list(range(10))


class Migrating(MemoryStore):
    """A store whose schema takes long to bring up to date."""

    migrating = False
    cuts = 0

    def connect(self) -> None:
        self.migrating = True
        threading.Event().wait(1.0)
        self.migrating = False
        super().connect()

    def interrupt(self) -> None:
        self.cuts += 1


def test_a_migration_is_not_taken_for_a_frozen_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "STUCK", 0.5)
    monkeypatch.setattr(keeper, "SYNC_INTERVAL", 0.05)
    recorder, store = Recorder(Settings.build(journal_dir=tmp_path / "j"), Counters()), Migrating()
    writer = Writer(lambda: store, recorder, MemoryState(), SystemClock(), rows=10, age=0.01, chores=lambda: None)
    writer.start()
    assert writer.attempted.wait(WAIT)
    assert writer.stop(5.0)
    assert (store.cuts, recorder.counters.failures) == (0, {})


def test_postgres_killed_and_started_again_costs_nothing(own_postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    with Rig(own_postgres.dsn, tmp_path / "j") as rig:
        rig.send(0, 200)
        eventually(lambda: rig.counters.written > 0)
        salts = rig.shared.salts
        own_postgres.kill()
        rig.send(200, 200)
        own_postgres.start()
        eventually(rig.delivered)
    assert stored(own_postgres.dsn) == list(range(400))
    assert rig.shared.salts == salts, "the table of salts does not survive a crash, but the workers know them"


def test_all_workers_agree_on_the_salts(dsn: str, tmp_path: Path) -> None:
    with Rig(dsn, tmp_path / "1") as first, Rig(dsn, tmp_path / "2") as second:
        assert first.writer.attempted.wait(WAIT)
        assert second.writer.attempted.wait(WAIT)
    assert first.shared.salts == second.shared.salts
    assert len({salt.key for salt in first.shared.salts}) == 3


class Full(MemoryStore):
    """A store that one can connect to, and that takes nothing."""

    connects = 0
    full = True

    def connect(self) -> None:
        self.connects += 1
        super().connect()

    def write(self, batch: Batch) -> list[Merged]:
        if self.full:
            raise StoreUnavailable("no space left on device (SQLSTATE 53100)")
        return super().write(batch)


def test_a_fault_that_comes_after_connecting_is_tried_with_pauses_and_told_now_and_then(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, recorder = Full(), Recorder(Settings.build(journal_dir=tmp_path / "j"), Counters())
    recorder.open()
    writer = Writer(lambda: store, recorder, MemoryState(), FakeClock(), rows=10, age=0.01, chores=lambda: None)
    pauses: list[float] = []

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        if len(pauses) == 9:
            writer._stopping.set()
        return writer._stopping.is_set()

    monkeypatch.setattr(writer._stopping, "wait", wait)
    writer._time_is_up.set()
    recorder._append(hit_frame("/e/1"))
    with caplog.at_level(logging.WARNING):
        writer._write()
    assert store.connects == 10
    assert all(pause >= full / 2 for pause, full in zip(pauses, [0.25, 0.5, 1, 2, 4, 8, 15, 15, 15], strict=True))
    assert len([record for record in caplog.records if "53100" in record.message]) == 1
    told = writer.state.error
    assert told == "no space left on device (SQLSTATE 53100)", "connecting is no success"
    store.full = False
    assert writer._cycle() == 1
    assert (writer.state.error, writer._backoff.wait) == (None, 0.0)


def test_a_transfer_that_is_too_slow_for_the_server_is_made_smaller_until_it_gets_through(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SESSION, "statement_timeout", "1s")
    slow = "'BEGIN PERFORM pg_sleep(0.008); RETURN NEW; END'"
    fetch(dsn, f"CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS {slow}")
    fetch(dsn, "CREATE TRIGGER slow BEFORE INSERT ON analytics.hits FOR EACH ROW EXECUTE FUNCTION slow()")
    rig = Rig(dsn, tmp_path / "j")
    rig.send(0, 300)  # at once: half of them still takes too long, a quarter does not
    with rig:
        eventually(rig.delivered)
    assert stored(dsn) == list(range(300))
    assert rig.counters.retried > 1


def test_a_row_that_a_trigger_takes_too_long_for_is_set_aside_and_its_neighbours_are_stored(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SESSION, "statement_timeout", "100ms")
    fetch(dsn, REFUSING.format("NEW.path = '/e/7' THEN PERFORM pg_sleep(20); END IF; IF false"))
    rig = Rig(dsn, tmp_path / "j")
    rig.send(0, 10)
    with rig:
        eventually(rig.delivered)
    assert stored(dsn) == [number for number in range(10) if number != 7]
    assert one(dsn, "SELECT sqlstate FROM analytics.quarantine")["sqlstate"] == "57014"


def test_a_disk_that_cannot_flush_keeps_the_other_chores_from_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "broken")

    done = threading.Event()
    recorder = Recorder(Settings.build(journal_dir=tmp_path), Counters())
    recorder.open()
    recorder._append(hit_frame("/"))
    monkeypatch.setattr(os, "fdatasync", broken)
    writer = Writer(MemoryStore, recorder, MemoryState(), SystemClock(), rows=50, age=0.02, chores=done.set)
    writer.start()
    assert done.wait(WAIT)
    writer.stop(5.0)
    assert recorder.counters.failures["writer"] > 0


def test_a_journal_that_cannot_be_read_holds_up_neither_memory_nor_the_journals_of_others(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = FileJournal(tmp_path / "j", b"l" * 16, COLUMNS, 1 << 20)
    left.append(hit_frame("/e/0"))
    left.abandon()

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    rig = Rig(dsn, tmp_path / "j")
    monkeypatch.setattr(rig.recorder.journal, "read", fail)
    rig.send(1, 5)
    rig.recorder.memory.append(hit_frame("/e/6"))
    with rig:
        eventually(lambda: stored(dsn) == [0, 6])
        monkeypatch.undo()
        eventually(rig.delivered)
    assert stored(dsn) == list(range(7))


def test_the_lag_begins_with_the_outage(tmp_path: Path) -> None:
    store, clock = MemoryStore(), FakeClock()
    store.error = StoreUnavailable("down")
    recorder = Recorder(Settings.build(journal_dir=tmp_path / "j"), Counters())
    recorder.open()
    writer = Writer(lambda: store, recorder, MemoryState(), clock, rows=10, age=0.01, chores=lambda: None)
    recorder._append(hit_frame("/e/1"))
    writer.start()
    assert writer.attempted.wait(WAIT)
    clock.advance(7.0)
    assert writer.lag() == 7.0
    store.error = None
    eventually(lambda: writer.pending_bytes() == 0)
    assert writer.lag() == 0.0
    assert writer.stop(5.0)
    assert len(store.rows(HIT)) == 1


@pytest.mark.parametrize(
    ("place", "name", "error"),
    [(threading.Thread, "start", RuntimeError("can't start new thread")), (writer_module, "ensure", MemoryError())],
)
def test_where_no_thread_can_be_started_the_journal_keeps_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dsn: str, place: object, name: str, error: Exception
) -> None:
    rig = Rig(dsn, tmp_path / "j")

    def refuse(_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(place, name, refuse)
        rig.writer.start()
    rig.send(0, 10)
    assert rig.writer.stop(0.1) is False
    with Rig(dsn, tmp_path / "j") as successor:
        eventually(lambda: successor.counters.adopted == 10)
    assert stored(dsn) == list(range(10))


def test_a_thread_lives_on_where_there_is_no_memory_even_to_wait(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = threading.Event()

    def failing(*_: object) -> None:
        short.set()
        raise MemoryError

    rig = Rig(dsn, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(rig.writer, "_cycle", failing)
        patch.setattr(Backoff, "next", failing)
        rig.writer.start()
        assert short.wait(WAIT)
    rig.send(0, 3)
    eventually(rig.delivered)
    assert rig.writer.stop(5.0)
    assert stored(dsn) == [0, 1, 2]


def test_an_unexpected_fault_at_the_end_is_tried_again(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Rig(dsn, tmp_path) as rig:
        journal, stopping = rig.recorder.journal, rig.writer._stopping
        assert journal is not None
        read = journal.read
        faults: list[int] = []

        def failing(segment: int, offset: int, most: int) -> Batch | None:
            if stopping.is_set() and len(faults) < 3:
                faults.append(segment)
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return read(segment, offset, most)

        monkeypatch.setattr(journal, "read", failing)
        rig.writer.request_stop()
        rig.send(0, 20)
    assert (len(faults), one(dsn, "SELECT count(*) AS n FROM analytics.hits")["n"]) == (3, 20)


def test_a_writer_that_fails_to_the_end_leaves_what_it_has_adopted_to_others(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = FileJournal(tmp_path, b"left".ljust(16, b"."), COLUMNS, 1 << 20)
    left.append(hit_frame("/left"))
    left.abandon()
    rig = Rig(dsn, tmp_path)
    tried = threading.Event()

    def failing(*_: object) -> None:
        tried.set()
        raise ValueError("a fault of ours")

    monkeypatch.setattr(rig.writer, "_deliver", failing)
    rig.writer.start()
    assert tried.wait(WAIT)
    rig.writer.stop(0.2)
    found = {journal.id for journal in adopt(tmp_path)}
    assert left.id in found
