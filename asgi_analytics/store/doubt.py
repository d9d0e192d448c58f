"""Journals of which more may be stored than their position says, since somebody has deleted or rewound positions.

What is stored of a journal is contiguous: its beginning, or what retention has left of that. So a doubt ends with the
first hit after that stretch, or, if none is stored, with one newer than the doubt: no later one is stored.
"""

from __future__ import annotations

import struct
from collections.abc import Set
from dataclasses import replace

from ..batch import HIT, Batch
from ..clock import SystemClock, uuid7

_COUNT = struct.calcsize("!h")  # bytes before the first field of a row in COPY binary format
_LENGTH = struct.Struct("!i")


class Doubts:
    """Which journals are in doubt, by what this process saw of their positions."""

    def __init__(self) -> None:
        self._reached: dict[bytes, tuple[int, int]] = {}
        self._since: dict[bytes, bytes] = {}  # when a doubt began, as a UUIDv7, to compare with ids

    def __contains__(self, journal: object) -> bool:
        return journal in self._since

    def see(self, journal: bytes, position: tuple[int, int], registered: bool) -> None:
        """Note a position as it was read; `registered`: there was none until now."""
        if registered or position < self._reached.get(journal, position):
            self._since[journal] = uuid7(SystemClock.time_ns())

    def is_past(self, batch: Batch, hit: bytes) -> bool:
        """Tell whether a hit of a batch, a row, came after the doubt began."""
        return _field(hit, batch.columns[HIT].index("id")) > self._since[batch.journal]

    def reach(self, batch: Batch, settled: bool) -> None:
        """Note that a batch is committed; `settled`: nothing after it is stored."""
        self._reached[batch.journal] = (batch.segment, batch.end)
        if settled:
            self._since.pop(batch.journal, None)


def behind(batch: Batch, stored: Set[bytes]) -> Batch:
    """Return the part of a batch after its last hit whose id is `stored`."""
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
