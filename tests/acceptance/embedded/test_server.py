from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from asgi_analytics import embedded
from asgi_analytics.embedded import EmbeddedPostgres, Server, find_servers, is_available, programs
from asgi_analytics.embedded import cluster as clusters
from asgi_analytics.errors import EmbeddedPostgresError
from tests.waiting import wait_until

from .rig import ask, gone, store


@pytest.mark.parametrize("server", find_servers(), ids=lambda server: f"{server.programs.parent.name}-{server.major}")
def test_every_server_found_here_starts_answers_and_stops(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "each_server", lambda: iter([server]))
    with EmbeddedPostgres(folder) as postgres:
        pid = postgres.pid
        assert postgres.owner
        assert str(ask(postgres.dsn, "SHOW server_version")).startswith(str(server.major))
        assert (
            ask(postgres.dsn, "SELECT current_setting('server_encoding') || current_setting('lc_messages')") == "UTF8C"
        )
    assert gone(pid)
    assert postgres.pid is None
    assert not postgres.owner


def test_start_is_idempotent_and_stop_may_come_twice(made: Path) -> None:
    with EmbeddedPostgres(made) as postgres:
        pid = postgres.pid
        assert postgres.start() == postgres.dsn
        assert postgres.pid == pid
        postgres.stop()
    with pytest.raises(EmbeddedPostgresError, match="not started"):
        _ = postgres.dsn


def test_a_wrong_password_is_refused(own_postgres: EmbeddedPostgres) -> None:
    address = urlsplit(own_postgres.dsn)
    assert len(address.password or "") >= 32
    for password in ("wrong", ""):
        wrong = own_postgres.dsn.replace(f":{address.password}@", f":{password}@")
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(wrong)


def test_settings_are_in_force(made: Path) -> None:
    with EmbeddedPostgres(made, {"fsync": "off", "work_mem": "7MB"}) as postgres:
        assert (ask(postgres.dsn, "SHOW fsync"), ask(postgres.dsn, "SHOW work_mem")) == ("off", "7MB")


def test_a_restart_keeps_data_and_address(own_postgres: EmbeddedPostgres) -> None:
    before = own_postgres.dsn
    store(before)
    own_postgres.stop()
    assert own_postgres.start() == before
    assert ask(before, "SELECT answer FROM kept") == 42


def test_a_port_that_was_taken_meanwhile_is_replaced(own_postgres: EmbeddedPostgres) -> None:
    before = own_postgres.dsn
    own_postgres.stop()
    with socket.create_server(("127.0.0.1", urlsplit(before).port or 0)):
        after = own_postgres.start()
        assert urlsplit(after).port != urlsplit(before).port
        assert ask(after) == 1


def test_a_port_lost_at_the_last_moment_is_replaced_and_its_server_not_mistaken_for_ours(
    own_postgres: EmbeddedPostgres, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_postgres.stop()
    subprocess.run(["cp", "-a", f"{own_postgres.data_dir}/.", folder], check=True)
    taken = urlsplit(own_postgres.start()).port
    find, answers = clusters.free_port, [taken]
    monkeypatch.setattr(clusters, "free_port", lambda wished: answers.pop() if answers else find(wished))
    with EmbeddedPostgres(folder) as twin:  # the server on the taken port even knows its password
        assert not answers
        assert ask(twin.dsn, "SHOW data_directory") == f"{folder}/cluster"


def test_a_killed_postmaster_recovers_what_was_committed(own_postgres: EmbeddedPostgres) -> None:
    before = own_postgres.dsn
    store(before)
    with closing(psycopg.connect(before)) as busy:
        # A backend that counts does not notice the death of its postmaster, and no new one may start meanwhile.
        busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 5000000)")
        own_postgres.kill()
        assert own_postgres.pid is None
        assert own_postgres.start() == before
    assert ask(before, "SELECT answer FROM kept") == 42


def test_a_server_that_died_by_itself_is_started_again(own_postgres: EmbeddedPostgres) -> None:
    first = own_postgres.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: own_postgres.pid is None)
    assert ask(own_postgres.start()) == 1
    assert own_postgres.pid not in (None, first)


def test_without_any_server_the_error_names_all_three_ways(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(programs, "WHEEL", "a_wheel_that_is_not_here")
    monkeypatch.setattr(programs, "INSTALLED", ())
    monkeypatch.setenv("PATH", str(folder))
    assert not is_available()
    with pytest.raises(EmbeddedPostgresError) as caught:
        find_servers()
    for way in ("ASGI_ANALYTICS_DSN", "pip install asgi-analytics[demo]", "install Postgres"):
        assert way in str(caught.value)


def test_programs_that_do_not_run_here_are_passed_over(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Such as those of a virtual environment that came from another machine."""
    for name, content in {"initdb": b"\x7fELF", "postgres": b"\x7fELF"}.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o755)
    others = find_servers()
    monkeypatch.setenv("PATH", str(folder))
    assert folder in programs.program_folders()
    assert [one for one in find_servers() if one not in others] == []
    monkeypatch.setattr(programs, "WHEEL", "a_wheel_that_is_not_here")
    monkeypatch.setattr(programs, "INSTALLED", ())
    with pytest.raises(EmbeddedPostgresError, match="does not run on this machine"):
        find_servers()


@pytest.mark.parametrize("joined", [False, True])
def test_what_a_variable_of_the_environment_does_to_connections_is_told(
    own_postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, joined: bool
) -> None:
    """The log of the server that a start points to does not have it all."""
    if not joined:
        own_postgres.stop()
    monkeypatch.setattr(embedded, "START_TIMEOUT", 1.0)
    monkeypatch.setenv("PGSERVICE", "gone")
    with pytest.raises(EmbeddedPostgresError, match='definition of service "gone" not found'):
        EmbeddedPostgres(own_postgres.data_dir).start()


def test_a_start_that_fails_shows_the_end_of_the_log_and_gives_everything_back(folder: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match='invalid value for parameter "work_mem": "lots"'):
        EmbeddedPostgres(folder, {"work_mem": "lots"}).start()
    with EmbeddedPostgres(folder) as postgres:
        assert ask(postgres.dsn) == 1


def test_a_cluster_of_another_version_is_told_not_touched(own_postgres: EmbeddedPostgres) -> None:
    own_postgres.stop()
    version = own_postgres.data_dir / "cluster" / "PG_VERSION"
    version.write_text("9\n")
    with pytest.raises(
        EmbeddedPostgresError,
        match=r"made by Postgres 9, but only .* is installed: install Postgres 9 \(asgi-analytics\[demo\]",
    ):
        own_postgres.start()
    assert not own_postgres.owner


def test_a_lost_password_is_told(own_postgres: EmbeddedPostgres) -> None:
    own_postgres.stop()
    (own_postgres.data_dir / "dsn").unlink()
    with pytest.raises(EmbeddedPostgresError, match="dsn with the password is gone"):
        own_postgres.start()


def test_looking_for_the_wheel_does_not_import_it() -> None:
    assert is_available()
    assert find_servers()
    assert programs.WHEEL not in sys.modules


def test_on_windows_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert not is_available()
    with pytest.raises(EmbeddedPostgresError, match="not on Windows"):
        EmbeddedPostgres()
