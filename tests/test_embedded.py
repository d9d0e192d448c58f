from __future__ import annotations

import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from asgi_analytics.embedded import EmbeddedPostgres, Server, find_servers, is_available, programs
from asgi_analytics.embedded import cluster as clusters
from asgi_analytics.embedded.folder import flock
from asgi_analytics.embedded.process import account_of_server, popen
from asgi_analytics.errors import EmbeddedPostgresError

from .conftest import data_folder

ROOT = os.geteuid() == 0
only_root = pytest.mark.skipif(not ROOT, reason="what is done as root only")
# A process that starts a server from a thread which then ends, reports, and lives until its stdin is closed.
WORKER = """
import os, sys, threading
from pathlib import Path
from asgi_analytics.embedded import EmbeddedPostgres
{before}
server = EmbeddedPostgres(Path(sys.argv[1]))
starter = threading.Thread(target=server.start)
starter.start()
starter.join()
{after}
print(server.dsn, server.owner, server.pid, flush=True)
sys.stdin.read()
"""
# Children that would keep an inherited pipe or lock.
CHILDREN = """
import subprocess, time
subprocess.Popen(["sleep", "600"], close_fds=False)
if os.fork() == 0:
    time.sleep(600)
"""
# What a test as root does as an ordinary user; imports come first, as the interpreter may lie under /root.
BECOME_NOBODY = """
import importlib.util, psycopg, shutil, tempfile
sys.path.insert(0, sys.argv[2])
os.setgroups([])
os.setgid({group})
os.setuid({user})
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with data_folder() as path:
        yield path
        assert eventually(lambda: idle(path))


@pytest.fixture
def made(cluster_folder: Path) -> Iterator[Path]:
    """A folder whose cluster was made before: most tests are not about initdb."""
    yield cluster_folder
    assert eventually(lambda: idle(cluster_folder))


@contextmanager
def worker(*arguments: Path, before: str = "", after: str = "") -> Iterator[subprocess.Popen[str]]:
    script = WORKER.format(before=before, after=after)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)


def report(process: subprocess.Popen[str]) -> tuple[str, bool, int | None]:
    assert process.stdout is not None
    dsn, owner, pid = process.stdout.readline().split()
    return dsn, owner == "True", None if pid == "None" else int(pid)


def eventually(condition: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def gone(pid: int | None) -> bool:
    assert pid is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # Left to a PID 1 that may be slow to reap it.
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and ") Z " in state.read_text()


def idle(folder: Path) -> bool:
    """Whether the last process of a server, or of its start, has gone."""
    lock = flock(folder / "server.lock")
    if lock is not None:
        os.close(lock)
    return lock is not None


def ask(dsn: str, query: str = "SELECT 1") -> object:
    with psycopg.connect(dsn, autocommit=True, connect_timeout=5) as connection:
        row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None


def store(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")


@pytest.mark.parametrize("server", find_servers(), ids=lambda server: f"{server.programs.parent.name}-{server.major}")
def test_every_server_found_here_starts_answers_and_stops(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "find_servers", lambda: [server])
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


def test_password_and_log_are_private_and_no_socket_file_is_made(own_postgres: EmbeddedPostgres) -> None:
    folder = own_postgres.data_dir
    for name in ("dsn", "lock", "server.lock", "server.log"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert folder.stat().st_mode & stat.S_IRWXO == 0
    assert ask(own_postgres.dsn, "SHOW unix_socket_directories") == ""
    assert ask(own_postgres.dsn, "SHOW listen_addresses") == "127.0.0.1"


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
    assert eventually(lambda: own_postgres.pid is None)
    assert ask(own_postgres.start()) == 1
    assert own_postgres.pid not in (None, first)


@pytest.mark.parametrize("children", ["", CHILDREN], ids=["alone", "with children that live on"])
def test_the_server_ends_with_its_owner(made: Path, children: str) -> None:
    with worker(made, after=children) as process:
        dsn, owner, pid = report(process)
        assert owner
        assert ask(dsn) == 1
        process.kill()
        assert eventually(lambda: gone(pid), 5)
        assert "database system is shut down" in (made / "server.log").read_text()
        with EmbeddedPostgres(made) as successor:
            assert successor.dsn == dsn


def test_the_server_ends_with_a_process_that_forgets_to_stop_it(made: Path) -> None:
    with worker(made) as process:
        _, _, pid = report(process)
        process.communicate(timeout=10)
        assert process.returncode == 0
        assert eventually(lambda: gone(pid), 5)


def test_four_processes_that_race_on_a_fresh_folder_share_one_server(folder: Path) -> None:
    with ExitStack() as stack:
        workers = [stack.enter_context(worker(folder)) for _ in range(4)]
        reports = [report(process) for process in workers]
        assert len({dsn for dsn, _, _ in reports}) == 1
        assert sorted(owner for _, owner, _ in reports) == [False, False, False, True]
        assert [pid is not None for _, owner, pid in reports] == [owner for _, owner, _ in reports]


@pytest.mark.skipif(sys.platform == "darwin", reason="names are text there")
def test_a_folder_whose_name_is_no_text_is_one_like_others(made: Path) -> None:
    named = Path(os.fsdecode(os.fsencode(made) + b"\xff"))
    made.rename(named)
    try:
        with EmbeddedPostgres(named) as server:
            assert ask(server.dsn) == 1
    finally:
        named.rename(made)


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
        assert eventually(lambda: gone(pid), 5)
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
            assert eventually((cluster / "postmaster.pid").exists)
            with pytest.raises(EmbeddedPostgresError, match=f"Process {foreign.pid}, which is not ours"):
                own_postgres.start()
            assert foreign.poll() is None
        finally:
            foreign.send_signal(signal.SIGINT)


def test_a_kill_at_any_moment_of_the_first_start_leaves_nothing_half_made(folder: Path) -> None:
    for moment in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5):
        with worker(folder) as process:
            assert eventually((folder / "lock").exists)
            time.sleep(moment)
            process.kill()
    with EmbeddedPostgres(folder) as postgres:
        assert ask(postgres.dsn) == 1
        assert not [*folder.glob("new-*"), *folder.glob("bin-*")]


@only_root
def test_under_root_programs_that_nobody_can_reach_are_copied_and_removed(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(0o700)
    package = find_servers()[0].programs.parents[1]
    (closed / package.name).symlink_to(package)
    (closed / f"{package.name}.libs").symlink_to(package.with_name(f"{package.name}.libs"))
    monkeypatch.syspath_prepend(closed)
    with EmbeddedPostgres(made) as postgres:
        program = Path(f"/proc/{postgres.pid}/cmdline").read_text().partition("\0")[0]
        assert program.startswith(str(made / "bin-"))
        assert ask(postgres.dsn) == 1
    assert not list(made.glob("bin-*"))
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@only_root
def test_under_root_it_runs_as_nobody_and_changes_no_other_folder_and_no_account(folder: Path) -> None:
    outside = {*folder.parents, *find_servers()[0].programs.parents, Path.home(), Path("/etc/passwd")}
    before = {path: (path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) for path in outside}
    accounts = Path("/etc/passwd").read_bytes()
    with EmbeddedPostgres(folder) as postgres:
        assert Path(f"/proc/{postgres.pid}").stat().st_uid == pwd.getpwnam("nobody").pw_uid
    assert {path: (path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) for path in outside} == before
    assert Path("/etc/passwd").read_bytes() == accounts


@only_root
def test_an_ordinary_user_runs_it_as_himself(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    with data_folder() as home:
        home.chmod(0o755)
        server = find_servers()[0]
        programs.copy_wheel(server, home, nobody)
        (home / server.programs.parents[1].name / "__init__.py").touch()
        os.chown(home, nobody.pw_uid, nobody.pw_gid)
        become = BECOME_NOBODY.format(user=nobody.pw_uid, group=nobody.pw_gid)
        with worker(home / "state" / "postgres", home, before=become) as process:
            dsn, owner, pid = report(process)
            assert (owner, ask(dsn)) == (True, 1)
            assert stat.S_IMODE((home / "state" / "postgres").stat().st_mode) == 0o700
            process.communicate(timeout=10)
        assert eventually(lambda: gone(pid), 5)


def test_a_folder_that_holds_other_things_is_refused_and_left_as_it_was(folder: Path) -> None:
    (folder / "thesis.txt").touch()
    folder.chmod(0o755)
    with pytest.raises(EmbeddedPostgresError, match="holds other things"):
        EmbeddedPostgres(folder).start()
    assert os.listdir(folder) == ["thesis.txt"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


@only_root
def test_a_folder_of_another_user_is_refused(folder: Path) -> None:
    os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
    for inner in (folder, folder / "postgres"):
        with pytest.raises(EmbeddedPostgresError, match="belongs to another user"):
            EmbeddedPostgres(inner).start()


def test_where_no_folder_can_be_made_the_error_says_how_to_name_another(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(EmbeddedPostgresError, match=r"file/pg \(ASGI_ANALYTICS_DATA_DIR names another folder\): .*Not"):
        EmbeddedPostgres(folder / "file" / "pg").start()


@only_root
def test_under_root_a_folder_that_nobody_cannot_enter_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(EmbeddedPostgresError, match=r"nobody, who cannot enter .*/pg: choose a folder"):
        EmbeddedPostgres(tmp_path / "pg").start()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_without_any_server_the_error_names_all_three_ways(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(programs, "WHEEL", "a_wheel_that_is_not_here")
    monkeypatch.setattr(programs, "INSTALLED", ())
    monkeypatch.setenv("PATH", str(folder))
    assert not is_available()
    with pytest.raises(EmbeddedPostgresError) as caught:
        find_servers()
    for way in ("ASGI_ANALYTICS_DSN", "pip install asgi-analytics[demo]", "install Postgres"):
        assert way in str(caught.value)


def test_a_start_that_fails_shows_the_end_of_the_log_and_gives_everything_back(folder: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match='invalid value for parameter "work_mem": "lots"'):
        EmbeddedPostgres(folder, {"work_mem": "lots"}).start()
    with EmbeddedPostgres(folder) as postgres:
        assert ask(postgres.dsn) == 1


def test_a_cluster_of_another_version_is_told_not_touched(own_postgres: EmbeddedPostgres) -> None:
    own_postgres.stop()
    version = own_postgres.data_dir / "cluster" / "PG_VERSION"
    version.write_text("9\n")
    with pytest.raises(EmbeddedPostgresError, match=r"made by Postgres 9, and here is .*: install Postgres 9"):
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
