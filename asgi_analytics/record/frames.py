"""Frames, which follow the header of a segment: length u32 | crc32 u32 | kind (1 byte) + row in COPY binary format."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from zlib import crc32

from ..batch import DAMAGED, DECISION, HIT, REFUSED, Frame

MAX_FRAME = 1 << 20  # bytes
FRAME = struct.Struct("!II")
KINDS = (HIT, DECISION, REFUSED)
_COUNT = struct.Struct("!h")
Columns = Mapping[bytes, tuple[str, ...]]


def frame(kind: bytes, row: bytes) -> bytes:
    """Return a row as one frame, ready to append."""
    return seal(kind + row)


def seal(record: bytes) -> bytes:
    """Return a record (kind + row) as one frame."""
    return (len(record) << 32 | crc32(record)).to_bytes(8, "big") + record


def split(data: bytes) -> Iterator[bytes]:
    """Yield the records (kind + row) of whole, valid frames."""
    at = 0
    while at < len(data):
        length, _ = FRAME.unpack_from(data, at)
        yield data[at + FRAME.size : at + FRAME.size + length]
        at += FRAME.size + length


def beginnings(columns: Columns) -> re.Pattern[bytes]:
    """Return a pattern of how frames begin: a length up to MAX_FRAME, a checksum, kind and number of columns."""
    marks = [re.escape(kind + _COUNT.pack(len(names))) for kind, names in columns.items() if kind in KINDS]
    return re.compile(rb"\x00[\x00-\x10].{6}(?:%b)" % b"|".join(marks), re.DOTALL)


def parse(data: bytes, base: int, at_end: bool, heads: re.Pattern[bytes]) -> Iterator[Frame]:
    """Parse frames from a segment's bytes; bytes between valid frames become DAMAGED ones.

    Unless the data is `at_end` of the segment, stops before a frame that reaches beyond the data.
    """
    at, size = 0, len(data)
    while at < size:
        # The common case, a valid frame, is inlined: the writer shares its CPU with the app.
        if at + 8 < size:
            length, checksum = FRAME.unpack_from(data, at)
            stop = at + 8 + length
            record = data[at + 8 : stop]
            kind = record[:1]
            if crc32(record) == checksum and kind in KINDS and stop <= size:
                yield Frame(kind, record[1:], base + at, base + stop)
                at = stop
                continue
        end = _valid_end(data, at)
        if not at_end and (end is not None or size - at < FRAME.size):
            return
        gap = _next_valid(data, at + 1, at_end, heads)
        for start in range(at, gap, MAX_FRAME):
            upto = min(start + MAX_FRAME, gap)
            yield Frame(DAMAGED, data[start:upto], base + start, base + upto)
        at = gap


def _valid_end(data: bytes, at: int) -> int | None:
    """Return where the frame at a position ends: beyond the data if it may be valid, None if it is not."""
    if at + FRAME.size > len(data):
        return None
    length, checksum = FRAME.unpack_from(data, at)
    stop: int = at + FRAME.size + length
    if not 0 < length <= MAX_FRAME:
        return None
    if stop > len(data):
        return stop
    record = data[at + FRAME.size : stop]
    return stop if crc32(record) == checksum and record[:1] in KINDS else None


def _next_valid(data: bytes, at: int, at_end: bool, heads: re.Pattern[bytes]) -> int:
    """Return where the next frame begins that is or may be valid; without one, up to where none can begin.

    No visitor can forge one inside a row: a frame begins with a NUL, and no text field has any.
    """
    size, found = len(data), heads.search(data, at)
    while found is not None:
        start = found.start()
        stop = _valid_end(data, start)
        if stop is not None and (stop <= size or not at_end):
            return start
        found = heads.search(data, start + 1)
    # The last bytes may begin a frame that is too short for the pattern yet.
    return size if at_end else max(at, size - FRAME.size - 2)
