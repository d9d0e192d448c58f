"""Journals in doubt: more may be stored than their position says, since somebody has deleted or rewound positions.

Hits of such a journal are looked up by id, and only what follows the last stored one is moved. The doubt ends with a
hit that came after the doubt began and is not stored: nothing after it can be. An older hit that is not stored does not
end it: an operator may have deleted all hits of its visitor, or keep it out by a trigger, or it was set aside.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace

from ..batch import DAMAGED, DECISION, HIT, REFUSED, Batch, Frame, Frames
from ..clock import release_gil

KEY = ("id", "time")  # what a hit is looked up by
_KEY = struct.Struct("!hi16si8s")  # a row of these two fields
_COLUMNS, _ID_SIZE, _TIME_SIZE = struct.pack("!h", 2), struct.pack("!i", 16), struct.pack("!i", 8)  # parts of it
_FRAME = struct.Struct("!I4xc")  # what a frame begins with: length, checksum, kind
_COUNT = struct.calcsize("!h")  # bytes before the first field of a row in COPY binary format
_LENGTH = struct.Struct("!i")
Place = tuple[int, int]  # of a hit in a batch: the index of its frame, the offset of its end in that
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

    def at(self, journal: bytes, position: tuple[int, int]) -> None:
        """Note the position of a journal, as it was read."""
        self._reached[journal] = position

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


def keys(batch: Batch) -> dict[Place, bytes]:
    """Return the KEY of each hit, as a row, by its place and in order; without what cannot be read.

    Also of those in a damaged frame: the end of one may be torn off, or a byte have turned.
    """
    columns, found = batch.columns.get(HIT, ()), dict[Place, bytes]()
    if not set(KEY).issubset(columns):
        return found
    id_at, time_at = map(columns.index, KEY)
    is_first = (id_at, time_at) == (0, 1)  # as in our own rows, whose beginning is the KEY

    def note(place: Place, hit: bytes) -> None:
        if is_first and hit[2:6] == _ID_SIZE and hit[22:26] == _TIME_SIZE and len(hit) >= _KEY.size:
            found[place] = _COLUMNS + hit[2 : _KEY.size]
            return
        try:
            number, moment = field(hit, id_at), field(hit, time_at)
        except struct.error:
            return
        if len(number) == 16 and len(moment) == 8:
            found[place] = _KEY.pack(2, 16, number, 8, moment)

    frames = batch.frames
    for turn, (index, row) in enumerate(zip(frames.places(HIT), frames.rows(HIT), strict=True)):
        if turn % SLICE == 0:
            release_gil()
        note((index, len(row)), row)
    if not (damaged := frames.places(DAMAGED)):
        return found
    for index, row in zip(damaged, frames.rows(DAMAGED), strict=True):
        for end, hit in ((len(row), row),) if frames[index].start in batch.refused else _damaged_hits(row):
            note((index, end), hit)
    return dict(sorted(found.items()))


def behind(batch: Batch, keys: Mapping[Place, bytes], stored: Set[bytes]) -> Batch:
    """Return the part of a batch after its last hit whose id is `stored`, without that hit's decision if it is damaged.

    What a damaged frame has behind that hit is kept, though after a power cut it may be what the disk had there before.
    """
    index, end = max((place for place, key in keys.items() if id_of(key) in stored), default=(-1, 0))
    left = batch.frames[index + 1 :]
    if index >= 0 and end < len((last := batch.frames[index]).row):
        left = Frames([Frame(DAMAGED, last.row[end:], last.start + end, last.end), *left])
    first = left[0] if index >= 0 and left else None
    if first is not None and first.kind == DAMAGED and first.start not in batch.refused and _is_decision(first.row):
        left = left[1:]
    return replace(batch, frames=left)


def id_of(key: bytes) -> bytes:
    """Return the id in a KEY."""
    return key[6:22]


def _is_decision(data: bytes) -> bool:
    """Tell whether a damaged frame is a decision, or the beginning of one, and nothing else."""
    if len(data) < _FRAME.size:
        return False
    length, kind = _FRAME.unpack_from(data)
    return bool(kind == DECISION) and _FRAME.size - len(HIT) + int(length) >= len(data)


def _damaged_hits(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield where the hits in a damaged frame end, and what is left of them, as far as one tells where the next is."""
    at = 0
    while at + _FRAME.size <= len(data):
        length, kind = _FRAME.unpack_from(data, at)
        end = at + _FRAME.size - len(HIT) + length
        if kind == HIT:
            yield min(end, len(data)), data[at + _FRAME.size : end]
        elif kind not in (DECISION, REFUSED):
            return
        at = end


def field(row: bytes, index: int) -> bytes:
    """Return a field of a row in COPY binary format, empty for NULL; raises struct.error where the row is malformed."""
    at = _COUNT
    for _ in range(index):
        at += _LENGTH.size + max(0, _LENGTH.unpack_from(row, at)[0])
    return row[at + _LENGTH.size : at + _LENGTH.size + max(0, _LENGTH.unpack_from(row, at)[0])]
