"""A segment of a journal: a header and frames.

    MAGIC | length u32 | crc32 u32 | JSON {"journal", "segment", "columns"} | frame*
    frame = length u32 | crc32 u32 | kind (1 byte) + row in COPY binary format

The header names the columns of the rows, so that a later version can deliver what an earlier one wrote.
"""

from __future__ import annotations

import errno
import json
import os
import re
import struct
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from zlib import crc32

from ..batch import DAMAGED, DECISION, HIT, REFUSED, Batch, Frame, Frames
from ..clock import release_gil
from ..errors import JournalFormatError
from ..folders import sync_entries

MAGIC = b"ASGIAJ\x01\n"
_VERSION = 6  # index of the version byte in MAGIC
MOST_FRAME = 1 << 20
SLICE = 256  # frames that are parsed before other threads may run: half a millisecond
MOST_COLUMNS = 1600  # limit of a table, PostgreSQL appendix K
FRAME = struct.Struct("!II")
_COUNT = struct.Struct("!h")
_KINDS = (HIT, DECISION, REFUSED)
Columns = Mapping[bytes, tuple[str, ...]]
Head = tuple[bytes, int, Columns, int]  # journal, segment, columns, where the frames begin


def frame(kind: bytes, row: bytes) -> bytes:
    """Return a row as one frame, ready to append."""
    return seal(kind + row)


def seal(record: bytes) -> bytes:
    """Return a record (kind + row) as one frame."""
    return FRAME.pack(len(record), crc32(record)) + record


def path_of(folder: Path, number: int) -> Path:
    return folder / f"{number:08d}.journal"


def header(journal: bytes, number: int, columns: Columns) -> bytes:
    """Return what a segment begins with."""
    text = json.dumps(
        {
            "journal": journal.hex(),
            "segment": number,
            "columns": {kind.decode(): list(names) for kind, names in columns.items()},
        }
    ).encode()
    return MAGIC + FRAME.pack(len(text), crc32(text)) + text


def create(folder: Path, journal: bytes, number: int, columns: Columns) -> int:
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
    path, data = path_of(folder, number), header(journal, number, columns)
    opened = os.open(path, flags, 0o600)
    try:
        os.fchmod(opened, 0o600)  # whatever the umask
        if os.write(opened, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        sync_entries(folder)
    except OSError:
        # A segment with half a header would take frames that nobody can read.
        os.close(opened)
        path.unlink()
        raise
    return opened


def split(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        length, _ = FRAME.unpack_from(data, at)
        yield data[at + FRAME.size : at + FRAME.size + length]
        at += FRAME.size + length


def read(path: Path, offset: int, most: int, columns: Columns | None = None) -> Batch | None:
    """Read frames of a segment that nobody writes any more. `columns`: those it has if this version wrote it."""
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_body(opened, read_header(os.pread(opened, 65_536, 0), path, columns), offset, most, None)
    finally:
        os.close(opened)


def read_body(opened: int, head: Head, offset: int, most: int, end: int | None) -> Batch | None:
    """Read frames of an open segment whose header is known; `end` bounds a living one, None reads to the last byte.

    Leaves the file offset alone: an appender may share it.
    """
    journal, segment, columns, body = head
    start = max(offset, body)
    # About 300 bytes a row: enough for the batch, bounded whatever the file holds.
    size = min(most * 512 + MOST_FRAME, max(0, end - start) if end is not None else 1 << 62)
    data = os.pread(opened, size, start)
    at_end = not os.pread(opened, 1, start + len(data)) if end is None else start + len(data) >= end
    found, frames = islice(_frames(data, start, at_end, _heads(columns)), most), Frames()
    before = -1
    while len(frames) > before:
        before = len(frames)
        frames.extend(islice(found, SLICE))
        release_gil()
    return Batch(journal, segment, columns, frames, frames[-1].end) if frames else None


def _heads(columns: Columns) -> re.Pattern[bytes]:
    """Return a pattern of how frames begin: a length up to MOST_FRAME, a checksum, kind and number of columns."""
    marks = [re.escape(kind + _COUNT.pack(len(names))) for kind, names in columns.items() if kind in _KINDS]
    return re.compile(rb"\x00[\x00-\x10].{6}(?:%b)" % b"|".join(marks), re.DOTALL)


def _frames(data: bytes, base: int, at_end: bool, heads: re.Pattern[bytes]) -> Iterator[Frame]:
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
            if crc32(record) == checksum and kind in _KINDS and stop <= size:
                yield Frame(kind, record[1:], base + at, base + stop)
                at = stop
                continue
        end = _sound_end(data, at)
        if not at_end and (end is not None or size - at < FRAME.size):
            return
        gap = _next_sound(data, at + 1, at_end, heads)
        for start in range(at, gap, MOST_FRAME):
            upto = min(start + MOST_FRAME, gap)
            yield Frame(DAMAGED, data[start:upto], base + start, base + upto)
        at = gap


def _sound_end(data: bytes, at: int) -> int | None:
    """Return where the frame at a position ends: beyond the data if it may be valid, None if it is not."""
    if at + FRAME.size > len(data):
        return None
    length, checksum = FRAME.unpack_from(data, at)
    stop: int = at + FRAME.size + length
    if not 0 < length <= MOST_FRAME:
        return None
    if stop > len(data):
        return stop
    record = data[at + FRAME.size : stop]
    return stop if crc32(record) == checksum and record[:1] in _KINDS else None


def _next_sound(data: bytes, at: int, at_end: bool, heads: re.Pattern[bytes]) -> int:
    """Return where the next frame begins that is or may be valid; without one, up to where none can begin.

    No visitor can forge one inside a row: a frame begins with a NUL, and no text field has any.
    """
    size, found = len(data), heads.search(data, at)
    while found is not None:
        start = found.start()
        stop = _sound_end(data, start)
        if stop is not None and (stop <= size or not at_end):
            return start
        found = heads.search(data, start + 1)
    # The last bytes may begin a frame that is too short for the pattern yet.
    return size if at_end else max(at, size - FRAME.size - 2)


def _as_written(data: bytes, path: Path, columns: Columns) -> Head | None:
    """Return the header that this version writes, if of a damaged one the text or the checksum is intact."""
    journal, number = bytes.fromhex(path.parent.name), int(path.stem)
    whole, text = header(journal, number, columns), len(MAGIC) + FRAME.size
    same_text, same_sum = data[text : len(whole)] == whole[text:], data[len(MAGIC) : text] == whole[len(MAGIC) : text]
    is_ours = data[_VERSION : _VERSION + 1] == whole[_VERSION : _VERSION + 1] and (same_text or same_sum)
    return (journal, number, columns, len(whole)) if is_ours else None


def read_header(data: bytes, path: Path, columns: Columns | None = None) -> Head:
    if columns is not None and (written := _as_written(data, path, columns)) is not None:
        return written
    if not data.startswith(MAGIC):
        raise JournalFormatError(f"{path.name} does not begin with this version's mark.")
    try:
        length, checksum = FRAME.unpack_from(data, len(MAGIC))
        body = len(MAGIC) + FRAME.size + length
        text = data[len(MAGIC) + FRAME.size : body]
        if crc32(text) != checksum:
            raise JournalFormatError(f"{path.name} has a damaged header.")
        parsed = json.loads(text)
        columns = {kind.encode(): tuple(map(str, names)) for kind, names in parsed["columns"].items()}
        journal, segment = bytes.fromhex(parsed["journal"]), int(parsed["segment"])
        if (
            len(journal) != 16
            or not 0 <= segment < 1 << 31
            or max(map(len, columns.values()), default=0) > MOST_COLUMNS
        ):
            raise ValueError("out of range")
        return journal, segment, columns, body
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, struct.error) as error:
        raise JournalFormatError(f"{path.name} has a header that cannot be read: {error}.") from error
