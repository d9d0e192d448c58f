"""Journals in doubt, and what a batch has behind its last hit that is stored already."""

from __future__ import annotations

from asgi_analytics.batch import DAMAGED, DECISION, HIT, Batch, Frame, Frames
from asgi_analytics.record.encoding import text, uuid
from asgi_analytics.store.doubt import Doubts, behind

IDS = (b"1" * 16, b"2" * 16, b"3" * 16)


def test_it_goes_by_the_ids_of_hits_wherever_their_column_is() -> None:
    hits = [b"\0\x02" + site + uuid(one) for site, one in zip((text("a"), text(None), text("c")), IDS, strict=True)]
    rows = [(HIT, hits[0]), (DAMAGED, b"x"), (HIT, hits[1]), (DECISION, hits[1]), (HIT, hits[2]), (DECISION, hits[0])]
    frames = Frames(Frame(kind, row, at, at + 1) for at, (kind, row) in enumerate(rows))
    batch = Batch(b"j" * 16, 1, {HIT: ("site", "id")}, frames, len(rows))
    for stored, left in ((set(), 6), ({IDS[0]}, 5), ({IDS[1]}, 3), ({IDS[0], IDS[2]}, 1)):
        assert len(behind(batch, stored).frames) == left


def test_a_doubt_begins_with_a_position_that_went_back_and_ends_with_a_batch_that_settles_it() -> None:
    doubts, journal = Doubts(), b"j" * 16
    batch = Batch(journal, 2, {}, Frames([Frame(HIT, b"", 0, 50)]), 50)
    doubts.see(journal, (1, 0), registered=False)
    assert journal not in doubts
    doubts.reach(batch, settled=True)
    doubts.see(journal, (2, 50), registered=False)
    assert journal not in doubts
    doubts.see(journal, (2, 49), registered=False)
    assert journal in doubts
    doubts.reach(batch, settled=False)
    assert journal in doubts
    doubts.reach(batch, settled=True)
    assert journal not in doubts
    doubts.see(journal, (2, 50), registered=True)
    assert journal in doubts
