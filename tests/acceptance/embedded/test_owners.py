"""Several processes, one server: who owns it, who joins it, who takes it over."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from asgi_analytics.embedded import EmbeddedPostgres, find_servers
from asgi_analytics.embedded import cluster as clusters
from asgi_analytics.embedded.folder import flock
from asgi_analytics.embedded.process import account_of_server, popen
from asgi_analytics.engine import Engine
from asgi_analytics.errors import EmbeddedPostgresError
from asgi_analytics.settings import Settings
from tests.waiting import wait_until

from .rig import ask, gone, idle, report, store, worker

# Children that would keep an inherited pipe or lock.
CHILDREN = """
import subprocess, time
subprocess.Popen(["sleep", "600"], close_fds=False)
if os.fork() == 0:
    time.sleep(600)
"""


@pytest.mark.parametrize("children", ["", CHILDREN], ids=["alone", "with children that live on"])
def test_the_server_ends_with_its_owner(made: Path, children: str) -> None:
    with worker(made, after=children) as process:
        dsn, owner, pid = report(process)
        assert owner
        assert ask(dsn) == 1
        process.kill()
        wait_until(lambda: gone(pid), 5)
        assert "database system is shut down" in (made / "server.log").read_text()
        with EmbeddedPostgres(made) as successor:
            assert successor.dsn == dsn


# As by another thread: the app makes its pool of processes while we start.
FORKING = """
import os, time
from asgi_analytics.embedded import process
popen = process.popen
def forking(*arguments, **options):
    if os.fork() == 0:
        time.sleep(600)
    return popen(*arguments, **options)
process.popen = forking
"""


def test_the_server_ends_with_its_owner_though_children_were_forked_while_it_started(made: Path) -> None:
    with worker(made, before=FORKING) as process:
        _, owner, pid = report(process)
        assert owner
        process.kill()
        wait_until(lambda: gone(pid), 5)


def test_the_server_ends_with_a_process_that_forgets_to_stop_it(made: Path) -> None:
    with worker(made) as process:
        _, _, pid = report(process)
        process.communicate(timeout=10)
        assert process.returncode == 0
        wait_until(lambda: gone(pid), 5)


def test_four_processes_that_race_on_a_fresh_folder_share_one_server(folder: Path) -> None:
    with ExitStack() as stack:
        workers = [stack.enter_context(worker(folder)) for _ in range(4)]
        reports = [report(process) for process in workers]
        assert len({dsn for dsn, _, _ in reports}) == 1
        assert sorted(owner for _, owner, _ in reports) == [False, False, False, True]
        assert [pid is not None for _, owner, pid in reports] == [owner for _, owner, _ in reports]


def test_a_process_joins_a_server_whose_folder_it_knows_by_another_name(own_postgres: EmbeddedPostgres) -> None:
    link = own_postgres.data_dir.with_name(f"{own_postgres.data_dir.name} link")
    link.symlink_to(own_postgres.data_dir)
    try:
        with EmbeddedPostgres(link) as joined:
            assert (joined.dsn, joined.owner) == (own_postgres.dsn, False)
    finally:
        link.unlink()


def test_another_process_takes_over_when_the_owner_was_killed(made: Path) -> None:
    with worker(made) as first:
        dsn, _, pid = report(first)
        store(dsn)
        heir = EmbeddedPostgres(made)
        assert heir.start() == dsn
        assert not heir.owner
        first.kill()
        wait_until(lambda: gone(pid), 5)
    with heir:
        assert (heir.dsn, heir.owner) == (dsn, True)
        assert ask(dsn, "SELECT answer FROM kept") == 42


def test_a_forked_child_neither_owns_nor_stops_the_server(own_postgres: EmbeddedPostgres) -> None:
    dsn = own_postgres.dsn
    child = os.fork()
    if child == 0:
        mine = own_postgres.owner or own_postgres.pid is not None
        joined = own_postgres.start() == dsn and not own_postgres.owner
        own_postgres.stop()
        os._exit(0 if joined and not mine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert own_postgres.owner
    assert ask(dsn) == 1


def test_a_stale_pid_file_with_the_number_of_a_living_process_does_not_matter(own_postgres: EmbeddedPostgres) -> None:
    own_postgres.kill()
    file = own_postgres.data_dir / "cluster" / "postmaster.pid"
    for stale in (f"{os.getppid()}\n" + file.read_text().partition("\n")[2], ""):
        file.write_text(stale)
        assert ask(own_postgres.start()) == 1
        own_postgres.stop()


def test_a_postmaster_that_somebody_else_started_is_left_alone(own_postgres: EmbeddedPostgres) -> None:
    own_postgres.stop()
    cluster = own_postgres.data_dir / "cluster"
    program = str(find_servers()[0].programs / "postgres")
    command = [program, "-D", str(cluster), "-c", "unix_socket_directories=", "-p", str(clusters.free_port(None))]
    with (
        (own_postgres.data_dir / "server.log").open("ab") as log,
        popen(command, account_of_server(), subprocess.DEVNULL, log.fileno()) as foreign,
    ):
        try:
            wait_until((cluster / "postmaster.pid").exists)
            with pytest.raises(EmbeddedPostgresError, match=f"Process {foreign.pid}, which is not ours"):
                own_postgres.start()
            assert foreign.poll() is None
        finally:
            foreign.send_signal(signal.SIGINT)


def test_a_kill_at_any_moment_of_the_first_start_leaves_nothing_half_made(folder: Path) -> None:
    for moment in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5):
        with worker(folder) as process:
            wait_until((folder / "lock").exists)
            time.sleep(moment)
            process.kill()
    with EmbeddedPostgres(folder) as postgres:
        assert ask(postgres.dsn) == 1
        assert not [*folder.glob("new-*"), *folder.glob("bin-*")]


def test_an_app_ends_in_time_while_the_owner_of_the_folder_hangs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASGI_ANALYTICS_DATA_DIR", str(folder))
    lock, before = flock(folder / "lock"), set(threading.enumerate())
    assert lock is not None
    try:
        engine = Engine(Settings.build(shutdown_timeout=0.5), None)
        engine.start()
        time.sleep(0.5)
        began = time.monotonic()
        assert not engine.stop()
        assert time.monotonic() - began < 10.0
    finally:
        os.close(lock)
    wait_until(lambda: set(threading.enumerate()) <= before)
    assert not (folder / "cluster").exists()


@pytest.mark.parametrize("moment", [0.0, 0.1, 0.3, 1.0])
def test_who_leaves_at_any_moment_of_a_start_leaves_no_server_behind(folder: Path, moment: float) -> None:
    postgres = EmbeddedPostgres(folder)
    starter = threading.Thread(target=_try, args=(postgres,))
    starter.start()
    wait_until((folder / "lock").exists)
    time.sleep(moment)
    postgres.leave()
    starter.join(20)
    assert not starter.is_alive()
    assert not postgres.owner
    wait_until(lambda: idle(folder))
    with pytest.raises(EmbeddedPostgresError, match="no longer wanted"):
        postgres.start()
    with EmbeddedPostgres(folder) as another:
        assert ask(another.dsn) == 1


def _try(postgres: EmbeddedPostgres) -> None:
    with suppress(EmbeddedPostgresError):
        postgres.start()
