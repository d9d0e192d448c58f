"""Journals of small numbered rows, filled and read."""

from __future__ import annotations

import struct

from asgi_analytics.batch import DECISION, HIT, Frame
from asgi_analytics.record.adoption import LeftOver, adopt
from asgi_analytics.record.frames import frame
from asgi_analytics.record.journal import FileJournal

COLUMNS = {HIT: ("a", "b"), DECISION: ("c",)}
NAME = b"j" * 16


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


def fill(journal: FileJournal, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        journal.append(frame(HIT, row(number)))
        journal.prepare()


def dead(journal: FileJournal) -> LeftOver:
    """What is left of a journal when its worker dies."""
    journal.abandon()
    (found,) = adopt(journal.path.parent)
    return found
