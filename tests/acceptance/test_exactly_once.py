"""Every request whose last byte a client has received has exactly one row, whatever died.

The oracle is the client's own ledger. ASGI_ANALYTICS_ROUNDS (default 1) is how often each thing dies.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psycopg
import pytest

from asgi_analytics.embedded import EmbeddedPostgres
from tests.acceptance.rig import ROUNDS, Load, Server, assert_exactly_once, serving
from tests.acceptance.wire import Cut, Wire
from tests.waiting import wait_until

WRITERS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'asgi-analytics writer'"


def test_kill_9_of_the_server_under_load_loses_and_doubles_nothing(dsn: str, tmp_path: Path) -> None:
    server = Server(dsn, tmp_path / "j")
    server.start()
    try:
        with Load(server.port) as load:
            for _ in range(ROUNDS):
                load.more(200)
                server.kill()
                server.start()
            load.more(100)
        rows = assert_exactly_once(dsn, load.answered)
    finally:
        server.stop()
    print(f"{ROUNDS} kills of the server: {len(load.answered)} answered, {rows} rows, none missing, none twice")


def test_kill_9_of_one_of_two_workers_loses_and_doubles_nothing(dsn: str, tmp_path: Path) -> None:
    with serving(dsn, tmp_path / "j", workers=2) as server:
        with Load(server.port) as load:
            for _ in range(ROUNDS):
                load.more(200)
                children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
                os.kill(int(children[-1]), signal.SIGKILL)
            load.more(200)
        rows = assert_exactly_once(dsn, load.answered)
    print(f"{ROUNDS} kills of a worker: {len(load.answered)} answered, {rows} rows, none missing, none twice")


def test_kill_9_of_postgres_under_load_loses_and_doubles_nothing(
    own_postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    dsn = own_postgres.dsn
    with serving(dsn, tmp_path / "j") as server:
        with Load(server.port) as load:
            for _ in range(ROUNDS):
                load.more(300)
                own_postgres.kill()
                load.more(100)
                own_postgres.start()
            load.more(100)
        rows = assert_exactly_once(dsn, load.answered)
    print(f"{ROUNDS} kills of Postgres: {len(load.answered)} answered, {rows} rows, none missing, none twice")


def test_kill_9_of_the_writers_backend_loses_and_doubles_nothing(
    own_postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    dsn = own_postgres.dsn
    with serving(dsn, tmp_path / "j") as server:
        with Load(server.port) as load, psycopg.connect(dsn, autocommit=True) as admin:
            for _ in range(ROUNDS):
                load.more(200)
                for (pid,) in admin.execute(WRITERS).fetchall():
                    admin.execute("SELECT pg_terminate_backend(%s)", (pid,))
        assert_exactly_once(dsn, load.answered)


@pytest.mark.parametrize("cut", ["before", "after", "late"])
def test_a_connection_cut_around_commit_loses_and_doubles_nothing(dsn: str, tmp_path: Path, cut: Cut) -> None:
    with Wire(dsn) as wire, serving(wire.dsn, tmp_path / "j") as server:
        with Load(server.port) as load:
            for _ in range(ROUNDS):
                load.more(100)
                wire.arm(cut)
                wait_until(lambda: not wire.armed, what="the cut")
            load.more(100)
        rows = assert_exactly_once(dsn, load.answered)
    assert wire.cuts == ROUNDS
    print(f"{ROUNDS} cuts {cut} COMMIT: {len(load.answered)} answered, {rows} rows, none missing, none twice")


def test_everything_answered_before_sigterm_is_stored_when_the_server_is_gone(dsn: str, tmp_path: Path) -> None:
    with serving(dsn, tmp_path / "j") as server, Load(server.port) as load:
        load.more(300)
        server.stop()
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT path FROM analytics.hits WHERE path LIKE '/e/%'").fetchall()
    assert set(load.answered) <= {int(path[3:]) for (path,) in rows}
    assert list((tmp_path / "j").iterdir()) == []
