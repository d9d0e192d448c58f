"""Behind a pooler in transaction mode, such as PgBouncer: all works, and nothing of ours stays in its sessions."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from asgi_analytics.store import command_session
from asgi_analytics.store.connection import is_pooled
from tests.acceptance.pooler import Pooler
from tests.acceptance.rig import Load, assert_exactly_once, serving
from tests.drive import called
from tests.replay.live import PERIOD, record

LEFT = """
    SELECT current_setting('statement_timeout'), current_setting('synchronous_commit'), current_setting('jit'),
        (SELECT count(*) FROM pg_class WHERE relpersistence = 't'), (SELECT count(*) FROM pg_prepared_statements),
        (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')
"""


@pytest.fixture
def pooler(dsn: str) -> Iterator[Pooler]:
    with Pooler(dsn) as pooler:
        yield pooler


@pytest.fixture
def discarding(dsn: str) -> Iterator[Pooler]:
    with Pooler(dsn, discards=True) as pooler:
        yield pooler


def state(dsn: str, times: int) -> list[tuple[object, ...]]:
    """How as many sessions are as the pooler lends in turn."""
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as connection:
        return [row for _ in range(times) for row in connection.execute(LEFT).fetchall()]


def test_a_pooler_is_told_by_its_process_number_or_by_what_it_discards(
    dsn: str, pooler: Pooler, discarding: Pooler
) -> None:
    for address, pooled in ((dsn, False), (pooler.dsn, True), (discarding.dsn, True)):
        with psycopg.connect(address, autocommit=True) as connection:
            assert is_pooled(connection) is pooled


@pytest.mark.parametrize("kind", ["pooler", "discarding"])
def test_through_a_pooler_every_request_is_stored_once(
    dsn: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    pooler: Pooler = request.getfixturevalue(kind)
    (before,) = state(dsn, 1)
    with serving(pooler.dsn, tmp_path / "j", workers=2, batch_age=0.1) as server:
        with Load(server.port) as load:
            load.more(2000)
        assert_exactly_once(dsn, load.answered)
        assert "WARNING" not in server.log()
    assert pooler.transactions > 20
    assert state(pooler.dsn, 3) == [before] * 3, "other programs find their sessions as they were"


def test_a_pooler_may_lend_sessions_to_clients_that_have_tables_of_our_names(
    dsn: str, pooler: Pooler, tmp_path: Path
) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE public.staging AS SELECT 1 AS theirs")
    with serving(pooler.dsn, tmp_path / "j", batch_age=0.1) as server, Load(server.port) as load:
        load.more(200)
        with psycopg.connect(pooler.dsn, autocommit=True, prepare_threshold=None) as connection:
            for _ in range(60):
                assert connection.execute("SELECT theirs FROM staging").fetchall() == [(1,)]
        load.more(200)


def test_the_commands_work_through_a_pooler(empty_dsn: str) -> None:
    with Pooler(empty_dsn) as pooler:
        for arguments in (("migrate",), ("migrate",), ("doctor",), ("stats",), ("actors",), ("quarantine", "list")):
            done = called(*arguments, "--dsn", pooler.dsn)
            assert done.returncode == 0, done.stdout + done.stderr
        (before,) = state(empty_dsn, 1)
        assert state(pooler.dsn, 3) == [before] * 3


BLOCKED = (
    *(("tail",), ("stats",), ("actors", "--banned"), ("ban", "192.0.2.1", "--for", "2h", "--reason", "x")),
    *(("what-if",), ("quarantine", "purge", "--all")),
)


@pytest.mark.parametrize("command", BLOCKED)
def test_who_holds_a_table_is_not_waited_for_for_ever_through_a_pooler(
    dsn: str, pooler: Pooler, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_session, "LOCK_PATIENCE", "100ms")
    with psycopg.connect(dsn) as holder:
        holder.execute("LOCK TABLE analytics.hits, analytics.rulings, analytics.quarantine IN ACCESS EXCLUSIVE MODE")
        with ThreadPoolExecutor(1) as thread:
            answer = thread.submit(called, *command, "--dsn", pooler.dsn)
            try:
                told = answer.result(15)
            finally:
                holder.rollback()
    assert (told.returncode, told.stdout) == (1, "")
    assert "Another session holds a table" in told.stderr


def test_commands_through_a_pooler_go_by_settings_of_their_own(dsn: str, pooler: Pooler) -> None:
    with psycopg.connect(pooler.dsn, autocommit=True, prepare_threshold=None) as connection:
        for _ in range(3):  # as another program may leave all sessions
            connection.execute("SET DateStyle = 'German'; SET extra_float_digits = -6; SET search_path = public")
    assert called("doctor", "--dsn", pooler.dsn).returncode == 0
    assert called("ban", "192.0.2.1", "--for", "2h", "--reason", r"back\\slash", "--dsn", pooler.dsn).returncode == 0
    assert r"back\\slash" in called("actors", "--banned", "--dsn", pooler.dsn).stdout
    assert called("purge", "--older", "1d", "--dsn", pooler.dsn).returncode == 0


def test_hits_that_are_rewritten_through_a_pooler_leave_no_table_behind(dsn: str, pooler: Pooler) -> None:
    record(dsn, rounds=4)
    (before,) = state(dsn, 1)
    done = called("reclassify", "--dsn", pooler.dsn, *PERIOD, "--bot-score", "60", "--yes")
    assert done.returncode == 0, done.stderr
    assert "Written     0 hits" not in done.stdout
    assert state(pooler.dsn, 3) == [before] * 3
