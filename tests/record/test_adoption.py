from __future__ import annotations

import fcntl
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from asgi_analytics.batch import Batch
from asgi_analytics.errors import StoreMisconfigured
from asgi_analytics.model import Merged
from asgi_analytics.record import adoption
from asgi_analytics.record import journal as journal_module
from asgi_analytics.record.adoption import adopt
from asgi_analytics.record.descriptors import lock_new
from asgi_analytics.record.destination import Destination, read_destination, remove
from asgi_analytics.record.journal import FileJournal
from asgi_analytics.record.listing import bytes_in, journals
from asgi_analytics.record.recorder import COLUMNS, Counters, Recorder
from asgi_analytics.record.writer import Writer
from asgi_analytics.settings import Settings
from asgi_analytics.testing import FakeClock, MemoryState, MemoryStore
from tests.record.rows import fetch, hit_frame
from tests.waiting import wait_until

from .journals import NAME, dead, fill
from .rig import Rig, stored

fork = multiprocessing.get_context("fork")


def test_the_journal_of_a_dead_worker_is_delivered_by_the_next(dsn: str, tmp_path: Path) -> None:
    left = FileJournal(tmp_path / "j", b"dead" * 4, COLUMNS, 1 << 20)
    for number in range(120):
        left.append(hit_frame(f"/e/{number}"))
    left.abandon()
    with Rig(dsn, tmp_path / "j") as rig:
        rig.send(120, 5)
        wait_until(lambda: not left.path.exists())
    assert stored(dsn) == list(range(125))
    assert rig.counters.adopted == 120


def test_what_a_dead_worker_had_delivered_is_not_delivered_again(dsn: str, tmp_path: Path) -> None:
    dead = Rig(dsn, tmp_path / "j")
    with dead:
        dead.send(0, 100)
        wait_until(dead.delivered)
        dead.send(100, 50)
        assert dead.recorder.journal is not None
        dead.recorder.journal.close(0, 0)  # keeps the folder, as a kill would
    with Rig(dsn, tmp_path / "j"):
        wait_until(lambda: not dead.recorder.journal.path.exists())  # type: ignore[union-attr]
    assert stored(dsn) == list(range(150))


def test_a_left_over_journal_is_delivered_though_its_position_was_moved_on(dsn: str, tmp_path: Path) -> None:
    left = dead_journal(tmp_path / "j", 1)
    fetch(dsn, "INSERT INTO analytics.positions (journal, host, segment) VALUES (%s, 'h', 7)", UUID(bytes=left.id))
    with Rig(dsn, tmp_path / "j"):
        wait_until(lambda: not left.path.exists())
    assert stored(dsn) == [1]


def of_an_unknown_version(folder: Path) -> Path:
    """A segment that nobody here can read, in the first of two journals that were left over."""
    for name in (b"0", b"1"):
        left = FileJournal(folder, name * 16, COLUMNS, 1 << 20)
        left.append(hit_frame(f"/e/{int(name)}"))
        left.abandon()
    path = folder / (b"0" * 16).hex() / "00000001.journal"
    path.write_bytes(b"ASGIAJ\x09\n" + path.read_bytes()[8:])
    return path


def test_a_segment_of_an_unknown_version_does_not_stop_the_others(dsn: str, tmp_path: Path) -> None:
    of_an_unknown_version(tmp_path / "j")
    with Rig(dsn, tmp_path / "j") as rig:
        wait_until(lambda: rig.counters.adopted == 1)
    assert stored(dsn) == [1]
    assert len(list((tmp_path / "j").glob("*.unreadable"))) == 1
    assert rig.counters.failures["journal_format"] == 1


def test_a_segment_that_cannot_be_set_aside_does_not_stop_the_others(dsn: str, tmp_path: Path) -> None:
    path = of_an_unknown_version(tmp_path / "j")
    (tmp_path / "j" / f"{path.parent.name}-{path.name}.unreadable").mkdir()  # the rename fails, as on a failing disk
    with Rig(dsn, tmp_path / "j") as rig:
        wait_until(lambda: rig.counters.adopted == 1)
        assert rig.writer.state.connected
    assert stored(dsn) == [1]
    assert (rig.counters.failures["left_over"], path.exists()) == (1, True)


def dead_journal(folder: Path, number: int) -> FileJournal:
    """The journal of a worker that died with one row in it, /e/<number>."""
    left = FileJournal(folder, number.to_bytes(16, "big"), COLUMNS, 1 << 20)
    left.append(hit_frame(f"/e/{number}"))
    left.abandon()
    return left


@contextmanager
def few_descriptors(more: int) -> Iterator[None]:
    """Let this process open `more` files than now, and no others."""
    free = os.dup(0)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_journals_are_left_over_than_the_process_may_open_files(dsn: str, tmp_path: Path) -> None:
    left = [dead_journal(tmp_path / "j", number) for number in range(80)]
    rig = Rig(dsn, tmp_path / "j")
    with few_descriptors(30), rig:
        wait_until(lambda: rig.counters.adopted == 80)
        wait_until(lambda: not any(one.path.exists() for one in left))
    assert stored(dsn) == list(range(80))


def test_a_journal_that_cannot_be_looked_into_keeps_no_descriptor_and_no_row_is_lost(tmp_path: Path) -> None:
    left = [dead_journal(tmp_path, number) for number in range(3)]
    with few_descriptors(1):  # enough for the lock, not for the look
        assert list(adopt(tmp_path)) == []
        os.close(os.dup(0))
    assert [(found.path, found.segments) for found in adopt(tmp_path)] == [(one.path, [1]) for one in left]


def test_a_journal_whose_lock_file_was_removed_is_delivered_once_it_is_nobodys(tmp_path: Path) -> None:
    left = dead_journal(tmp_path, 1)
    (left.path / "lock").unlink()  # it is empty, so cleaners of empty files and some backups leave it out
    assert [one.alive for one in journals(tmp_path)] == [False]
    assert list(adopt(tmp_path)) == []  # a living worker puts it back itself
    os.utime(left.path, (0, 0))
    (found,) = adopt(tmp_path)
    assert found.read(1, 0, 10) is not None
    assert list(adopt(tmp_path)) == []


@pytest.mark.parametrize("strange", [os.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_what_is_in_the_place_of_a_lock_file_keeps_no_journal_from_being_delivered(
    journal: FileJournal, tmp_path: Path, strange: Callable[[Path], None]
) -> None:
    left = dead_journal(tmp_path, 1)
    for folder in (left.path, journal.path):
        (folder / "lock").unlink()
        strange(folder / "lock")
    journal.prepare()
    for folder in (left.path, journal.path):
        os.utime(folder, (0, 0))
    (found,) = adopt(tmp_path)
    assert found.read(1, 0, 10) is not None
    assert [one.alive for one in journals(tmp_path)] == [True, True]


def test_who_goes_to_a_database_of_unknown_identity_keeps_none_of_the_one_before(tmp_path: Path) -> None:
    """Else it would be delivered to that one, too, under whatever name."""
    for destination in (Destination("one", "host=one", "itself"), Destination("two", "host=two")):
        destination.write(tmp_path)
        assert read_destination(tmp_path) == destination


@pytest.mark.parametrize("after", range(7))
def test_a_kill_while_a_delivered_journal_is_removed_leaves_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(journal_module, "SEGMENT_SIZE", 100)
    left = FileJournal(tmp_path, NAME, COLUMNS, 1 << 20, Destination("d", "host:5432/name", "server"))
    while left.segment < 3:
        fill(left, 1)
    end = left.end()
    left.abandon()
    killed = fork.Process(target=remove_and_die, args=(left.path, after))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    os.utime(left.path, (0, 0))  # nobody's for long
    for found in adopt(tmp_path, "d"):
        assert found.end() == (end if after < 3 else (0, 0)), "no position is behind what is left"
        assert found.read(*end, 1) is None
        found.finish()
    assert list(tmp_path.iterdir()) == []


def remove_and_die(folder: Path, after: int) -> None:
    """Be killed after so many of its seven files, of which three are segments."""
    left = iter(range(after))
    unlink = os.unlink

    def unlink_or_die(path: Path) -> None:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        unlink(path)

    os.unlink = unlink_or_die  # type: ignore[assignment]
    remove(folder)


def test_what_a_kill_left_of_a_journal_in_the_making_is_removed_but_not_one_that_is_being_made(tmp_path: Path) -> None:
    unlocked, unheld, held, fresh = (tmp_path / f".{digit * 32}" for digit in "abcd")
    for folder in (unlocked, unheld, held, fresh):
        folder.mkdir()
    lock_new(unheld).close()
    maker = lock_new(held)
    for folder in (unlocked, unheld, held):
        os.utime(folder, (0, 0))
    assert list(adopt(tmp_path)) == []
    assert sorted(tmp_path.iterdir()) == [held, fresh]
    maker.close()


def test_a_stray_file_with_a_longer_number_hides_no_row(tmp_path: Path) -> None:
    left = dead_journal(tmp_path, 1)
    (left.path / "0000000000.journal").write_bytes(b"?")
    (found,) = adopt(tmp_path)
    assert found.segments == [1]
    assert found.read(1, 0, 10) is not None


def test_a_link_that_leads_to_itself_keeps_no_journal_from_being_delivered(tmp_path: Path) -> None:
    left = dead_journal(tmp_path, 1)
    (left.path / "00000002.journal").symlink_to("00000002.journal")
    (found,) = adopt(tmp_path)
    assert found.segments == [1]


def test_a_file_that_cannot_be_measured_hides_no_other(tmp_path: Path) -> None:
    left = dead_journal(tmp_path, 1)
    size = bytes_in(tmp_path)
    (left.path / "00000000.journal").symlink_to("nowhere")  # as one that is removed meanwhile
    assert bytes_in(tmp_path) == size > 0


def test_a_link_to_a_journal_under_another_name_is_no_journal_and_one_under_its_own_is(
    dsn: str, tmp_path: Path
) -> None:
    left, moved = dead_journal(tmp_path / "j", 1), dead_journal(tmp_path / "j", 2)
    (tmp_path / "j" / ("0" * 32)).symlink_to(left.path)
    moved.path.rename(tmp_path / moved.path.name)
    moved.path.symlink_to(tmp_path / moved.path.name)
    assert {one.name for one in journals(tmp_path / "j")} == {left.path.name, moved.path.name}
    with Rig(dsn, tmp_path / "j"):
        wait_until(lambda: not left.path.exists() and not list((tmp_path / moved.path.name).iterdir()))
    assert stored(dsn) == [1, 2]


def test_stopping_without_a_free_descriptor_raises_nothing_and_leaves_the_rows_to_the_next(tmp_path: Path) -> None:
    recorder, store = Recorder(Settings.build(journal_dir=tmp_path / "j"), Counters()), MemoryStore()
    recorder.open()
    recorder._append(hit_frame("/e/1"))
    writer = Writer(lambda: store, recorder, MemoryState(), FakeClock(), rows=10, age=0.01, chores=lambda: None)
    with few_descriptors(0):
        assert not writer.stop(1.0)
        assert writer.pending_bytes() > 0
    (left,) = adopt(tmp_path / "j")
    assert left.read(1, 0, 10) is not None


class Picky(MemoryStore):
    """A store that does not know some journals' columns."""

    def write(self, batch: Batch) -> list[Merged]:
        if batch.journal[-1] % 2 == 0:
            raise StoreMisconfigured("no such column")
        return super().write(batch)


def test_journals_that_cannot_be_delivered_hold_up_no_other(tmp_path: Path) -> None:
    for number in range(1, 21):
        dead_journal(tmp_path / "j", number)
    recorder, store = Recorder(Settings.build(journal_dir=tmp_path / "j", durability="memory"), Counters()), Picky()
    writer = Writer(lambda: store, recorder, MemoryState(), FakeClock(), rows=10, age=0.01, chores=lambda: None)
    while writer._cycle().is_behind:  # without a pause between two of them
        pass
    assert (recorder.counters.adopted, recorder.counters.failures["left_over"]) == (10, 10)


def test_a_living_journal_is_nobodys_to_adopt(journal: FileJournal, tmp_path: Path) -> None:
    assert list(adopt(tmp_path)) == []


def test_an_adopted_journal_is_adopted_once(journal: FileJournal, tmp_path: Path) -> None:
    found = dead(journal)
    assert list(adopt(tmp_path)) == []
    found.release()
    found.release()
    (again,) = adopt(tmp_path)
    again.finish()
    assert list(tmp_path.iterdir()) == []


def fork_in(owner: object, name: str, patch: pytest.MonkeyPatch) -> list[Any]:
    """Have a function fork a child, once, that lives on: as another thread of the app may at any moment."""
    children: list[Any] = []
    given = getattr(owner, name)

    def forking(*arguments: object) -> object:
        if not children:
            children.append(fork.Process(target=time.sleep, args=(60,), daemon=True))
            children[0].start()
        return given(*arguments)

    patch.setattr(owner, name, forking)
    return children


@pytest.mark.parametrize(("owner", "call"), [(fcntl, "fcntl"), (Destination, "write")], ids=["opened", "locked"])
def test_a_child_that_is_forked_while_a_journal_is_made_does_not_hold_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, call: str
) -> None:
    with monkeypatch.context() as patch:
        children = fork_in(owner, call, patch)
        journal = FileJournal(tmp_path, NAME, COLUMNS, 1 << 20)
    journal.abandon()
    wait_until(lambda: [found.id for found in adopt(tmp_path)] == [NAME])
    assert [child.is_alive() for child in children] == [True]
    children[0].kill()


def test_a_child_that_is_forked_while_a_journal_is_adopted_does_not_hold_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = dead_journal(tmp_path, 1)
    with monkeypatch.context() as patch:
        children = fork_in(adoption, "_segments", patch)
        (found,) = adopt(tmp_path)
    assert list(adopt(tmp_path)) == [], "the parent holds it"
    found.release()
    wait_until(lambda: [again.id for again in adopt(tmp_path)] == [left.id])
    assert [child.is_alive() for child in children] == [True]
    children[0].kill()


def test_a_lock_that_another_holds_is_not_waited_for(tmp_path: Path) -> None:
    """Requests would wait, too, where somebody has removed the lock file and another worker was faster."""
    held = lock_new(tmp_path)
    with pytest.raises(BlockingIOError):
        lock_new(tmp_path)
    held.close()
    lock_new(tmp_path).close()


def test_a_segment_that_a_power_cut_left_empty_is_no_journal_of_another_version(dsn: str, tmp_path: Path) -> None:
    """It was made ahead of need, and nothing of it was on the disk yet but its name."""
    left = dead_journal(tmp_path / "j", 1)
    (left.path / "00000002.journal").touch()
    with Rig(dsn, tmp_path / "j") as rig:
        wait_until(lambda: not left.path.exists())
    assert (stored(dsn), rig.counters.failures) == ([1], {})
    assert list((tmp_path / "j").iterdir()) == []


def _adopt_all(root: Path, gate: multiprocessing.synchronize.Barrier, counts: multiprocessing.Queue[int]) -> None:
    gate.wait(20)
    found = list(adopt(root))
    counts.put(len(found))
    gate.wait(20)  # all have looked before anybody lets go


def test_of_several_processes_one_adopts_each_journal(tmp_path: Path) -> None:
    for number in range(20):
        left = FileJournal(tmp_path, bytes([number]) * 16, COLUMNS, 1 << 20)
        left.abandon()
    gate, counts = fork.Barrier(4), fork.Queue()
    racers = [fork.Process(target=_adopt_all, args=(tmp_path, gate, counts)) for _ in range(4)]
    for racer in racers:
        racer.start()
    found = [counts.get(timeout=20) for _ in racers]
    for racer in racers:
        racer.join(20)
    assert sum(found) == 20


def test_a_journal_for_another_database_is_left_alone(tmp_path: Path) -> None:
    FileJournal(tmp_path, NAME, COLUMNS, 1 << 20, Destination("shop")).abandon()
    assert list(adopt(tmp_path, "blog")) == []
    (found,) = adopt(tmp_path, "shop")
    assert found.id == NAME
