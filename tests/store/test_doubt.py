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
        (frame(HIT, row(IDS[0]))[:-1], True),  # its end is torn off
        (frame(HIT, row(IDS[0]))[:-1] + b"x", True),
        (frame(HIT, row(IDS[0]))[:-10], False),  # in the middle of the time
        (frame(HIT, row(IDS[0])) + frame(HIT, row(IDS[1])), False),  # the second may not be stored
        (frame(DECISION, row(IDS[0])), False),
        (frame(HIT, b"\0\x04" + text("a") + uuid(None) + big(5)), False),
        (frame(HIT, b"")[:9], False),
        (b"\0\0\0", False),
        (b"", False),
    ],
)
def test_a_damaged_hit_is_known_by_what_can_be_read_of_it(damaged: bytes, legible: bool) -> None:
    assert [id_of(key) for key in keys(batch_of((DAMAGED, damaged))).values()] == [IDS[0]] * legible


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
