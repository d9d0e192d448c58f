"""The journal: what is appended here survives the death of the process and is delivered by whoever comes next.

A worker's journal is a folder of segments (see segment.py), held by a file lock for life.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from ..errors import JournalError, JournalFormatError
from ..protocols import Batch, Frame
from .segment import FRAME, Columns, create, path_of, read, read_header, split

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DATABASE = "database"  # the file beside a journal's segments that says where they go
SEGMENT_SIZE = 16 << 20
RETENTION = 600.0  # seconds that delivered segments are kept, for a fail-over to a replica that lost the tail


class FileJournal:
    """This worker's journal. `append` is called on the request path, all else by the writer's thread."""

    def __init__(self, root: Path, journal: bytes, columns: Columns, limit: int, database: str = "") -> None:
        self.id = journal
        self.columns = columns
        self.path = root / journal.hex()
        self._database = database
        self._limit = limit
        # Re-entrant: a finaliser or a signal handler may send an event while we append one.
        self._lock = threading.RLock()
        self._held, self._fd = self._create(root)
        self._next: int | None = None
        self.segment = 1
        self.size = os.fstat(self._fd).st_size  # committed bytes of the open segment
        self.backlog = 0  # bytes of closed segments that are not delivered yet
        self._dirty = False
        self._retired: list[int] = []  # descriptors of rotated segments that are not flushed yet
        self._syncing = threading.Lock()
        self._sizes: dict[int, int] = {}  # of closed segments
        self._delivered: dict[int, float] = {}  # segment → when

    def append(self, data: bytes) -> None:
        """Append frames in one write: about 1 µs. Raises JournalError when full, unwritable or closed."""
        with self._lock:
            if self.size + self.backlog > self._limit:
                raise JournalError("journal_full")
            try:
                written = os.write(self._fd, data)
            except OSError as error:
                raise JournalError("disk_full" if error.errno in _NO_ROOM else "journal_unwritable") from error
            if written != len(data):
                os.ftruncate(self._fd, self.size)
                raise JournalError("disk_full")
            self.size += written
            self._dirty = True
            if self.size > SEGMENT_SIZE and self._next is not None:
                self._rotate()

    def _rotate(self) -> None:
        assert self._next is not None
        self._retired.append(self._fd)  # closed when its last rows are on the disk
        self._sizes[self.segment] = self.size
        self.backlog += self.size
        self._fd, self._next = self._next, None
        self.segment += 1
        self.size = os.fstat(self._fd).st_size

    def prepare(self) -> None:
        """Create the next segment ahead of need, so that no request waits for a file to be made. Raises OSError."""
        if self._next is None and self.size > SEGMENT_SIZE // 2:
            self._next = create(self.path, self.id, self.segment + 1, self.columns)

    def sync(self) -> None:
        """Flush to disk all that was appended before this call. Raises OSError. Never called on an event loop."""
        with self._syncing:  # who comes while another flushes waits: its own rows may be among those
            with self._lock:
                descriptors, self._retired = self._retired, []
                if self._dirty and self._fd >= 0:
                    descriptors.append(os.dup(self._fd))
                self._dirty = False
            try:
                for descriptor in descriptors:
                    _flush(descriptor)
            except OSError:
                self._dirty = True
                raise
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    def read(self, segment: int, offset: int, most: int) -> Batch | None:
        """Return up to `most` frames from a position on, or None when there is nothing yet."""
        with self._lock:  # a segment and a size that belong together, while requests rotate
            current, size, sizes = self.segment, self.size, dict(self._sizes)
        while segment <= current:
            live = segment == current
            end = size if live else sizes.get(segment, 0)
            path = path_of(self.path, segment)
            if path.exists() and (batch := read(path, offset, most, end)):
                return batch
            if live:
                return None
            segment, offset = segment + 1, 0
        return None

    def acknowledge(self, segment: int, now: float) -> None:
        """All segments before this one are delivered; those delivered long ago are deleted."""
        with self._lock:
            for number in [number for number in self._sizes if number < segment and number not in self._delivered]:
                self._delivered[number] = now
                self.backlog -= self._sizes[number]
            crowded = sum(self._sizes.values()) > self._limit // 2
            expired = [number for number, when in self._delivered.items() if crowded or now - when > RETENTION]
            for number in expired:
                del self._delivered[number], self._sizes[number]
        for number in expired:
            path_of(self.path, number).unlink(missing_ok=True)

    def pending_bytes(self, segment: int, offset: int) -> int:
        """Return how many bytes lie behind a position."""
        with self._lock:
            later = sum(size for number, size in self._sizes.items() if number >= segment)
            return max(0, later + self.size - offset)

    def close(self, segment: int, offset: int) -> bool:
        """Let go. When all up to a position is all there is, the folder goes too; returns whether it did."""
        with self._lock:  # nothing comes in between the last look and the end
            delivered = self.read(segment, offset, 1) is None
            if delivered:
                shutil.rmtree(self.path, ignore_errors=True)
            self.abandon()
            return delivered

    def abandon(self) -> None:
        """Close the files without touching the lock: after a fork they are the parent's."""
        for descriptor in (self._fd, self._next, self._held, *self._retired):
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)
        self._fd = self._held = -1
        self._next, self._retired = None, []

    def _create(self, root: Path) -> tuple[int, int]:
        _private(root)
        # Made under a hidden name, locked, then renamed: nobody can adopt it in between.
        hidden = root / f".{self.id.hex()}"
        hidden.mkdir(mode=0o700)
        held = os.open(hidden / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(held, fcntl.LOCK_EX)
        opened = create(hidden, self.id, 1, self.columns)
        (hidden / DATABASE).write_text(self._database, "utf-8")
        hidden.rename(self.path)
        return held, opened


class MemoryJournal:
    """Stands in where no file can be written: bounded, lost with the process. Same positions, same reader."""

    def __init__(self, journal: bytes, columns: Columns, limit: int) -> None:
        self.id = journal
        self.columns = columns
        self.segment = 1
        self._limit = limit
        self._frames: deque[Frame] = deque()
        self._lock = threading.RLock()
        self._end = 0
        self.size = 0

    def append(self, data: bytes) -> None:
        """Keep frames; raises JournalError when the bound is reached: the newest is dropped."""
        with self._lock:
            if self.size + len(data) > self._limit:
                raise JournalError("memory_full")
            for record in split(data):
                self._end += len(record) + FRAME.size
                self._frames.append(Frame(record[:1], record[1:], self._end - len(record) - FRAME.size, self._end))
            self.size += len(data)

    def read(self, segment: int, offset: int, most: int) -> Batch | None:
        """Return up to `most` frames behind an offset, or None."""
        with self._lock:
            frames = [kept for _, kept in zip(range(most), self._frames, strict=False) if kept.end > offset]
        return Batch(self.id, 1, self.columns, frames, frames[-1].end) if frames else None

    def acknowledge_to(self, offset: int) -> None:
        """Forget what is delivered."""
        with self._lock:
            while self._frames and self._frames[0].end <= offset:
                gone = self._frames.popleft()
                self.size -= gone.end - gone.start

    def pending_bytes(self, segment: int, offset: int) -> int:
        """Return the bytes kept."""
        return self.size


class LeftOver:
    """The journal of a dead worker, adopted: the lock says that nobody else delivers it."""

    def __init__(self, path: Path, held: int) -> None:
        self.path = path
        self.id = bytes.fromhex(path.name)
        self._held = held
        self.segments = sorted(int(file.stem) for file in path.glob("*.journal"))

    def read(self, segment: int, offset: int, most: int) -> Batch | None:
        """Return up to `most` frames from a position on, or None when all is delivered.

        Raises JournalFormatError when a segment was written by a version that we do not know.
        """
        for number in self.segments:
            if number < segment:
                continue
            path = path_of(self.path, number)
            if batch := read(path, offset if number == segment else 0, most, None):
                return batch
        return None

    def set_aside(self) -> None:
        """Keep the segments that nobody here can read under a name that is not read again."""
        for number in self.segments:
            path = path_of(self.path, number)
            with open(path, "rb") as file:
                try:
                    read_header(file.read(65_536), path)
                except JournalFormatError:
                    path.rename(self.path.parent / f"{self.path.name}-{path.name}.unreadable")
        self.segments = sorted(int(file.stem) for file in self.path.glob("*.journal"))

    def finish(self) -> None:
        """All is delivered: remove the folder, then let go."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Let go, so that somebody else may deliver it. Does nothing the second time."""
        if self._held >= 0:
            os.close(self._held)
        self._held = -1


def adopt(root: Path, database: str = "") -> Iterator[LeftOver]:
    """Yield the journals for this database whose workers are dead, each locked for us."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        for path in sorted(root.iterdir()):
            if _is_for(path, database) and (held := _try_lock(path)) is not None:
                yield LeftOver(path, held)


def _is_for(path: Path, database: str) -> bool:
    """Tell whether a journal was written for the database: two apps with one folder must not swap their rows."""
    try:
        return (path / DATABASE).read_text("utf-8") == database
    except OSError:
        return False


def left_over_bytes(root: Path) -> int:
    """Return the bytes in all journals below a folder, living ones too."""
    with contextlib.suppress(OSError):
        return sum(file.stat().st_size for file in root.glob("*/*.journal"))
    return 0


def _try_lock(path: Path) -> int | None:
    if len(path.name) != 32 or not all(digit in "0123456789abcdef" for digit in path.name):
        return None
    try:
        held = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The one who had the lock before may have delivered and removed it meanwhile.
        if os.fstat(held).st_ino == (path / "lock").stat().st_ino:
            return held
    except OSError:
        pass
    os.close(held)
    return None


def _flush(descriptor: int) -> None:
    os.fdatasync(descriptor) if hasattr(os, "fdatasync") else os.fsync(descriptor)


def _private(root: Path) -> None:
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = root.stat()
    if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode):
        raise JournalError(f"The journal folder {root} belongs to another user.")
