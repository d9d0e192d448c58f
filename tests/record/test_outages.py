"""A Postgres that dies, freezes, hangs, or takes nothing: the writer goes on, and nothing is lost."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from pathlib import Path

import psycopg
import pytest

from asgi_analytics.batch import Batch
from asgi_analytics.clock import SystemClock
from asgi_analytics.embedded import EmbeddedPostgres
from asgi_analytics.errors import StoreMisconfigured, StoreUnavailable
from asgi_analytics.model import Merged
from asgi_analytics.record import keeper, watchdog
from asgi_analytics.record.recorder import Counters, Recorder
from asgi_analytics.record.writer import Writer
from asgi_analytics.settings import Settings
from asgi_analytics.store.connection import WRITER_SETTINGS
from asgi_analytics.store.postgres import PostgresStore
from asgi_analytics.testing import FakeClock, MemoryState, MemoryStore
from tests.record.rows import fetch, hit_frame, one
from tests.waiting import wait_until

from .rig import TERMINATE, WAIT, Rig, stored


def test_a_terminated_backend_costs_nothing(rig: Rig) -> None:
    wait_until(lambda: rig.writer.state.connected)
    for turn in range(6):
        rig.send(turn * 200, 100)
        fetch(rig.dsn, TERMINATE)
        rig.send(turn * 200 + 100, 100)
        wait_until(lambda: rig.counters.written > 0)
    wait_until(rig.delivered)
    assert stored(rig.dsn) == list(range(1200))
    assert rig.counters.retried > 0


def test_stopping_ends_in_time_while_postgres_hangs_and_loses_nothing(
    own_postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    rig = Rig(own_postgres.dsn, tmp_path / "j")
    rig.writer.start()
    rig.send(0, 100)
    wait_until(rig.delivered)
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
        wait_until(lambda: successor.counters.adopted > 0 or stored(own_postgres.dsn) == list(range(200)))
    assert stored(own_postgres.dsn) == list(range(200))


class Freezing(PostgresStore):
    """A store whose first backend stops answering as soon as we are at a step of connecting."""

    frozen = 0
    step = ""

    def _freeze(self, step: str) -> None:
        if step == self.step and not self.frozen:
            self.frozen = self._connected().info.backend_pid
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
    monkeypatch.setattr(watchdog, "STUCK", 1.0)
    rig, store = Rig(own_postgres.dsn, tmp_path / "j"), Freezing(lambda: own_postgres.dsn)
    store.step = step
    rig.writer._open_store = lambda: store
    rig.send(0, 10)
    with rig:
        try:
            wait_until(rig.delivered)
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
    monkeypatch.setattr(watchdog, "STUCK", 0.5)
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
        wait_until(lambda: rig.counters.written > 0)
        salts = rig.shared.salts
        own_postgres.kill()
        rig.send(200, 200)
        own_postgres.start()
        wait_until(rig.delivered)
    assert stored(own_postgres.dsn) == list(range(400))
    assert rig.shared.salts == salts, "the table of salts does not survive a crash, but the workers know them"


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
    assert writer._cycle().frames == 1
    assert (writer.state.error, writer._backoff.wait) == (None, 0.0)


def test_a_transfer_that_is_too_slow_for_the_server_is_made_smaller_until_it_gets_through(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WRITER_SETTINGS, "statement_timeout", "1s")
    slow = "'BEGIN PERFORM pg_sleep(0.0055); RETURN NEW; END'"
    fetch(dsn, f"CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS {slow}")
    fetch(dsn, "CREATE TRIGGER slow BEFORE INSERT ON analytics.hits FOR EACH ROW EXECUTE FUNCTION slow()")
    rig = Rig(dsn, tmp_path / "j")
    rig.send(0, 300)  # 200 of them take too long, 100 do not, by far: on a busy machine a sleep takes longer
    with rig:
        wait_until(rig.delivered)
    assert stored(dsn) == list(range(300))
    assert rig.counters.retried > 1


def test_a_fail_over_that_a_pooler_hides_has_the_lost_rows_sent_again(rig: Rig) -> None:
    rig.send(0, 50)
    wait_until(rig.delivered)
    before = one(rig.dsn, "SELECT segment, position FROM analytics.positions WHERE rows > 0")
    rig.send(50, 50)
    wait_until(rig.delivered)
    fetch(rig.dsn, "DELETE FROM analytics.hits WHERE substr(path, 4)::integer >= 50")
    fetch(rig.dsn, "UPDATE analytics.positions SET segment = %s, position = %s", *before.values())
    rig.send(100, 10)
    wait_until(lambda: stored(rig.dsn) == [*range(110)])


class Lagging(MemoryStore):
    """A store that is left for a standby, which has yet to get the last rows."""

    def fail_over(self) -> None:
        self.error = StoreUnavailable("server closed the connection unexpectedly")
        del self.frames[1:]
        self._positions = dict.fromkeys(self._positions, (1, self.frames[0].end))


def lagging_worker(store: Lagging, folder: Path) -> tuple[Recorder, Writer]:
    recorder = Recorder(Settings.build(journal_dir=folder), Counters())
    recorder.open()
    return recorder, Writer(
        lambda: store, recorder, MemoryState(), SystemClock(), rows=10, age=0.01, chores=lambda: None
    )


@pytest.mark.parametrize("back", ["before the end", "after the end"])
def test_a_stop_after_a_fail_over_that_lost_the_last_rows_leaves_them_to_nobody(tmp_path: Path, back: str) -> None:
    """As where the apps are started anew because of it, or a pooler has hidden it from them."""
    store = Lagging()
    recorder, writer = lagging_worker(store, tmp_path / "j")
    for number in range(3):
        recorder._append(hit_frame(f"/e/{number}"))
    writer.start()
    wait_until(lambda: writer.state.connected and writer.pending_bytes() == 0)
    store.fail_over()
    if back == "before the end":
        store.error = None
    assert writer.stop(5.0) is (back == "before the end")
    store.error = None
    _, successor = lagging_worker(store, tmp_path / "j")
    successor.start()
    wait_until(lambda: len(store.frames) == 3)
    assert successor.stop(5.0)
    assert list((tmp_path / "j").iterdir()) == []


class Refusing(Lagging):
    """One whose standby takes nothing yet, such as for a missing privilege."""

    forbids = False

    def write(self, batch: Batch) -> list[Merged]:
        if self.forbids:
            raise StoreMisconfigured("permission denied for table hits")
        return super().write(batch)


def test_a_server_that_refuses_what_it_lost_leaves_it_to_the_next_start(tmp_path: Path) -> None:
    store = Refusing()
    recorder, writer = lagging_worker(store, tmp_path / "j")
    for number in range(3):
        recorder._append(hit_frame(f"/e/{number}"))
    assert writer._cycle().frames == 3
    store.fail_over()
    store.error, store.forbids, writer.state.connected = None, True, False
    with pytest.raises(StoreMisconfigured) as refused:
        writer._cycle()
    writer._failed(refused.value)
    assert writer.stop(1.0) is False
    store.forbids = False
    _, successor = lagging_worker(store, tmp_path / "j")
    successor._cycle()
    assert len(store.frames) == 3
    assert successor.stop(1.0)


def test_a_stop_after_the_database_was_dropped_leaves_nothing_that_it_had(tmp_path: Path) -> None:
    """As in a test suite: what is left over would go into the next database of that name."""
    store = Lagging()
    recorder, writer = lagging_worker(store, tmp_path / "j")
    recorder._append(hit_frame("/e/1"))
    writer.start()
    wait_until(lambda: writer.state.connected and writer.pending_bytes() == 0)
    store.error = StoreMisconfigured('database "test" does not exist')
    assert writer.stop(5.0)
    assert list((tmp_path / "j").iterdir()) == []
