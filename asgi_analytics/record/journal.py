"""The journal: what is appended survives the death of the process; another worker then delivers what is left.

A worker's journal is a folder of segments (see segment.py), which it holds a file lock on for as long as it lives.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable
from pathlib import Path

from ..batch import Batch
from ..errors import JournalClosed, JournalError
from .descriptors import GONE, Descriptor, close, duplicates
from .destination import NOWHERE, Destination, remove
from .disk import Disk, flush, read_tail, write, write_whole
from .folder import JournalFolder
from .frames import Columns
from .segment import MAGIC, create, header, path_of, read_body

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
SEGMENT_SIZE = 16 << 20  # bytes
TAIL = 65_536  # bytes that other threads may have appended since
MAX_OPEN = 64  # closed segments that are held open: a gigabyte; the app needs descriptors, too
RETENTION = 600.0  # seconds that delivered segments are kept, for a fail-over to a replica that lost the last commits


class FileJournal:
    """This worker's journal. `append` is called on the request path, all else in background threads."""

    def __init__(
        self, root: Path, journal: bytes, columns: Columns, limit: int, destination: Destination = NOWHERE
    ) -> None:
        self.id = journal
        self.columns = columns
        self.folder = JournalFolder(root / journal.hex(), destination)
        self.path = self.folder.path
        self._limit = limit
        # Re-entrant: a finaliser or a signal handler may append while this thread does.
        self._lock = threading.RLock()
        self._open = self.folder.make(lambda folder: create(folder, journal, 1, columns))
        self._fd = self._open.number
        self._next: Descriptor | None = None
        self.segment = 1
        self.size = len(header(journal, 1, columns))  # committed bytes of the open segment
        self.backlog = 0  # bytes of closed segments that are not delivered yet
        self._failing = False  # a segment refused a write, though the disk is not full
        self._dirty = False
        self._ended = False
        self._pending_error: OSError | None = None  # for `prepare` to raise
        self._retired: list[int] = []  # rotated segments that are not flushed yet
        self._kept: dict[int, Descriptor] = {}  # closed segments until they are delivered: files may be unlinked
        self._disk = Disk(self.path)
        self._sizes: dict[int, int] = {}  # bytes of closed segments
        self._delivered: dict[int, float] = {}  # segment → monotonic seconds

    def append(self, data: bytes) -> None:
        """Append frames in one write: about 1 µs. Raises JournalError when full or unwritable, JournalClosed."""
        with self._lock:
            if self._disk.busy_since is not None or self.size + self.backlog > self._limit:
                self._check_room()
            size = len(data)
            if write(self._fd, data, size) != size:
                self._retry_write(data)
            self.size += size
            self._dirty = True
            if self.size > SEGMENT_SIZE and self._next is not None:
                try:
                    self._rotate()
                except RecursionError:  # the row is in; the next one tries again
                    pass

    def holds(self, data: bytes) -> bool:
        """Tell whether frames are among the last that were written. Raises OSError."""
        with self._lock:
            last = [one for one in (self._open, self._kept.get(self.segment - 1, GONE)) if one != GONE]
            return any(data in read_tail(one.number, len(data) + TAIL) for one in last)

    def _check_room(self) -> None:
        if self._ended:
            raise JournalClosed
        if self.size + self.backlog > self._limit:
            raise JournalError("journal_full")
        if self._disk.hangs():
            raise JournalError("journal_hangs")

    def _retry_write(self, data: bytes) -> None:
        """Truncate a partial write and try again, reopening files first. Raises JournalError if that fails too."""
        if self._ended:
            raise JournalClosed
        try:
            self._reopen_closed()
            write_whole(self._fd, self.size, data)
        except OSError as error:
            if error.errno not in _DISK_FULL:
                # The next segment may take it: this file may be too large, or on a bad sector.
                self._failing = True
                if self._leave_failing():
                    return self._retry_write(data)
            full = (*_DISK_FULL, errno.EFBIG)
            raise JournalError("disk_full" if error.errno in full else "journal_unwritable") from error

    def _leave_failing(self) -> bool:
        """Rotate, unless this segment has no rows: then the file is not at fault. Return whether it did."""
        if self._next is None or self.size <= len(header(self.id, self.segment, self.columns)):
            return False
        self._rotate()
        return self._next is None

    def _rotate(self) -> None:
        number, known, following = self.segment, self.size, self._next
        assert following is not None
        try:
            if not following.is_ours() or (self._open != GONE and not self._open.is_ours()):
                return  # the keeper reopens them
            size, whole = os.fstat(following.number).st_size, max(known, self._size_on_disk())
        except OSError:  # nothing has changed: the next append tries again
            return
        opened = (following.number, following, None, number + 1, size)
        retired, kept = [*self._retired, number], {**self._kept, number: self._open}
        closed = (retired, kept, {**self._sizes, number: whole}, self.backlog + whole)
        if self.segment != number or self.size != known:  # a finaliser has appended: the next append tries again
            return
        # No allocation or signal may come in between: half of it would have rows read from the wrong file.
        self._fd, self._open, self._next, self.segment, self.size = opened
        self._retired, self._kept, self._sizes, self.backlog = closed

    def _size_on_disk(self) -> int:
        return 0 if self._open == GONE else os.fstat(self._fd).st_size

    def _reopen_closed(self) -> None:
        """Reopen files that other code in this process has closed, such as by os.closerange. Raises OSError."""
        with self._lock:
            if self._ended:
                return
            if self.folder.held == GONE:  # a worker that took us for dead had it
                self.folder.reopen()
            known = (self._open, self.folder.held, self._next, *self._kept.values())
            if all(one.is_ours() for one in known if one is not None and one != GONE):
                return
            opened = self._open.reopened(path_of(self.path, self.segment))
            self._open, self._fd = opened, opened.number
            what = "its file is gone, hits that were not delivered yet may be lost"
            if opened != GONE:
                lost = max(0, self.size - self._size_on_disk())
                what = f"{lost:,} bytes of hits went into another file" if lost else "no hit was lost by it"
                self.size -= lost
            text = f"was closed by other code in this process, such as os.closerange: {what}"
            self._pending_error = OSError(errno.EBADF, text, str(self.path))
            self.folder.reopen()
            if self._next is not None:
                self._next = self._next.reopened(path_of(self.path, self.segment + 1))
            self._kept = {number: one.reopened(path_of(self.path, number)) for number, one in self._kept.items()}

    def prepare(self) -> None:
        """Create the next segment ahead of need, so that no request waits for a file to be made. Raises OSError.

        Rotates at once if somebody has removed files (their rows can be read only while we live), or has truncated or
        written into the open one. OSError also reports a truncation, and files that had been closed; JournalError says
        that others may write to the place of a folder that was removed.
        """
        if self._ended:
            return
        self._reopen_closed()
        with self._lock:
            self.folder.relock()
        self._make_room()
        self._let_go_of_oldest()
        if not self._files_exist() or self._has_foreign_bytes():
            self._begin_new_segment()
        elif self._next is None and (self._failing or self.size > self._segment_size() // 2):
            with self._disk.flushing():
                self._next = self._create_next()
        self._rotate_grown()
        error = self._pending_error or self._disk.error
        self._pending_error = self._disk.error = None
        if error is not None:
            raise error

    def _segment_size(self) -> int:
        return min(SEGMENT_SIZE, self._limit // 4)

    def _rotate_grown(self) -> None:
        """Rotate a grown segment that no append has rotated: the limit is small, or there was no next segment.

        Only closed segments are deleted once they are delivered, which makes room.
        """
        with self._lock:
            if self._next is not None and self.size > self._segment_size():
                self._rotate()

    def _create_next(self) -> Descriptor:
        number = self.segment + 1
        try:
            return Descriptor.of(create(self.path, self.id, number, self.columns))
        except FileExistsError:  # a foreign file is kept, under a name that nobody reads
            path = path_of(self.path, number)
            path.rename(path.with_suffix(".strange"))
            return Descriptor.of(create(self.path, self.id, number, self.columns))

    def _make_room(self) -> None:
        """Delete segments kept for a fail-over where undelivered rows need the room."""
        old: list[int] = []
        with self._lock:
            while self._delivered and sum(self._sizes.values()) + self.size > self._limit:
                old.append(self._forget(min(self._delivered)))
        self._delete(old)

    def _let_go_of_oldest(self) -> None:
        """Close the oldest of more than MAX_OPEN segments: they are opened again by name when they are read."""
        with self._lock:
            for number in sorted(self._kept)[:-MAX_OPEN]:
                self._kept.pop(number).close()

    def _forget(self, number: int) -> int:
        del self._delivered[number], self._sizes[number]
        return number

    def _delete(self, numbers: Iterable[int]) -> None:
        """Delete segments that are forgotten, unlocked: requests must not wait for a disk to free megabytes."""
        for number in numbers:
            path_of(self.path, number).unlink(missing_ok=True)

    def _files_exist(self) -> bool:
        with self._lock:
            segment, size, ours = self.segment, self.size, self._open
        try:
            whole, found = self.folder.is_whole(), path_of(self.path, segment).stat()
        except FileNotFoundError:
            return False
        return whole and ours.is_of(found) and found.st_size >= size

    def _has_foreign_bytes(self) -> bool:
        """Tell whether the open segment has foreign bytes: rows after them are not at the offsets we assume."""
        with self._lock:
            return self._size_on_disk() > self.size

    def _begin_new_segment(self) -> None:
        with self._lock:
            self.folder.repair()
            if self._next is not None and not path_of(self.path, self.segment + 1).exists():
                self._next.close()
                self._next = None
            if self._next is None:
                self._next = self._create_next()
            saved = self._rows_after_truncation()
            self._rotate()
            if saved is not None and self._next is None:
                self.append(saved)
                raise OSError(errno.EIO, "was cut by somebody, hits that were not delivered yet may be lost", self.path)

    def _rows_after_truncation(self) -> bytes | None:
        """Return what was appended since the open segment was truncated, as far as known; None if it was not."""
        size = self._size_on_disk()
        if size >= self.size or self._open == GONE:
            return None
        data = os.pread(self._fd, size, 0)
        return b"" if data.startswith(MAGIC) else data

    def sync(self) -> None:
        """Flush to disk all that was appended before this call. Raises OSError. Never called on an event loop."""
        with self._disk.flushing():
            retired, descriptors = self._unflushed()
            try:
                for descriptor in descriptors:
                    flush(descriptor)
            except OSError:
                self._retired, self._dirty = [*retired, *self._retired], True
                raise
            finally:
                close(descriptors)
            self.folder.flush()

    def _unflushed(self) -> tuple[list[int], list[int]]:
        """Return which closed segments are to be flushed, and descriptors of these and of the open one."""
        with self._lock:
            self._reopen_closed()
            wanted = [self._kept[number] for number in self._retired if number in self._kept]
            if self._dirty:
                wanted.append(self._open)
            descriptors = duplicates([one for one in wanted if one != GONE])
            retired, self._retired, self._dirty = self._retired, [], False
            return retired, descriptors

    def read(self, segment: int, offset: int, most: int) -> Batch | None:
        """Return up to `most` frames from a position on, or None when there is nothing yet. Raises OSError."""
        self._reopen_closed()
        if self._has_foreign_bytes():  # read up to its end on disk once it is rotated
            raise OSError(errno.EIO, "was written into by somebody, another is begun", str(self.path))
        with self._lock:  # a consistent segment and size, while requests rotate
            current, size, sizes = self.segment, self.size, dict(self._sizes)
        while segment <= current:
            live = segment == current
            if batch := self._read(segment, offset, most, size if live else sizes.get(segment, 0)):
                return batch
            if live:
                return None
            segment, offset = segment + 1, 0
        return None

    def _read(self, segment: int, offset: int, most: int, end: int) -> Batch | None:
        with self._lock:
            known = self._open if segment == self.segment else self._kept.get(segment, GONE)
            opened = os.dup(known.number) if known != GONE else None
        try:
            if opened is None:
                opened = os.open(path_of(self.path, segment), os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):  # or a file has taken the place of the folder
            return None
        try:
            if os.fstat(opened).st_size < end:  # truncated by somebody: offsets are no longer valid
                return None
            # Our header is known, even where the one on disk is damaged.
            body = len(header(self.id, segment, self.columns))
            return read_body(opened, (self.id, segment, self.columns, body), offset, most, end)
        finally:
            os.close(opened)

    def acknowledge(self, segment: int, now: float) -> None:
        """Note that all segments before this one are delivered, and delete those that were long ago."""
        with self._lock:
            # After a fail-over that lost commits, delivered segments are pending again.
            for number in [number for number in self._delivered if number >= segment]:
                del self._delivered[number]
                self.backlog += self._sizes[number]
            for number in [number for number in self._sizes if number < segment and number not in self._delivered]:
                self._delivered[number] = now
                self.backlog -= self._sizes[number]
                self._kept.pop(number, GONE).close()
            crowded = sum(self._sizes.values()) > self._limit // 2
            old = [one for one, when in self._delivered.items() if crowded or now - when > RETENTION]
            for number in old:
                self._forget(number)
        self._delete(old)

    def end(self) -> tuple[int, int]:
        """Return (segment, offset) after the last frame."""
        with self._lock:
            return self.segment, self.size

    def has_more(self, segment: int, offset: int) -> bool:
        """Tell whether there are frames after a position; True also if that cannot be read (no descriptors)."""
        try:
            return self.read(segment, offset, 1) is not None
        except OSError:
            return True

    def pending_bytes(self, segment: int, offset: int) -> int:
        """Return how many bytes there are after a position."""
        with self._lock:
            later = sum(size for number, size in self._sizes.items() if number >= segment)
            is_there = segment == self.segment or segment in self._sizes  # not delivered and deleted
            return max(0, later + self.size - (offset if is_there else 0))

    def close(self, segment: int, offset: int) -> bool:
        """Close the files; if nothing follows a position, delete the folder. Return whether it was deleted."""
        with self._lock:  # no row may come between the last read and the end
            delivered = not self.has_more(segment, offset)
            if delivered:
                remove(self.path)
            self.abandon()
            return delivered

    def abandon(self) -> None:
        """Close the files without unlocking: after a fork the lock is the parent's."""
        for one in (self._open, self._next, *self._kept.values()):
            if one is not None:
                one.close()
        self.folder.let_go()
        self._ended, self._fd, self._open = True, -1, GONE
        self._next, self._retired, self._kept = None, [], {}
