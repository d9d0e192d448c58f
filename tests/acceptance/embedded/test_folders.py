"""Whose folder it is, as which user the server runs, and what is refused."""

from __future__ import annotations

import os
import pwd
import stat
import sys
from pathlib import Path

import pytest

from asgi_analytics.embedded import EmbeddedPostgres, find_servers, programs
from asgi_analytics.embedded.folder import prepare
from asgi_analytics.errors import EmbeddedPostgresError
from tests.conftest import data_folder
from tests.waiting import wait_until

from .rig import ask, gone, only_root, only_wheel, report, worker

# What a test as root does as an ordinary user; imports come first, as the interpreter may lie under /root.
BECOME_NOBODY = """
import importlib.util, psycopg, shutil, tempfile
sys.path.insert(0, sys.argv[2])
os.setgroups([])
os.setgid({group})
os.setuid({user})
"""


def test_password_and_log_are_private_and_no_socket_file_is_made(own_postgres: EmbeddedPostgres) -> None:
    folder = own_postgres.data_dir
    for name in ("dsn", "lock", "server.lock", "server.log"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert folder.stat().st_mode & stat.S_IRWXO == 0
    assert ask(own_postgres.dsn, "SHOW unix_socket_directories") == ""
    assert ask(own_postgres.dsn, "SHOW listen_addresses") == "127.0.0.1"


@pytest.mark.skipif(sys.platform == "darwin", reason="names are text there")
def test_a_folder_whose_name_is_no_text_is_one_like_others(made: Path) -> None:
    named = Path(os.fsdecode(os.fsencode(made) + b"\xff"))
    made.rename(named)
    try:
        with EmbeddedPostgres(named) as server:
            assert ask(server.dsn) == 1
    finally:
        named.rename(made)


@only_root
@only_wheel
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
@only_wheel
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
        wait_until(lambda: gone(pid), 5)


def test_a_folder_that_holds_other_things_is_refused_and_left_as_it_was(folder: Path) -> None:
    (folder / "thesis.txt").touch()
    folder.chmod(0o755)
    with pytest.raises(EmbeddedPostgresError, match="holds other things"):
        EmbeddedPostgres(folder).start()
    assert os.listdir(folder) == ["thesis.txt"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_who_begins_in_a_folder_at_the_same_moment_is_no_other_thing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exists = Path.exists

    def made_then(path: Path) -> bool:
        found = exists(path)
        if path.name == "lock":
            path.touch()
        return found

    monkeypatch.setattr(Path, "exists", made_then)
    prepare(folder, None)


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
