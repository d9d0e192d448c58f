"""The thread that shares quotas: when the others know of it, and a Postgres which has not got the tables yet."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from asgi_analytics import AnalyticsMiddleware
from asgi_analytics.clock import SystemClock
from asgi_analytics.decide.actor import new_actor
from asgi_analytics.decide.lease import Leases
from asgi_analytics.errors import SharedUnavailable
from asgi_analytics.protocols import Ask, Exchanged
from asgi_analytics.shared import postgres, sharer
from asgi_analytics.shared.postgres import PostgresQuotas
from asgi_analytics.shared.sharer import Sharer
from asgi_analytics.store.command_session import migrate_all
from asgi_analytics.testing import FakeClock, MemoryQuotas
from tests.drive import page, start
from tests.record.rig import Rig, as_worker, stored
from tests.record.rows import fetch, one
from tests.waiting import wait_until


@contextmanager
def sharing(dsn: str) -> Iterator[Sharer]:
    found = Sharer(PostgresQuotas(lambda: dsn), Leases(), SystemClock(), 0.05, lambda: None)
    found.start()
    try:
        yield found
    finally:
        found.stop(5.0)


@pytest.mark.parametrize(
    ("others", "lost_at", "ready_at"),
    [(0, 9.0, 0.0), (1, 0.0, 0.0), (1, 0.125, 0.125), (1, 9.0, 0.5)],  # the last: two exchanges of others
)
def test_a_worker_is_ready_when_others_have_heard_of_it_or_cannot(others: int, lost_at: float, ready_at: float) -> None:
    clock = FakeClock()
    quotas, began = MemoryQuotas(clock), clock.monotonic()
    for number in range(others):
        quotas.exchange(b"%016d" % number, 0, [])
    shared, ready = Sharer(quotas, Leases(), clock, 0.25, lambda: None), list[float]()
    for _ in range(5):
        passed = clock.monotonic() - began
        quotas.error = SharedUnavailable("lost") if passed >= lost_at else None
        shared._exchange_once(clock.monotonic())
        ready += [passed] if shared.attempted.is_set() else []
        clock.advance(0.125)
    assert ready[0] == ready_at


class Watched(MemoryQuotas):
    """Quotas that count how often somebody who waits for them is cut off."""

    cuts = 0

    def interrupt(self) -> None:
        self.cuts += 1


@pytest.mark.parametrize("error", [SharedUnavailable("lost"), LookupError("our own bug")])
def test_while_an_exchange_fails_the_limits_hold_per_worker_and_it_is_tried_again(error: Exception) -> None:
    clock, changes = FakeClock(), list[bool]()
    quotas, leases = Watched(clock), Leases()
    shared = Sharer(quotas, leases, clock, 0.25, lambda: changes.append(leases.connected))
    pauses = []
    for trouble in (None, error, error, None):
        quotas.error = trouble
        pauses.append(shared._exchange_once(clock.monotonic()))
        assert leases.connected is (trouble is None)
        clock.advance(1000.0)
        shared.free_stuck()
    assert [pause <= 0.25 for pause in pauses] == [True, False, False, True]
    assert all(0.5 <= pause <= 1.5 for pause in pauses[1:3])
    assert (shared.exchanges, shared.failures, shared.outages, quotas.cuts) == (2, 2, 1, 0)
    assert changes == [True, False, True]


class Tiring(MemoryQuotas):
    """Quotas that take in so many parts of a round, and no more."""

    parts = 2

    def exchange(self, worker: bytes, revision: int, asks: Sequence[Ask]) -> Exchanged:
        self.told = [*getattr(self, "told", []), sum(ask.used for ask in asks)]
        if len(self.told) == self.parts:
            raise SharedUnavailable("lost")
        return super().exchange(worker, revision, asks)


def test_what_was_told_before_a_server_was_lost_is_not_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharer, "MAX_ASKS", 3)
    clock, limits = FakeClock(), [(60.0, 10)]
    quotas, leases = Tiring(clock), Leases(limits)
    shared = Sharer(quotas, leases, clock, 0.25, lambda: None)
    leases.sharing = 2
    for number in range(7):
        actor = new_actor(1)
        actor.key = bytes([number]) * 16
        for _ in range(3):
            leases.take(actor, limits, clock.monotonic())
    for _ in range(2):
        shared._exchange_once(clock.monotonic())
    assert quotas.told == [9, 9, 9, 3], "the second part is told again, and the third; not the first"


@pytest.fixture
def narrow(dsn: str) -> Iterator[str]:
    """The database for a role that may have one connection."""
    name = conninfo_to_dict(dsn)["dbname"]
    as_worker(dsn)
    fetch(dsn, "CREATE ROLE narrow LOGIN CONNECTION LIMIT 1 PASSWORD 'narrow' IN ROLE worker")
    fetch(dsn, f"GRANT CREATE ON DATABASE {name} TO narrow")
    yield make_conninfo(dsn, user="narrow", password="narrow")
    wait_until(lambda: fetch(dsn, "SELECT pid FROM pg_stat_activity WHERE usename = 'narrow'") == [])
    fetch(dsn, f"REVOKE CREATE ON DATABASE {name} FROM narrow")
    fetch(dsn, "DROP ROLE narrow")


def test_of_one_connection_that_is_left_hits_make_use_and_not_quotas(dsn: str, narrow: str, tmp_path: Path) -> None:
    with sharing(narrow) as shared:
        wait_until(lambda: shared.exchanges + shared.failures > 0)
        with Rig(narrow, tmp_path) as rig:
            rig.send(0, 5)
            wait_until(rig.delivered)
    assert stored(dsn) == list(range(5))


def test_the_last_connection_is_used_for_quotas_where_hits_need_no_further_one(
    narrow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "AWAY", 0.1)
    with sharing(narrow) as shared:
        wait_until(lambda: shared.exchanges > 0)
        assert shared.failures > 0


def test_the_first_start_on_a_fresh_database_warns_of_nothing(
    empty_dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "asgi_analytics")
    app = AnalyticsMiddleware(page(), dsn=empty_dsn, journal_dir=tmp_path)
    try:
        start(app)
        wait_until(lambda: app.stats()["shared"]["connected"])
        assert (app.stats()["shared"]["failures"], app.stats()["shared"]["outages"]) == (0, 0)
    finally:
        app.close()
    assert [one.message for one in caplog.records if one.levelno >= logging.WARNING] == []


def test_a_worker_that_stops_leaves_the_others_at_once(dsn: str, tmp_path: Path) -> None:
    app = AnalyticsMiddleware(page(), dsn=dsn, journal_dir=tmp_path)
    try:
        start(app)
        wait_until(lambda: one(dsn, "SELECT count(*) AS n FROM analytics.workers")["n"] == 1)
    finally:
        app.close()
    assert one(dsn, "SELECT count(*) AS n FROM analytics.workers")["n"] == 0


def test_quotas_are_shared_as_soon_as_the_tables_are_there(empty_dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    with sharing(empty_dsn) as shared:
        assert shared.attempted.wait(5)
        time.sleep(0.3)
        migrate_all(empty_dsn)
        wait_until(lambda: shared.exchanges > 0)
        assert shared.failures == 0
    assert [one.message for one in caplog.records] == []


def test_a_schema_that_never_comes_is_told(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sharer, "MIGRATION", 0.3)
    with sharing(empty_dsn) as shared:
        wait_until(lambda: shared.failures > 0)
    (told,) = [one.message for one in caplog.records if one.levelno >= logging.WARNING]
    assert told.startswith("Quotas hold per worker until they can be shared again: ")


def test_who_waits_for_a_frozen_server_is_cut_off_from_it_and_shares_again(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharer, "STUCK", 0.2)
    app = AnalyticsMiddleware(page(), dsn=dsn, journal_dir=tmp_path)
    frozen = None
    try:
        start(app)
        wait_until(lambda: app.stats()["shared"]["connected"])
        backends = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name ~ 'quotas'"
        frozen = one(dsn, backends)["pid"]
        os.kill(frozen, signal.SIGSTOP)
        wait_until(lambda: app.stats()["shared"]["outages"] == 1)
        wait_until(lambda: app.stats()["shared"]["connected"])
    finally:
        if frozen:
            os.kill(frozen, signal.SIGCONT)
        app.close()


def test_quotas_are_shared_on_after_there_was_no_memory_even_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    shared, short = Sharer(MemoryQuotas(clock), Leases(), clock, 0.05, lambda: None), threading.Event()
    wait = shared._wanted.wait

    def failing(seconds: float) -> bool:
        if not short.is_set():
            short.set()
            raise RuntimeError("can't allocate lock")
        return wait(seconds)

    monkeypatch.setattr(shared._wanted, "wait", failing)
    shared.start()
    try:
        assert short.wait(5)
        wait_until(lambda: shared.exchanges > 2)
    finally:
        shared.stop(5.0)
