from __future__ import annotations

import os
from pathlib import Path

import pytest

from asgi_analytics.embedded import default_data_dir
from asgi_analytics.folders import named, state_folder
from asgi_analytics.settings import Settings, default_journal_dir

from .conftest import data_folder
from .drive import NOWHERE

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="what is done as root only")


def test_the_default_folder_follows_environment_and_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_data_dir() == Path("/var/tmp/asgi-analytics/postgres")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/home/ann/state")
    assert default_data_dir() == Path("/home/ann/state/asgi-analytics/postgres")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_data_dir() == tmp_path / ".local/state/asgi-analytics/postgres"
    monkeypatch.setenv("ASGI_ANALYTICS_DATA_DIR", "/srv/pg")
    assert default_data_dir() == Path("/srv/pg")


def test_who_has_no_home_gets_a_folder_of_his_own_not_one_named_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_STATE_HOME", "ASGI_ANALYTICS_JOURNAL_DIR"):
        monkeypatch.delenv(name, raising=False)
    for asked in ("getuid", "geteuid"):
        monkeypatch.setattr(os, asked, lambda: 1_000_730_000)  # as OpenShift runs containers; no such user is known
    assert default_data_dir() == Path("/var/tmp/asgi-analytics-1000730000/postgres")
    assert default_journal_dir() == Path("/var/tmp/asgi-analytics-1000730000/journal")


@only_root
@pytest.mark.parametrize("home", ["/nonexistent", "/usr/sbin", "/"])
def test_who_cannot_write_to_his_home_has_none(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As nobody, a service account, and under Docker, which says that the home of a number is "/"."""
    for name in ("XDG_STATE_HOME", "ASGI_ANALYTICS_JOURNAL_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", home)
    os.seteuid(12_345)
    try:
        found = default_data_dir(), default_journal_dir()
    finally:
        os.seteuid(0)
    assert found == (Path("/var/tmp/asgi-analytics-12345/postgres"), Path("/var/tmp/asgi-analytics-12345/journal"))


@only_root
def test_a_folder_of_ones_own_in_a_home_that_cannot_be_written_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as a volume that a container mounts there."""
    with data_folder() as home:
        ours = home / ".local/state/asgi-analytics"
        ours.mkdir(parents=True)
        for place in (home, *ours.relative_to(home).parents):
            (home / place).chmod(0o755)
        os.chown(ours, 12_345, -1)
        monkeypatch.delenv("XDG_STATE_HOME", raising=False)
        monkeypatch.setenv("HOME", str(home))
        os.seteuid(12_345)
        try:
            assert state_folder() == ours
        finally:
            os.seteuid(0)


def test_a_folder_stays_where_it_is_when_the_app_changes_its_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASGI_ANALYTICS_JOURNAL_DIR")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    folders = [Settings.build(dsn=NOWHERE, journal_dir="j").journal_dir, default_journal_dir()]
    monkeypatch.setenv("ASGI_ANALYTICS_JOURNAL_DIR", "other")
    folders.append(default_journal_dir())
    assert folders == [tmp_path / "j", tmp_path / "state/asgi-analytics/journal", tmp_path / "other"]


def test_who_works_in_a_directory_that_was_deleted_gets_folders_all_the_same(tmp_path: Path) -> None:
    before, gone = os.getcwd(), tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    try:
        gone.rmdir()
        assert named("journal") == Path("journal")
    finally:
        os.chdir(before)
