"""Journals of which more may be stored than their position says, since somebody has deleted or rewound positions.

What is stored of a journal is contiguous: its beginning, or what retention has left of that. So a doubt ends with the
first hit after that stretch, or, if none is stored, with one newer than the doubt: no later one is stored.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Set
from dataclasses import replace

from ..batch import DAMAGED, HIT, Batch, Frame, Frames
from ..clock import release_gil

KEY = ("id", "time")  # what a hit is looked up by
_KEY = struct.Struct("!hi16si8s")  # a row of these two fields
_FRAME = struct.Struct("!I4xc")  # what a frame begins with: length, checksum, kind
_COUNT = struct.calcsize("!h")  # bytes before the first field of a row in COPY binary format
_LENGTH = struct.Struct("!i")
SLICE = 500  # frames that are read before other threads may run: a millisecond


class Doubts:
    """Which journals are in doubt, as far as this process has seen their positions."""

    def __init__(self) -> None:
        self._reached: dict[bytes, tuple[int, int]] = {}
        self._since: dict[bytes, bytes] = {}  # when a doubt began

    def __contains__(self, journal: object) -> bool:
        return journal in self._since

    def see(self, journal: bytes, since: bytes | None) -> None:
        """Note since when the database has a journal in doubt, as a UUIDv7; None: it has not."""
        if since is None:
            self._since.pop(journal, None)
        else:
            self._since[journal] = since

    def went_back(self, journal: bytes, position: tuple[int, int]) -> bool:
        """Tell whether this process knows of a later position."""
        return position < self._reached.get(journal, position)

    def is_past(self, journal: bytes, hit: bytes) -> bool:
        """Tell whether a hit, by its id, came after the doubt began."""
        return hit > self._since[journal]

    def reach(self, batch: Batch, settled: bool) -> None:
        """Note that a batch is committed; `settled`: nothing after it is stored."""
        self._reached[batch.journal] = (batch.segment, batch.end)
        if settled:
            self._since.pop(batch.journal, None)


def keys(batch: Batch) -> dict[int, bytes]:
    """Return the KEY of each hit, as a row, by its place among the frames of a batch; without what cannot be read.

    Also of a damaged frame that begins with a hit: its end may be torn off, or a byte have turned.
    """
    columns, found = batch.columns.get(HIT, ()), dict[int, bytes]()
    if not set(KEY).issubset(columns):
        return found
    id_at, time_at = map(columns.index, KEY)
    for place, (kind, row, _, _) in enumerate(batch.frames):
        if place % SLICE == 0:
            release_gil()
        hit = row if kind == HIT else row[_FRAME.size : _own_size(row)] if kind == DAMAGED else b""
        try:
            number, moment = _field(hit, id_at), _field(hit, time_at)
        except struct.error:
            continue
        if len(number) == 16 and len(moment) == 8:
            found[place] = _KEY.pack(2, 16, number, 8, moment)
    return found


def behind(batch: Batch, keys: Mapping[int, bytes], stored: Set[bytes]) -> Batch:
    """Return the part of a batch after its last hit whose id is `stored`.

    What a damaged one has behind its end is not known: after a power cut, it may be what the disk had there before.
    """
    known = max((place for place, key in keys.items() if id_of(key) in stored), default=-1)
    left = batch.frames[known + 1 :]
    if known >= 0 and (last := batch.frames[known]).kind == DAMAGED and (own := _own_size(last.row)) < len(last.row):
        left = Frames([Frame(DAMAGED, last.row[own:], last.start + own, last.end), *left])
    return replace(batch, frames=left)


def id_of(key: bytes) -> bytes:
    """Return the id in a KEY."""
    number: bytes = _KEY.unpack(key)[2]
    return number


def _own_size(damaged: bytes) -> int:
    """Return how many bytes of a damaged frame are by its own account those of one hit; 0 where it begins with none."""
    if len(damaged) < _FRAME.size:
        return 0
    length, kind = _FRAME.unpack_from(damaged)
    return _FRAME.size - len(HIT) + int(length) if kind == HIT else 0


def _field(row: bytes, index: int) -> bytes:
    """Return a field of a row, empty for NULL; raises struct.error where the row is malformed."""
    at = _COUNT
    for _ in range(index):
        at += _LENGTH.size + max(0, _LENGTH.unpack_from(row, at)[0])
    return row[at + _LENGTH.size : at + _LENGTH.size + max(0, _LENGTH.unpack_from(row, at)[0])]
