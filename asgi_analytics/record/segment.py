"""A segment of a journal: a header and frames.

    MAGIC | length u32 | crc32 u32 | JSON {"journal", "segment", "columns"} | frame*

The header names the columns of the rows, so that a later version can deliver what an earlier one wrote.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import struct
from itertools import islice
from pathlib import Path
from zlib import crc32

from ..batch import Batch, Frames
from ..clock import release_gil
from ..errors import JournalFormatError
from ..folders import fsync_path
from .frames import FRAME, MAX_FRAME, Columns, beginnings, parse

MAGIC = b"ASGIAJ\x01\n"
_VERSION = 6  # index of the version byte in MAGIC
SLICE = 256  # frames that are parsed before other threads may run: half a millisecond
MAX_COLUMNS = 1600  # limit of a table, PostgreSQL appendix K
Head = tuple[bytes, int, Columns, int]  # journal, segment, columns, where the frames begin


def path_of(folder: Path, number: int) -> Path:
    """Return where a segment of a journal is."""
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
    """Make a segment with its header and return its descriptor, open to append. Raises OSError, and leaves nothing."""
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
    path, data = path_of(folder, number), header(journal, number, columns)
    opened = os.open(path, flags, 0o600)
    try:
        os.fchmod(opened, 0o600)  # whatever the umask
        with contextlib.suppress(OSError):  # that it was read is not written, which would wait for a disk that hangs
            fcntl.fcntl(opened, fcntl.F_SETFL, os.O_APPEND | getattr(os, "O_NOATIME", 0))
        if os.write(opened, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        fsync_path(folder)
    except OSError:
        # A segment with half a header would take frames that nobody can read.
        os.close(opened)
        path.unlink()
        raise
    return opened


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
    size = min(most * 512 + MAX_FRAME, max(0, end - start) if end is not None else 1 << 62)
    data = os.pread(opened, size, start)
    at_end = not os.pread(opened, 1, start + len(data)) if end is None else start + len(data) >= end
    found, frames = islice(parse(data, start, at_end, beginnings(columns)), most), Frames()
    before = -1
    while len(frames) > before:
        before = len(frames)
        frames.extend(islice(found, SLICE))
        release_gil()
    return Batch(journal, segment, columns, frames, frames[-1].end) if frames else None


def _as_written(data: bytes, path: Path, columns: Columns) -> Head | None:
    """Return the header that this version writes, if of a damaged one the text or the checksum is intact."""
    journal, number = bytes.fromhex(path.parent.name), int(path.stem)
    whole, text = header(journal, number, columns), len(MAGIC) + FRAME.size
    same_text, same_sum = data[text : len(whole)] == whole[text:], data[len(MAGIC) : text] == whole[len(MAGIC) : text]
    is_ours = data[_VERSION : _VERSION + 1] == whole[_VERSION : _VERSION + 1] and (same_text or same_sum)
    return (journal, number, columns, len(whole)) if is_ours else None


def read_header(data: bytes, path: Path, columns: Columns | None = None) -> Head:
    """Read the header of a segment from its first bytes; `columns` as `read`. Raises JournalFormatError."""
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
        if len(journal) != 16 or not 0 <= segment < 1 << 31 or max(map(len, columns.values()), default=0) > MAX_COLUMNS:
            raise ValueError("out of range")
        return journal, segment, columns, body
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, struct.error) as error:
        raise JournalFormatError(f"{path.name} has a header that cannot be read: {error}.") from error
