"""What a transaction moves from a journal to the store: a batch of frames."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple, overload


class Frame(NamedTuple):  # made for every row: a frozen dataclass costs three times as much
    """One record of a journal: a row in Postgres COPY binary format, or bytes that could not be read."""

    kind: bytes  # HIT, DECISION, REFUSED or DAMAGED
    row: bytes
    start: int  # offset in its segment
    end: int


HIT, DECISION, REFUSED, DAMAGED = b"h", b"d", b"r", b"?"


class Frames(Sequence[Frame]):
    """Frames stored as columns: objects by the thousand would trigger full collections of the app's heap."""

    __slots__ = ("_ends", "_kinds", "_rows", "_starts")

    def __init__(self, frames: Iterable[Frame] = ()) -> None:
        self._kinds, self._rows = bytearray(), list[bytes]()
        self._starts, self._ends = list[int](), list[int]()
        self.extend(frames)

    def extend(self, frames: Iterable[Frame]) -> None:
        """Append frames."""
        kinds, rows, starts, ends = self._kinds, self._rows, self._starts, self._ends
        for kind, row, start, end in frames:
            kinds += kind
            rows.append(row)
            starts.append(start)
            ends.append(end)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> Frames: ...
    def __getitem__(self, index: int | slice) -> Frame | Frames:
        if isinstance(index, slice):
            part = Frames()
            part._kinds, part._rows = self._kinds[index], self._rows[index]
            part._starts, part._ends = self._starts[index], self._ends[index]
            return part
        return Frame(bytes((self._kinds[index],)), self._rows[index], self._starts[index], self._ends[index])

    def places(self, kind: bytes) -> list[int]:
        """Return the indices of the frames of one kind."""
        if not (count := self.count_of(kind)) or count == len(self._rows):
            return list(range(count))
        number = kind[0]
        return [index for index, one in enumerate(self._kinds) if one == number]

    def rows(self, kind: bytes) -> list[bytes]:
        """Return the rows of one kind, in order."""
        if self.count_of(kind) == len(self._rows):
            return self._rows
        number = kind[0]
        return [row for row, one in zip(self._rows, self._kinds, strict=True) if one == number]

    def count_of(self, kind: bytes) -> int:
        """Return how many frames are of one kind."""
        return self._kinds.count(kind)

    def count_to(self, offset: int) -> int:
        """Return how many frames end at an offset or before it."""
        return bisect_right(self._ends, offset)


class Refused(NamedTuple):
    """Why Postgres takes a row, of a kind, not."""

    kind: bytes
    error: str
    sqlstate: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive frames of one journal segment: what one transaction moves."""

    journal: bytes  # 16 bytes
    segment: int
    columns: Mapping[bytes, tuple[str, ...]]  # of the rows, by kind
    frames: Frames
    end: int  # offset after the last frame
    refused: Mapping[int, Refused] = field(default_factory=dict)  # by where they begin: DAMAGED ones that can be read

    def without(self, refused: Mapping[int, Refused]) -> Batch:
        """Return a batch in which the frames at some indices are set aside."""
        parts = enumerate(self.frames)
        frames = Frames(one._replace(kind=DAMAGED) if index in refused else one for index, one in parts)
        return replace(self, frames=frames, refused={frames[index].start: why for index, why in refused.items()})

    def upto(self, position: tuple[int, int]) -> Frames:
        """Return the frames up to a committed (segment, offset)."""
        return self.frames[: self._count_to(position)]

    def after(self, position: tuple[int, int]) -> Frames:
        """Return the frames after a committed (segment, offset)."""
        return self.frames[self._count_to(position) :]

    def _count_to(self, position: tuple[int, int]) -> int:
        segment, offset = position
        if segment != self.segment:
            return len(self.frames) if segment > self.segment else 0
        return self.frames.count_to(offset)

    def halves(self) -> list[Batch]:
        """Split in the middle; each half can be moved by itself."""
        return self._cut(len(self.frames) // 2)

    def around(self, place: int) -> list[Batch]:
        """Split into the frame at an index, those before it and those after it, if any."""
        return self._cut(place, place + 1)

    def _cut(self, *places: int) -> list[Batch]:
        bounds = (0, *places, len(self.frames))
        parts = [self.frames[first:last] for first, last in pairwise(bounds) if first < last]
        return [replace(self, frames=part, end=part[-1].end) for part in parts[:-1]] + [replace(self, frames=parts[-1])]
