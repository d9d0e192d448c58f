"""`asgi-analytics doctor` names what ails the journal's folder and the geo files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from asgi_analytics.commands import doctor
from asgi_analytics.commands.doctor import check
from asgi_analytics.commands.doctor.journals import journal_checks
from asgi_analytics.commands.doctor.options import geo_checks
from asgi_analytics.record.destination import Destination
from asgi_analytics.record.journal import FileJournal
from asgi_analytics.record.recorder import COLUMNS
from asgi_analytics.settings import Settings
from tests.acceptance.faults.ledger import Account
from tests.acceptance.faults.test_disk import hung_mount, small_disk
from tests.acceptance.faults.test_doctor import told
from tests.drive import called
from tests.record.rows import hit_frame


def test_doctor_names_a_journal_folder_that_is_missing_read_only_or_full(tmp_path: Path, account: Account) -> None:
    assert "(made at the first start)" in told(journal_checks(tmp_path / "none"))
    with small_disk("1m") as disk:
        assert f"WRONG the disk of {disk} is full" in told(journal_checks(disk))
    with small_disk("1m", ",ro") as disk:
        assert "is not writable → make it writable" in told(journal_checks(disk / "j"))
    account.round(3)


def test_doctor_names_segments_of_another_version_and_a_folder_that_apps_share(
    tmp_path: Path, account: Account
) -> None:
    for name, database in ((b"a" * 16, "one"), (b"b" * 16, "other")):
        dead = FileJournal(tmp_path, name, COLUMNS, 64 << 20, Destination(database))
        dead.append(hit_frame("/e/1"))
        dead.abandon()
    assert "WRONG" not in told(journal_checks(tmp_path))
    segment = next((tmp_path / (b"a" * 16).hex()).glob("*.journal"))
    segment.write_bytes(b"ASGIAJ\x00\n" + segment.read_bytes()[8:])
    (tmp_path / f"{(b'c' * 16).hex()}-00000001.journal.unreadable").write_bytes(b"of another version")
    found = told(journal_checks(tmp_path))
    assert "WRONG of a format that this version does not know: 1 segment, " in found
    assert "WRONG of another version, set aside: 1 segment, 18 bytes" in found
    assert "note shared by apps of 2 databases" in found
    account.round()


@pytest.mark.parametrize("name", ["database", "address", "server", "lock", "00000001.journal", "00000002.journal"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/nowhere")])
def test_doctor_is_held_up_by_nothing_that_lies_in_the_folder(
    tmp_path: Path, make: Callable[[Path], object], name: str
) -> None:
    for journal in (b"a" * 16, b"b" * 16):
        FileJournal(tmp_path, journal, COLUMNS, 64 << 20, Destination("one", "host=one")).abandon()
    strange = tmp_path / (b"a" * 16).hex() / name
    strange.unlink(missing_ok=True)
    make(strange)
    found = told(journal_checks(tmp_path))
    assert "WRONG" not in found
    assert "left over" in found


def test_doctor_waits_for_no_mount_that_hangs(
    dsn: str, tmp_path: Path, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (check, doctor):
        monkeypatch.setattr(module, "FILE_PATIENCE", 0.3)
    with hung_mount(tmp_path):
        files = ("--geoip-city", f"{tmp_path}/city.mmdb", "--journal-dir", f"{tmp_path}/journals")
        answer = called("doctor", *files, "--client", "203.0.113.7", "--dsn", dsn)
    for subject in ("place", "geo files", "journal"):
        assert f"WRONG {subject}: no answer within 0.3 s from the disk or the mount → mend the mount" in answer.stdout
    assert "ok    database: PostgreSQL" in answer.stdout
    assert answer.returncode == 1
    account.round()


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "missing"])
def test_doctor_names_damaged_geo_files(tmp_path: Path, account: Account, damage: str) -> None:
    from tests.identify.test_geoip import CITIES, write

    path = write(tmp_path / "city.mmdb", CITIES)
    settings = Settings.build(geoip_city=str(path))
    assert "WRONG" not in told(geo_checks(settings))
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "text": b"<html>not found</html>"}.get(damage, b""))
    if damage == "missing":
        path.unlink()
    found = told(geo_checks(settings))
    assert "→ name a MaxMind-format file" in found
    assert found.count(str(path)) == 1
    account.round()
