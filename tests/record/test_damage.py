from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgi_analytics.batch import DAMAGED, DECISION, HIT
from asgi_analytics.errors import JournalFormatError
from asgi_analytics.record.adoption import adopt
from asgi_analytics.record.destination import DATABASE
from asgi_analytics.record.frames import MAX_FRAME, frame
from asgi_analytics.record.journal import FileJournal
from asgi_analytics.record.segment import MAGIC

from .journals import COLUMNS, NAME, dead, fill, read_all, row, rows

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


def test_a_segment_that_somebody_replaces_is_followed_by_another(journal: FileJournal) -> None:
    fill(journal, 5)
    path = journal.path / "00000001.journal"
    other = path.with_suffix(".other")
    other.write_bytes(path.read_bytes() + bytes(10_000))
    other.replace(path)
    journal.prepare()
    fill(journal, 5, first=5)
    assert rows(read_all(dead(journal))) == list(range(10))


@pytest.mark.parametrize("there", [True, False], ids=["at once", "after a while"])
def test_a_worker_whose_folder_is_put_back_from_a_copy_holds_the_lock_of_that(
    journal: FileJournal, tmp_path: Path, there: bool
) -> None:
    fill(journal, 5)
    shutil.copytree(journal.path, tmp_path / "copy")
    fill(journal, 5, first=5)  # which the copy has not got
    shutil.rmtree(journal.path)
    if not there:
        journal.prepare()
        shutil.rmtree(journal.path)
    (tmp_path / "copy").rename(journal.path)
    journal.prepare()
    assert list(adopt(journal.path.parent)) == [], "another would deliver the copy and go on behind what came since"
    fill(journal, 5, first=10)
    assert rows(read_all(journal)) == list(range(15))


def test_a_journal_whose_folder_became_a_file_is_read_while_its_worker_lives(
    journal: FileJournal, tmp_path: Path
) -> None:
    fill(journal, 5)
    journal.path.rename(tmp_path / "away")
    journal.path.write_text("somebody's")
    assert rows(read_all(journal)) == list(range(5))


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
    journal.folder.touch()
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
    assert max(len(one.row) for one in lost) <= MAX_FRAME


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
    [b"A", b"ASG", b"ASGIAJ\x02\n" + bytes(50), MAGIC, MAGIC + b"\xff" * 8]
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
