from __future__ import annotations

import contextlib
import errno
import fcntl
import multiprocessing
import os
import resource
import shutil
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgi_analytics.batch import DAMAGED, DECISION, HIT, Frame
from asgi_analytics.errors import JournalError, JournalFormatError
from asgi_analytics.record import journal as module
from asgi_analytics.record.adoption import LeftOver, adopt
from asgi_analytics.record.journal import RETENTION, FileJournal, left_over_bytes
from asgi_analytics.record.memory import MemoryJournal
from asgi_analytics.record.segment import MAGIC, MOST_FRAME, frame
from asgi_analytics.record.target import DATABASE

COLUMNS = {HIT: ("a", "b"), DECISION: ("c",)}
NAME = b"j" * 16
fork = multiprocessing.get_context("fork")


def row(number: int, size: int = 20) -> bytes:
    return struct.pack("!hi", 2, number) + b"x" * size


def rows(frames: list[Frame]) -> list[int]:
    return [struct.unpack_from("!hi", one.row)[1] for one in frames if one.kind == HIT]


def read_all(source: FileJournal | LeftOver, most: int = 3) -> list[Frame]:
    found: list[Frame] = []
    segment, offset = 0, 0
    while batch := source.read(segment, offset, most):
        assert batch.frames[-1].end == batch.end
        found += batch.frames
        segment, offset = batch.segment, batch.end
    return found


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[FileJournal]:
    journal = FileJournal(tmp_path, NAME, COLUMNS, 1 << 30)
    yield journal
    journal.abandon()


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_SIZE", 400)


def fill(journal: FileJournal, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        journal.append(frame(HIT, row(number)))
        journal.prepare()


def dead(journal: FileJournal) -> LeftOver:
    """What is left of a journal when its worker dies."""
    journal.abandon()
    (found,) = adopt(journal.path.parent)
    return found


def test_what_is_appended_is_read_in_order(journal: FileJournal) -> None:
    fill(journal, 10)
    journal.append(frame(DECISION, b"\0\x01d"))
    found = read_all(journal)
    assert rows(found) == list(range(10))
    assert found[-1].kind == DECISION


def test_nothing_is_read_where_nothing_is_new(journal: FileJournal) -> None:
    fill(journal, 1)
    batch = journal.read(0, 0, 10)
    assert batch is not None
    assert journal.read(batch.segment, batch.end, 10) is None
    assert journal.pending_bytes(batch.segment, batch.end) == 0


def test_segments_follow_each_other(journal: FileJournal, small_segments: None) -> None:
    fill(journal, 100)
    assert journal.segment > 5
    assert rows(read_all(journal)) == list(range(100))


def test_without_a_prepared_segment_the_open_one_goes_on(journal: FileJournal, small_segments: None) -> None:
    for number in range(50):
        journal.append(frame(HIT, row(number)))
    assert journal.segment == 1
    assert rows(read_all(journal)) == list(range(50))


class Costly(int):
    """A number that there is no memory to count on from, the first time."""

    refused = False

    def __add__(self, other: int) -> int:
        if not self.refused:
            self.refused = True
            raise MemoryError
        return int(self) + other


def test_a_rotation_that_gets_no_memory_has_changed_nothing(journal: FileJournal, small_segments: None) -> None:
    fill(journal, 8)
    journal.segment = Costly(1)
    refused = 0
    for number in range(8, 20):
        try:
            journal.append(frame(HIT, row(number)))
        except MemoryError:  # the row is in
            refused += 1
    fill(journal, 100, first=20)
    assert refused == 1
    assert rows(read_all(journal)) == list(range(120))
    assert rows(read_all(dead(journal))) == list(range(120))


def test_delivered_segments_are_kept_for_a_while(journal: FileJournal, small_segments: None) -> None:
    fill(journal, 100)
    journal.acknowledge(journal.segment, now=1000.0)
    assert journal.backlog == 0
    assert rows(read_all(journal)) == list(range(100)), "a fail-over may have lost them"
    journal.acknowledge(journal.segment, now=1000.0 + RETENTION + 1)
    assert [path.name for path in journal.path.glob("*.journal")] == [f"{journal.segment:08d}.journal"]


def test_delivered_segments_go_early_where_room_is_short(tmp_path: Path, small_segments: None) -> None:
    journal = FileJournal(tmp_path, NAME, COLUMNS, 3000)
    fill(journal, 50)
    journal.acknowledge(journal.segment, now=0.0)
    assert left_over_bytes(tmp_path) < 1500
    fill(journal, 20, first=50)
    assert rows(read_all(journal))[-20:] == list(range(50, 70))


def test_at_the_limit_the_newest_is_refused(tmp_path: Path, small_segments: None) -> None:
    journal = FileJournal(tmp_path, NAME, COLUMNS, 2000)
    taken = 0
    with contextlib.suppress(JournalError):
        while taken < 1000:
            fill(journal, 1, first=taken)
            taken += 1
    with pytest.raises(JournalError, match="journal_full"):
        fill(journal, 1)
    assert 20 < taken < 100
    assert rows(read_all(journal)) == list(range(taken))
    assert left_over_bytes(tmp_path) <= 2000 + module.SEGMENT_SIZE


def test_a_reader_between_two_segments_cuts_no_frame(journal: FileJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_SIZE", 4000)
    fill(journal, 60)
    seen = rows(read_all(journal, most=7))
    assert seen == list(range(60))


def test_closing_removes_what_is_delivered(journal: FileJournal) -> None:
    fill(journal, 3)
    batch = journal.read(0, 0, 10)
    assert batch is not None
    assert journal.close(batch.segment, batch.end)
    assert not journal.path.exists()


def test_closing_keeps_what_came_after_the_last_look(journal: FileJournal) -> None:
    fill(journal, 3)
    batch = journal.read(0, 0, 10)
    assert batch is not None
    fill(journal, 1, first=3)
    assert not journal.close(batch.segment, batch.end)
    assert rows(read_all(dead(journal))) == [0, 1, 2, 3]


def test_a_closed_journal_takes_nothing(journal: FileJournal) -> None:
    journal.close(1, 0)
    with pytest.raises(JournalError):
        journal.append(frame(HIT, row(1)))


# Damage: how the last of five frames, or the third, is hurt, and which rows are left.
FRAME = len(frame(HIT, row(0)))


def spoil(path: Path, change: Callable[[bytearray], object]) -> None:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def third(data: bytearray) -> int:
    return len(data) - 3 * FRAME


DAMAGES: dict[str, tuple[Callable[[bytearray], object], list[int]]] = {
    "torn tail": (lambda data: data.__delitem__(slice(-5, None)), [0, 1, 2, 3]),
    "torn head": (lambda data: data.__delitem__(slice(3 - FRAME, None)), [0, 1, 2, 3]),
    "zero tail": (lambda data: data.extend(bytes(5000)), [0, 1, 2, 3, 4]),
    "payload": (lambda data: data.__setitem__(third(data) + 20, 0xFF), [0, 1, 3, 4]),
    "kind": (lambda data: data.__setitem__(third(data) + 8, 0xFF), [0, 1, 3, 4]),
    "checksum": (lambda data: data.__setitem__(third(data) + 5, data[third(data) + 5] ^ 1), [0, 1, 3, 4]),
    "longer": (lambda data: data.__setitem__(third(data) + 3, FRAME + 1), [0, 1, 3, 4]),
    "shorter": (lambda data: data.__setitem__(third(data) + 3, 2), [0, 1, 3, 4]),
    "length zero": (lambda data: data.__setitem__(slice(third(data), third(data) + 4), bytes(4)), [0, 1, 3, 4]),
    "length 2^31": (lambda data: data.__setitem__(third(data), 0x80), [0, 1, 3, 4]),
    "length 2^19": (lambda data: data.__setitem__(third(data) + 1, 0x08), [0, 1, 3, 4]),
    "removed": (lambda data: data.__delitem__(slice(third(data) + 4, third(data) + 14)), [0, 1, 3, 4]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_damaged_is_delivered(journal: FileJournal, damage: str) -> None:
    change, left = DAMAGES[damage]
    fill(journal, 5)
    spoil(journal.path / "00000001.journal", change)
    found = read_all(dead(journal))
    assert rows(found) == left
    assert [one.kind for one in found].count(DAMAGED) == 1


def test_later_segments_are_delivered_after_a_torn_one(journal: FileJournal, small_segments: None) -> None:
    fill(journal, 30)
    spoil(journal.path / "00000001.journal", lambda data: data.__delitem__(slice(-7, None)))
    assert rows(read_all(dead(journal)))[-20:] == list(range(10, 30))


def test_damage_in_the_segment_that_is_written_is_passed_over(journal: FileJournal) -> None:
    fill(journal, 5)
    path = journal.path / "00000001.journal"
    with open(path, "r+b") as file:
        file.seek(journal.size - 3 * FRAME)
        file.write(b"\xff" * 4)
    assert rows(read_all(journal)) == [0, 1, 3, 4]


def test_a_living_worker_knows_what_its_segments_begin_with(journal: FileJournal) -> None:
    fill(journal, 3)
    with open(journal.path / "00000001.journal", "r+b") as file:
        file.write(b"\xff" * 60)
    assert rows(read_all(journal)) == [0, 1, 2]


def test_a_segment_that_somebody_cuts_is_followed_by_another_with_what_came_since(journal: FileJournal) -> None:
    fill(journal, 5)
    os.truncate(journal.path / "00000001.journal", 0)
    for number in range(5, 12):
        journal.append(frame(HIT, row(number)))
    assert rows(read_all(journal)) == []
    with pytest.raises(OSError, match="cut by somebody"):
        journal.prepare()
    journal.append(frame(HIT, row(12)))
    journal.prepare()
    assert rows(read_all(journal)) == list(range(5, 13))


def test_a_segment_that_somebody_writes_into_is_followed_by_another_and_no_row_is_lost(journal: FileJournal) -> None:
    fill(journal, 5)
    with open(journal.path / "00000001.journal", "ab") as file:
        file.write(b"warning: something\n")
    for number in range(5, 10):
        journal.append(frame(HIT, row(number)))
    with pytest.raises(OSError, match="written into by somebody"):
        journal.read(1, 0, 10)
    assert journal.has_more(1, journal.size)
    fill(journal, 3, first=10)
    found = read_all(journal)
    assert rows(found) == list(range(13))
    assert [one.row for one in found if one.kind == DAMAGED] == [b"warning: something\n"]


def test_a_file_of_others_where_the_next_segment_goes_keeps_none_from_being_begun(
    journal: FileJournal, small_segments: None
) -> None:
    shutil.copy(journal.path / "00000001.journal", journal.path / "00000002.journal")
    fill(journal, 20)
    assert journal.segment > 1
    assert rows(read_all(dead(journal))) == list(range(20))
    assert (journal.path / "00000002.strange").exists()


@pytest.mark.parametrize("name", ["lock", DATABASE])
def test_what_lets_others_find_a_journal_is_written_again_where_it_was_removed(
    journal: FileJournal, tmp_path: Path, name: str
) -> None:
    fill(journal, 5)
    (journal.path / name).unlink()
    journal.prepare()
    journal.touch()
    journal.abandon()
    (found,) = adopt(tmp_path)
    assert rows(read_all(found)) == list(range(5))


def test_damage_of_many_megabytes_is_kept_in_pieces(journal: FileJournal) -> None:
    fill(journal, 2)
    spoil(journal.path / "00000001.journal", lambda data: data.extend(os.urandom(3 << 20) + frame(HIT, row(2))))
    found = read_all(dead(journal), most=100)
    assert rows(found) == [0, 1, 2]
    lost = [one for one in found if one.kind == DAMAGED]
    assert sum(len(one.row) for one in lost) == 3 << 20
    assert max(len(one.row) for one in lost) <= MOST_FRAME


def test_a_row_cannot_hold_a_frame_that_passes_for_one(journal: FileJournal) -> None:
    inner = frame(HIT, row(99))
    journal.append(frame(HIT, row(1) + inner) + frame(HIT, row(2)))
    assert rows(read_all(journal)) == [1, 2]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_after_any_damage_each_whole_frame_is_delivered_once(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """The model: a frame none of whose bytes was touched is delivered; all other bytes are set aside."""
    journal = FileJournal(tmp_path_factory.mktemp("journal"), NAME, COLUMNS, 1 << 30)
    sizes = data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=30))
    begin, spans = journal.size, []
    for number, size in enumerate(sizes):
        before = journal.size
        journal.append(frame(HIT, row(number, size)))
        spans.append((before, journal.size))
    path = journal.path / "00000001.journal"
    content = bytearray(path.read_bytes())
    hurt = set(data.draw(st.lists(st.integers(begin, len(content) - 1), max_size=6)))
    for place in hurt:
        content[place] ^= data.draw(st.integers(1, 255))
    end = data.draw(st.integers(begin, len(content))) if data.draw(st.booleans()) else len(content)
    path.write_bytes(content[:end])
    whole = [n for n, (first, last) in enumerate(spans) if last <= end and not hurt & set(range(first, last))]
    found = read_all(dead(journal), most=data.draw(st.integers(1, 50)))
    assert rows(found) == whole
    assert [one.start for one in found] == [begin, *[one.end for one in found]][: len(found)], "no byte is passed over"


def test_a_flipped_bit_in_a_header_is_noticed(journal: FileJournal) -> None:
    fill(journal, 1)
    spoil(journal.path / "00000001.journal", lambda data: data.__setitem__(60, data[60] ^ 2))
    with pytest.raises(JournalFormatError, match="damaged header"):
        dead(journal).read(0, 0, 10)


def test_a_damaged_header_of_this_version_costs_no_row(journal: FileJournal) -> None:
    fill(journal, 3)
    journal.abandon()
    path = journal.path / "00000001.journal"
    whole = path.read_bytes()
    size = whole.index(b"}}") + 2
    spoilt = [whole[:at] + bytes((whole[at] ^ 4,)) + whole[at + 1 :] for at in range(size) if at != 6]
    for content in (*spoilt, whole[:16] + bytes(size - 16) + whole[size:], whole[:8] + bytes(8) + whole[16:]):
        path.write_bytes(content)
        (found,) = adopt(path.parents[1], columns=COLUMNS)
        assert rows(read_all(found)) == [0, 1, 2]
        found.set_aside()
        assert found.segments == [1]
        found.release()


@pytest.mark.parametrize("columns", [{HIT: ("a", "c"), DECISION: ("c",)}, {HIT: ("a",), DECISION: ("c",)}])
def test_a_damaged_header_of_another_version_is_set_aside_whatever_ours_has(
    journal: FileJournal, columns: dict[bytes, tuple[str, ...]]
) -> None:
    fill(journal, 3)
    journal.abandon()
    spoil(journal.path / "00000001.journal", lambda data: data.__setitem__(60, data[60] ^ 2))
    (found,) = adopt(journal.path.parent, columns=columns)
    with pytest.raises(JournalFormatError, match="damaged header"):
        found.read(0, 0, 10)


@pytest.mark.parametrize(
    "head",
    [b"", b"ASG", b"ASGIAJ\x02\n" + bytes(50), MAGIC, MAGIC + b"\xff" * 8]
    + [MAGIC + frame(text[:1], text[1:]) for text in (b"[]", b"{}", b"7", b"{", b'{"columns": 1}')],
)
def test_a_segment_with_an_unknown_header_is_refused_and_set_aside(journal: FileJournal, head: bytes) -> None:
    fill(journal, 1)
    path = journal.path / "00000001.journal"
    path.write_bytes(head)
    found = dead(journal)
    with pytest.raises(JournalFormatError):
        found.read(0, 0, 10)
    found.set_aside()
    assert found.read(0, 0, 10) is None
    (kept,) = journal.path.parent.glob("*.unreadable")
    assert kept.read_bytes() == head


@pytest.mark.parametrize("name", ["00000002.journal", "123456789012.journal"])
def test_a_copy_of_a_segment_is_set_aside(journal: FileJournal, name: str) -> None:
    fill(journal, 2)
    shutil.copy(journal.path / "00000001.journal", journal.path / name)
    found = dead(journal)
    batch = found.read(0, 0, 10)
    assert batch is not None
    with pytest.raises(JournalFormatError, match="copy"):
        found.read(1, batch.end, 10)
    found.set_aside()
    assert found.read(1, batch.end, 10) is None
    assert len(list(journal.path.parent.glob("*.unreadable"))) == 1


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


def test_a_forked_child_lets_go_without_freeing_its_parents_journal(journal: FileJournal, tmp_path: Path) -> None:
    child = fork.Process(target=journal.abandon)
    child.start()
    child.join(20)
    assert child.exitcode == 0
    assert list(adopt(tmp_path)) == []
    fill(journal, 1)
    assert rows(read_all(journal)) == [0]


def in_child(act: Callable[..., None], *arguments: object) -> Any:
    """Return what a process of its own, whose limits are its own, puts into the queue that it is given last."""
    answers = fork.Queue()
    child = fork.Process(target=act, args=(*arguments, answers))
    child.start()
    answer = answers.get(timeout=20)
    child.join(20)
    return answer


def _fill_the_disk(root: Path, most: int, answers: multiprocessing.Queue[tuple[int, str]]) -> None:
    journal = FileJournal(root, NAME, COLUMNS, 1 << 30)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    taken = 0
    try:
        for number in range(1000):
            journal.append(frame(HIT, row(number)))
            taken += 1
    except JournalError as error:
        answers.put((taken, str(error)))


def test_a_full_disk_leaves_no_torn_frame(tmp_path: Path) -> None:
    taken, reason = in_child(_fill_the_disk, tmp_path, 1003)
    assert (taken > 10, reason) == (True, "disk_full")
    (found,) = adopt(tmp_path)
    assert rows(read_all(found)) == list(range(taken))


def _fill_files(root: Path, most: int, answers: multiprocessing.Queue[tuple[int, int]]) -> None:
    journal = FileJournal(root, NAME, COLUMNS, 1 << 30)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    refused = 0
    for number in range(100):
        try:
            journal.append(frame(HIT, row(number)))
        except JournalError:
            refused += 1
            journal.prepare()
            journal.append(frame(HIT, row(number)))
        journal.prepare()
    answers.put((refused, journal.segment))


def test_where_no_file_may_grow_further_another_is_begun(tmp_path: Path) -> None:
    refused, segments = in_child(_fill_files, tmp_path, 1003)
    assert (refused, segments > 3) == (1, True), "from the first time on the next file is there"
    (found,) = adopt(tmp_path)
    assert rows(read_all(found)) == list(range(100))


def test_a_disk_that_takes_nothing_gets_no_files_without_end(
    journal: FileJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(journal, 3)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_write", lambda *_: -1)
        patch.setattr(os, "ftruncate", lambda *_: os.close(-1))
        for _ in range(5):
            with pytest.raises(JournalError, match="journal_unwritable"):
                journal.append(frame(HIT, row(3)))
            journal.prepare()
    assert journal.segment == 2
    fill(journal, 3, first=3)
    assert rows(read_all(journal)) == list(range(6))


def test_a_segment_whose_header_has_no_room_is_not_begun(
    journal: FileJournal, small_segments: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        journal.append(frame(HIT, row(number)))
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda handle, data: write(handle, data[:5]))
        for _ in range(2):
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                journal.prepare()
    fill(journal, 20, first=20)
    assert journal.segment > 1
    assert rows(read_all(dead(journal))) == list(range(40))


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(JournalError, match="another user"):
        FileJournal(tmp_path, NAME, COLUMNS, 1 << 20)


def test_memory_keeps_frames_until_they_are_delivered() -> None:
    memory = MemoryJournal(NAME, COLUMNS, 1 << 20)
    for number in range(5):
        memory.append(frame(HIT, row(number)) + frame(DECISION, b"\0\x01"))
    batch = memory.read(1, 0, 6)
    assert batch is not None
    assert rows(list(batch.frames)) == [0, 1, 2]
    memory.acknowledge_to(batch.end)
    rest = memory.read(1, batch.end, 100)
    assert rest is not None
    assert rows(list(rest.frames)) == [3, 4]
    memory.acknowledge_to(rest.end)
    assert (memory.size, memory.read(1, rest.end, 9)) == (0, None)


def test_full_memory_refuses_the_newest() -> None:
    memory = MemoryJournal(NAME, COLUMNS, 100)
    memory.append(frame(HIT, row(1, 50)))
    with pytest.raises(JournalError, match="memory_full"):
        memory.append(frame(HIT, row(2, 50)))
    batch = memory.read(1, 0, 9)
    assert batch is not None
    assert rows(list(batch.frames)) == [1]


def test_a_journal_for_another_database_is_left_alone(tmp_path: Path) -> None:
    FileJournal(tmp_path, NAME, COLUMNS, 1 << 20, "shop").abandon()
    assert list(adopt(tmp_path, "blog")) == []
    (found,) = adopt(tmp_path, "shop")
    assert found.id == NAME


def test_a_rotated_segment_is_flushed_too(
    journal: FileJournal, small_segments: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: flushed.append(os.fstat(descriptor).st_ino))
    fill(journal, 40)
    written = {file.stat().st_ino for file in journal.path.glob("*.journal") if int(file.stem) <= journal.segment}
    assert len(written) > 2
    journal.sync()
    assert set(flushed) == written
    journal.sync()
    assert len(flushed) == len(written), "nothing came since"


def test_who_syncs_while_another_flushes_waits_for_the_end_of_it(
    journal: FileJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def slow(descriptor: int) -> None:
        begun.set()
        go_on.wait(10)

    monkeypatch.setattr(os, "fdatasync", slow)
    fill(journal, 1)
    threading.Thread(target=journal.sync).start()
    assert begun.wait(10)

    def follow() -> None:
        journal.sync()
        done.set()

    second = threading.Thread(target=follow)
    second.start()
    assert not done.wait(0.05)
    go_on.set()
    second.join(10)
    assert done.is_set()


def no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def descriptor() -> int:
    """The lowest one that is free."""
    free = os.dup(0)
    os.close(free)
    return free


@pytest.mark.parametrize("fault", ["locks", "segment", "database"])
def test_a_journal_that_cannot_be_made_leaves_no_descriptor_and_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    before, limits = descriptor(), resource.getrlimit(resource.RLIMIT_FSIZE)
    if fault == "locks":
        monkeypatch.setattr(fcntl, "flock", no_locks)
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0 if fault == "segment" else 4096, limits[1]))
    try:
        with pytest.raises(OSError, match=r"No locks|File too large"):
            FileJournal(tmp_path, NAME, COLUMNS, 1 << 20, "database" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert descriptor() == before
    assert list(tmp_path.iterdir()) == []


def test_a_new_journal_knows_its_size_without_asking(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path, b"j" * 16, COLUMNS, 1 << 20)
    assert journal.size == (journal.path / "00000001.journal").stat().st_size
    journal.abandon()
