"""Journals of which more may be stored than their position says: somebody has cleared positions away, or rewound them.

What is stored of a journal is always its beginning. So a doubt ends with the first hit that is not there yet.
"""

from __future__ import annotations

import struct
from collections.abc import Set
from dataclasses import replace

from ..batch import HIT, Batch

_COUNT = struct.calcsize("!h")  # bytes before the first field of a row in COPY binary format
_LENGTH = struct.Struct("!i")


class Doubts:
    """Which journals are in doubt, by what this process saw of their positions."""

    def __init__(self) -> None:
        self._reached: dict[bytes, tuple[int, int]] = {}
        self._doubtful: set[bytes] = set()

    def __contains__(self, journal: object) -> bool:
        return journal in self._doubtful

    def see(self, journal: bytes, position: tuple[int, int], registered: bool) -> None:
        """Take in a position as it is read; `registered`: there was none until now."""
        if registered or position < self._reached.get(journal, position):
            self._doubtful.add(journal)

    def reach(self, batch: Batch, hits: bool) -> None:
        """Take in that a batch is committed; `hits`: some of it was not stored before."""
        self._reached[batch.journal] = (batch.segment, batch.end)
        if hits:
            self._doubtful.discard(batch.journal)


def behind(batch: Batch, stored: Set[bytes]) -> Batch:
    """Return what a batch has behind its last hit of these ids."""
    at = batch.columns[HIT].index("id")
    known = 0
    for number, frame in enumerate(batch.frames, 1):
        if frame.kind == HIT and _field(frame.row, at) in stored:
            known = number
    return replace(batch, frames=batch.frames[known:])


def _field(row: bytes, index: int) -> bytes:
    """Return a field of a row; raises struct.error where the row is malformed."""
    at = _COUNT
    for _ in range(index):
        at += _LENGTH.size + max(0, _LENGTH.unpack_from(row, at)[0])
    return row[at + _LENGTH.size : at + _LENGTH.size + max(0, _LENGTH.unpack_from(row, at)[0])]
