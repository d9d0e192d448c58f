"""The journal's folder: full, read-only, removed, shared, of another version; and what must hold all the same."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from asgi_analytics.batch import HIT
from asgi_analytics.record import journal as journals
from asgi_analytics.record.adoption import adopt
from asgi_analytics.record.frames import frame
from asgi_analytics.record.journal import FileJournal
from asgi_analytics.record.recorder import COLUMNS
from tests.acceptance.faults.ledger import Account
from tests.acceptance.faults.process import WHOLE
from tests.acceptance.faults.rows import Works
from tests.acceptance.rig import ROUNDS, Load, serving
from tests.conftest import data_folder
from tests.drive import NOWHERE, get, page, wrapped
from tests.record.rows import fetch, hit, hit_frame
from tests.waiting import wait_until

MIB = 1 << 20


@contextmanager
def small_disk(size: str = "1m", options: str = "") -> Iterator[Path]:
    """A file system of its own, unmounted at the end; where that needs rights we have not, the test says so."""
    folder = Path("/run" if os.access("/run", os.W_OK) else "/tmp") / f"asgi-analytics-disk-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}{options}", "none", folder], capture_output=True)
    if made.returncode:
        folder.rmdir()
        pytest.skip("this machine lets us mount nothing")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        folder.rmdir()


@contextmanager
def disk_of_a_file(file: Path, size: str) -> Iterator[Path]:
    """A disk with a file system, mounted; where that needs rights we have not, the test says so."""
    folder = file.with_suffix("")
    folder.mkdir()
    for command in (("truncate", "-s", size, file), ("mkfs.ext4", "-q", file), ("mount", "-o", "loop", file, folder)):
        if shutil.which(command[0]) is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("this machine lets us make no disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def linked(path: Path, folder: Path) -> Path:
    """Another path of a folder: what is written beside that is on another disk."""
    path.symlink_to(folder)
    return path


@contextmanager
def standing_still(disk: Path) -> Iterator[None]:
    """No write to a disk returns."""
    subprocess.run(["fsfreeze", "-f", disk], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "-u", disk], check=True)


@contextmanager
def hung_mount(folder: Path) -> Iterator[None]:
    """A file system on a folder that answers nothing: FUSE whose server never reads. The test says where it cannot."""
    try:
        server = os.open("/dev/fuse", os.O_RDWR)
    except OSError:
        pytest.skip("this machine has no FUSE for us")
    libc, options = ctypes.CDLL(None, use_errno=True), f"fd={server},rootmode=40000,user_id=0,group_id=0"
    try:
        if libc.mount(b"hung", bytes(folder), b"fuse", 0, options.encode()) != 0:
            pytest.skip("this machine lets us mount nothing")
        yield
    finally:
        libc.umount2(bytes(folder), 2)  # MNT_DETACH
        os.close(server)  # what waits has an error now


def test_an_app_is_built_and_serves_while_the_mount_with_its_geo_files_hangs(tmp_path: Path, account: Account) -> None:
    (tmp_path / "geo").mkdir()
    with hung_mount(tmp_path / "geo"):
        began = time.monotonic()
        files = {name: str(tmp_path / "geo" / name) for name in ("geoip_city", "geoip_asn")}
        with wrapped(page(), NOWHERE, journal_dir=str(tmp_path / "j"), **files) as middleware:
            assert [get(middleware).status for _ in range(3)] == [200] * 3
            assert middleware.stats()["failures"] == {}
        assert time.monotonic() - began < 10
    account.round()


def test_an_app_serves_from_memory_while_the_mount_with_its_journal_hangs(
    dsn: str, tmp_path: Path, account: Account
) -> None:
    (tmp_path / "mount").mkdir()
    with hung_mount(tmp_path / "mount"):
        began = time.monotonic()
        with wrapped(page(), dsn, journal_dir=str(tmp_path / "mount" / "j")) as middleware:
            assert [get(middleware, f"/e/{number}").status for number in range(3)] == [200] * 3
            account.settle(dsn, range(3))
            stats = middleware.stats()
            assert (stats["durability"], stats["failures"]) == ("memory", {"journal": 1})
        assert time.monotonic() - began < 10
    account.round()


@pytest.mark.skipif(not WHOLE, reason="takes ten seconds: `python -m tests.acceptance.faults F44`")
def test_an_app_serves_from_memory_while_the_disk_of_its_journal_hangs_and_into_it_again_after_that(
    dsn: str, tmp_path: Path, account: Account
) -> None:
    """For longer than a file system takes to commit: writes return no more by then."""
    with (
        data_folder() as below,
        disk_of_a_file(below / "disk.img", "300M") as disk,
        disk_of_a_file(disk / "upper.img", "200M") as folder,
        serving(dsn, linked(tmp_path / "j", folder), batch_age=0.05) as server,
    ):
        with Load(server.port) as load:
            load.more(100)
            with standing_still(disk):
                time.sleep(8)
                load.more(100)
                account.settle(dsn, list(load.answered))
            load.more(100)
            wait_until(lambda: "kept in memory meanwhile" in server.log(), what="a line in the log")
        assert max(load.durations) < 2
        account.settle(dsn, load.answered)
    account.round()


def test_what_a_full_disk_moves_to_memory_is_counted_when_it_ends_there(account: Account) -> None:
    with small_disk() as folder:
        with Works(NOWHERE, folder / "j") as works:
            works.send(0, 6_000)  # about 2 MB
        (left,) = adopt(folder / "j", "")
        batch = left.read(1, 0, 10_000)
        left.release()
        assert batch is not None
        assert works.counters.failures["disk_full"] == works.counters.dropped["stopped"] > 1_000
        assert len(batch.frames) + works.counters.dropped["stopped"] == works.counters.queued == 6_000
        account.round()


def test_what_a_full_disk_moves_to_memory_is_in_the_journal_once_there_is_room(dsn: str, account: Account) -> None:
    """Postgres is away all the while: the next start delivers it."""
    with small_disk("2m") as folder:
        with Works(NOWHERE, folder / "j") as works:
            works.send(0, 100)
            with contextlib.suppress(OSError):
                (folder / "filler").write_bytes(b"x" * (2 * MIB))
            works.send(100, 1_000)
            assert works.recorder.memory.size > 200_000
            (folder / "filler").unlink()
            works.send(1_100, 100)
        assert works.counters.dropped == {}
        with Works(dsn, folder / "j"):
            account.settle(dsn, range(1_200))
    account.round()


def test_on_a_full_disk_parity_is_exact(dsn: str, account: Account) -> None:
    with small_disk() as folder:
        filler = folder / "filler"
        with Works(dsn, folder / "j") as works:
            sent = 0
            for _ in range(ROUNDS):
                works.send(sent, 500)
                with contextlib.suppress(OSError):  # full already
                    filler.write_bytes(b"x" * shutil.disk_usage(folder).free)
                works.send(sent + 500, 500)
                filler.unlink(missing_ok=True)
                sent += 1000
                account.round()
            works.wait()
            works.assert_parity(sent)
            assert works.counters.dropped.total() == 0
        account.settle(dsn, range(sent))


def test_a_read_only_disk_means_memory_until_it_can_be_written(
    dsn: str, account: Account, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asgi_analytics.record.keeper.REOPEN_INTERVAL", 0.5)
    with small_disk("4m", ",ro") as folder, caplog.at_level(logging.WARNING), Works(dsn, folder / "j") as works:
        works.send(0, 100)
        assert works.recorder.journal is None
        subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
        deadline = time.monotonic() + 5
        while works.recorder.journal is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert works.recorder.journal is not None
        works.send(100, 100)
        works.wait()
        account.round()
        account.settle(dsn, range(200))
    assert [record.message.split(" ")[0] for record in caplog.records] == ["No", "The"]


@pytest.mark.parametrize("what", ["folder", "segment", "lock"])
def test_files_that_somebody_removes_while_we_write_cost_nothing(
    dsn: str, tmp_path: Path, account: Account, what: str
) -> None:
    with Works(NOWHERE, tmp_path / "j") as down:
        assert down.recorder.journal is not None
        down.send(0, 100)
        folder = down.recorder.journal.path
        {
            "folder": lambda: shutil.rmtree(tmp_path / "j"),
            "segment": lambda: next(folder.glob("*.journal")).unlink(),
            "lock": (folder / "lock").unlink,
        }[what]()
        down.send(100, 100)
        down.recorder.journal.prepare()
        down.send(200, 100)
        batch = down.recorder.journal.read(1, 0, 10_000)
        assert batch is not None
        assert len(batch.frames) == 200
        following = down.recorder.journal.read(batch.segment, batch.end, 10_000)
        assert following is not None
        assert len(batch.frames) + len(following.frames) == 300
        assert list(adopt(tmp_path / "j", "")) == [], "the journal is still held"
    account.round()
    left = list(adopt(tmp_path / "j", ""))
    assert len(left) == 1, "what came after the repair is there for the next start"
    left[0].release()


def test_strange_files_in_the_folder_stop_no_delivery(dsn: str, tmp_path: Path, account: Account) -> None:
    dead = FileJournal(tmp_path / "j", b"d" * 16, COLUMNS, 64 * MIB)
    dead.append(hit_frame("/e/1"))
    dead.abandon()
    for name in ("notes.journal", "00000002.journal.bak", "x.journal", "00000009.journal"):
        (tmp_path / "j" / dead.path.name / name).write_bytes(b"junk")
    os.mkfifo(tmp_path / "j" / dead.path.name / "00000003.journal")
    (tmp_path / "j" / dead.path.name / "00000004.journal").mkdir()
    (tmp_path / "j" / "README").write_text("mine")
    for name, what in (("a" * 32, "database"), ("0" * 32, "address"), ("1" * 32, "server")):
        (tmp_path / "j" / name).mkdir()
        (tmp_path / "j" / name / "database").write_text("other")
        (tmp_path / "j" / name / what).unlink(missing_ok=True)
        os.mkfifo(tmp_path / "j" / name / what)
    (tmp_path / "j" / ("2" * 32)).mkdir()
    (tmp_path / "j" / ("2" * 32) / "database").symlink_to("/dev/zero")
    with Works(dsn, tmp_path / "j") as works:
        works.send(2, 1)
        account.round()
        account.settle(dsn, [1, 2])
        wait_until(lambda: not dead.path.exists(), what="the end of that journal")


def test_a_journal_of_a_later_version_holds_up_nobody(
    dsn: str, tmp_path: Path, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = {**COLUMNS, HIT: (*COLUMNS[HIT], "of_tomorrow")}
    for name, columns in ((b"a" * 16, later), (b"b" * 16, COLUMNS)):
        dead = FileJournal(tmp_path / "j", name, columns, 64 * MIB)
        row = hit("/e/1" if columns is later else "/e/2")
        dead.append(
            frame(HIT, len(columns[HIT]).to_bytes(2, "big") + row[2:] + (b"\xff" * 4 if columns is later else b""))
        )
        dead.abandon()
    with Works(dsn, tmp_path / "j") as works:
        works.send(3, 100)
        account.round()
        account.settle(dsn, [2, *range(3, 103)])
        assert works.counters.failures["left_over"] >= 1
        assert works.writer.state.connected
    kept = [path for path in (tmp_path / "j").iterdir() if path.name == (b"a" * 16).hex()]
    assert kept, "the later version will find it"


def test_retained_segments_take_no_room_from_what_is_not_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "SEGMENT_SIZE", 10_000)
    kept = FileJournal(tmp_path / "j", b"k" * 16, COLUMNS, 200_000)
    data = hit_frame("/x")

    def fill(size: int) -> None:
        for _ in range(size // len(data)):
            kept.append(data)
            kept.prepare()

    fill(90_000)
    kept.acknowledge(kept.segment, 1.0)
    with pytest.raises(Exception, match="journal_full"):
        fill(400_000)
    size = sum(file.stat().st_size for file in kept.path.glob("*.journal"))
    assert size <= 200_000 + 2 * 10_000
    kept.abandon()


def test_after_a_fail_over_that_lost_the_tail_it_is_sent_again(
    dsn: str, tmp_path: Path, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "SEGMENT_SIZE", 20_000)
    with Works(dsn, tmp_path / "j") as works:
        works.send(0, 300)
        works.wait()
        (before,) = fetch(dsn, "SELECT segment, position FROM analytics.positions WHERE rows > 0")
        for first in range(300, 900, 100):
            works.send(first, 100)
            works.wait()
            with suppress(FileExistsError):  # the writer's own thread was faster
                works.recorder.journal.prepare()  # type: ignore[union-attr]
        # What an asynchronous replica that is promoted has not got: the rows and the position, together.
        fetch(dsn, "DELETE FROM analytics.hits WHERE substr(path, 4)::int >= 300")
        fetch(dsn, "UPDATE analytics.positions SET segment = %s, position = %s", before["segment"], before["position"])
        fetch(dsn, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                   " AND application_name = 'asgi-analytics writer'")  # fmt: skip
        works.send(900, 100)
        account.round()
        account.settle(dsn, range(1000))


def test_restarts_of_one_container_deliver_each_journal_once(dsn: str, tmp_path: Path, account: Account) -> None:
    """Same host name, same process id, same folder: four start at once, over and over, some with Postgres away."""
    program = (
        "import sys; from pathlib import Path; from tests.acceptance.faults.rows import Works; import os\n"
        "dsn, folder, first = sys.argv[1:]\n"
        "works = Works(dsn, Path(folder)); works.writer.start(); works.send(int(first), 25); os._exit(0)"
    )
    turns = 4 * ROUNDS if WHOLE else 3
    for turn in range(turns):
        starts = [
            subprocess.Popen([sys.executable, "-c", program, dsn if turn % 2 else NOWHERE, tmp_path / "j", str(first)])
            for first in range(turn * 100, turn * 100 + 100, 25)
        ]
        assert [process.wait(30) for process in starts] == [0] * 4
        account.round(4)
    with Works(dsn, tmp_path / "j"):
        account.settle(dsn, range(100 * turns))
