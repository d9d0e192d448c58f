"""Journals in doubt, and what a batch has behind its last hit that is stored already."""

from __future__ import annotations

from dataclasses import replace

import pytest

from asgi_analytics.batch import DAMAGED, DECISION, HIT, Batch, Frame, Frames
from asgi_analytics.record.encoding import big, text, uuid
from asgi_analytics.record.frames import frame
from asgi_analytics.store.doubt import Doubts, behind, id_of, keys

IDS = (b"1" * 16, b"2" * 16, b"3" * 16)
COLUMNS = {HIT: ("site", "id", "time", "path")}


def row(number: bytes, site: str | None = "a") -> bytes:
    return b"\0\x04" + text(site) + uuid(number) + big(5) + text("/path")


def batch_of(*rows: tuple[bytes, bytes]) -> Batch:
    frames = Frames(Frame(kind, row, at, at + 1) for at, (kind, row) in enumerate(rows))
    return Batch(b"j" * 16, 1, COLUMNS, frames, len(rows))


def test_it_goes_by_the_ids_of_hits_wherever_their_column_is() -> None:
    hits = [row(one, site) for one, site in zip(IDS, ("a", None, "c"), strict=True)]
    rows = [(HIT, hits[0]), (DAMAGED, b"x"), (HIT, hits[1]), (DECISION, hits[1]), (HIT, hits[2]), (DECISION, hits[0])]
    batch = batch_of(*rows)
    assert [id_of(key) for key in keys(batch).values()] == list(IDS)
    for stored, left in ((set(), 6), ({IDS[0]}, 5), ({IDS[1]}, 3), ({IDS[0], IDS[2]}, 1)):
        assert len(behind(batch, keys(batch), stored).frames) == left


@pytest.mark.parametrize(
    ("damaged", "legible"),
    [
        (frame(HIT, row(IDS[0]))[:-1], 1),  # its end is torn off
        (frame(HIT, row(IDS[0]))[:-1] + b"x", 1),
        (frame(HIT, row(IDS[0]))[:-1] + b"x and what was on the disk", 1),
        (frame(HIT, row(IDS[0]))[:-10], 0),  # in the middle of the time
        (frame(HIT, row(IDS[0])) + frame(HIT, row(IDS[1])), 2),
        (frame(HIT, row(IDS[0])) + frame(DECISION, b"d") + frame(HIT, row(IDS[1]))[:-1], 2),
        (frame(DECISION, row(IDS[0])), 0),
        (frame(HIT, b"\0\x04" + text("a") + uuid(None) + big(5)), 0),
        (frame(HIT, b"")[:9], 0),
        (b"\0\0\0", 0),
        (b"", 0),
    ],
)
def test_damaged_hits_are_known_by_what_can_be_read_of_them(damaged: bytes, legible: int) -> None:
    assert [id_of(key) for key in keys(batch_of((DAMAGED, damaged))).values()] == list(IDS[:legible])


def test_of_a_damaged_piece_what_is_behind_its_last_stored_hit_is_left() -> None:
    first, second = (frame(HIT, row(one)) for one in IDS[:2])
    batch = batch_of((HIT, row(IDS[2])), (DAMAGED, first + second + b"more"))
    for stored, left in ((set(), first + second + b"more"), ({IDS[0]}, second + b"more"), ({IDS[1]}, b"more")):
        frames = behind(batch, keys(batch), stored).frames
        assert (frames[-1].kind, frames[-1].row) == (DAMAGED, left)
        assert len(frames) == (1 if stored else 2)
    assert frames[-1].start == batch.frames[1].start + len(first + second)


def test_rows_without_an_id_are_known_by_nothing() -> None:
    assert keys(replace(batch_of((HIT, row(IDS[0])), (HIT, b"\0")), columns={})) == {}
    assert keys(batch_of((HIT, b"\0"))) == {}


def test_a_doubt_is_what_the_database_says_and_ends_with_a_batch_that_settles_it() -> None:
    doubts, journal, since = Doubts(), b"j" * 16, b"s" * 16
    batch = Batch(journal, 2, {}, Frames([Frame(HIT, b"", 0, 50)]), 50)
    doubts.see(journal, None)
    assert journal not in doubts
    doubts.see(journal, since)
    assert (doubts.is_past(journal, b"r" * 16), doubts.is_past(journal, b"t" * 16)) == (False, True)
    doubts.reach(batch, settled=False)
    assert journal in doubts
    doubts.reach(batch, settled=True)
    assert journal not in doubts


def test_a_position_goes_back_where_this_process_knows_of_a_later_one() -> None:
    doubts, journal = Doubts(), b"j" * 16
    assert not doubts.went_back(journal, (0, 0))
    doubts.reach(Batch(journal, 2, {}, Frames([Frame(HIT, b"", 0, 50)]), 50), settled=True)
    assert [doubts.went_back(journal, position) for position in ((2, 49), (2, 50), (3, 0))] == [True, False, False]
