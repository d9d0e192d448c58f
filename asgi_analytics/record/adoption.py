"""Journals whose workers are dead: found, locked, and read by whoever delivers them."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from ..batch import Batch
from ..clock import SystemClock
from ..errors import JournalFormatError
from .descriptors import GONE, Descriptor, has_lock, make_way, try_lock
from .destination import DATABASE, Destination, read_destination, remove
from .frames import Columns
from .journal import FileJournal
from .listing import is_journal
from .memory import MemoryJournal
from .segment import path_of, read, read_header

_SEGMENT = re.compile(r"\d{8,12}\.journal", re.ASCII)
_UNFINISHED = re.compile(r"\.[0-9a-f]{32}")
UNLOCKED_FOR = 20.0  # seconds after which a journal without a lock file is nobody's


class LeftOver:
    """The journal of a dead worker, adopted: the lock says that nobody else delivers it."""

    def __init__(self, path: Path, held: Descriptor, columns: Columns | None = None) -> None:
        self.path = path
        self._columns = columns
        self.id = bytes.fromhex(path.name)
        self._held = held
        self.segments = _segments(path)

    def read(self, segment: int, offset: int, most: int) -> Batch | None:
        """Return up to `most` frames from a position on, or None when all is delivered.

        Raises JournalFormatError when a segment was written by a version that we do not know.
        """
        for number in self.segments:
            if number < segment:
                continue
            path = path_of(self.path, number)
            if batch := read(path, offset if number == segment else 0, most, self._columns):
                self._check(path, batch.journal, batch.segment)
                return batch
        return None

    def end(self) -> tuple[int, int]:
        """Return (segment, offset) after the last byte. Raises OSError."""
        return (self.segments[-1], path_of(self.path, self.segments[-1]).stat().st_size) if self.segments else (0, 0)

    def _check(self, path: Path, journal: bytes, segment: int) -> None:
        # A copy would advance the position of its original, and be read again and again.
        if (journal, path_of(self.path, segment)) != (self.id, path):
            raise JournalFormatError(f"{path.name} in {self.path.name} is a copy of another segment.")

    def set_aside(self) -> None:
        """Rename the segments that this version cannot read: they are kept, but not read again."""
        for number in self.segments:
            path = path_of(self.path, number)
            with open(path, "rb") as file:
                try:
                    journal, segment, *_ = read_header(file.read(65_536), path, self._columns)
                    self._check(path, journal, segment)
                except JournalFormatError:
                    path.rename(self.path.parent / f"{self.path.name}-{path.name}.unreadable")
        self.segments = _segments(self.path)

    def finish(self) -> None:
        """All is delivered: remove the folder, then release the lock."""
        remove(self.path)
        self.release()

    def release(self) -> None:
        """Release the lock, so that another worker may deliver it. Idempotent."""
        self._held.close()
        self._held = GONE


Source = FileJournal | MemoryJournal | LeftOver  # what is delivered


class LeftOvers:
    """The journals of dead workers that are for this database, locked one at a time, for each lock is an open file."""

    def __init__(self, root: Path, database: str, columns: Columns | None = None) -> None:
        self._root = root
        self._database = database
        self._columns = columns
        self.server = ""  # identity that the database reports, once it was asked
        self._ahead: Iterator[LeftOver] = iter(())
        self.held: LeftOver | None = None

    def begin_pass(self) -> None:
        """Begin a new pass: over those that could not be delivered before, and those left since."""
        self._ahead = adopt(self._root, self._database, self.server, self._columns)

    def current(self) -> LeftOver | None:
        """Return the one that is held, else the next of this pass; None when there is none."""
        if self.held is None:
            self.held = next(self._ahead, None)
        return self.held

    def finish(self) -> None:
        """All of the current one is delivered."""
        if self.held is not None:
            self.held.finish()
        self.held = None

    def release(self) -> None:
        """Leave the current one, if any, to a later pass of this or another worker."""
        if self.held is not None:
            self.held.release()
        self.held = None


def adopt(root: Path, database: str = "", server: str = "", columns: Columns | None = None) -> Iterator[LeftOver]:
    """Yield the journals for this database whose workers are dead, each locked for us.

    A damaged header can be restored if it named these `columns`.
    Journals that cannot be opened now, such as for lack of descriptors, are skipped.
    """
    ours = Destination(database, server=server)
    folders: list[Path] = []
    with contextlib.suppress(OSError):
        folders = sorted(root.iterdir())
    lives = cache(lambda key: _lives(key, folders))  # else each of maybe thousands would scan all
    for path in folders:
        if _UNFINISHED.fullmatch(path.name):
            _remove_unfinished(path)
            continue
        destination = read_destination(path)
        if destination is None or not destination.is_same(ours):
            continue
        # Two apps that share a folder must not swap rows: a live worker with that key delivers it.
        if destination.key != database and lives(destination.key):
            continue
        if (held := _try_lock(path)) is not None:
            try:
                found = LeftOver(path, held, columns)
            except OSError:
                held.close()
                continue
            yield found


def _segments(path: Path) -> list[int]:
    """Return the numbers of the segments in a folder; what others have put there is no segment. Raises OSError.

    Not by glob(), which in some Python versions returns nothing for an unreadable folder.
    """
    with os.scandir(path) as found:
        names = [entry.name for entry in found if _SEGMENT.fullmatch(entry.name) and _holds_bytes(entry)]
    numbers = {int(name.removesuffix(".journal")) for name in names}
    return sorted(number for number in numbers if path_of(path, number).name in names)  # not one with further zeros


def _holds_bytes(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a regular file: opening a pipe would block. Raises OSError where a disk fails.

    Not an empty one, as a power cut leaves of a segment that was made ahead of need.
    """
    try:
        return entry.is_file() and entry.stat().st_size > 0
    except OSError as error:
        if error.errno != errno.ELOOP:  # a link that leads to itself
            raise
        return False


def _lives(key: str, folders: Iterable[Path]) -> bool:
    """Tell whether a worker lives whose database has this key."""
    for path in folders:
        destination = read_destination(path)
        if destination is not None and destination.key == key:
            held = _try_lock(path)
            if held is None:
                return True
            held.close()
    return False


def redirect(path: Path, destination: Destination) -> bool:
    """Have a left-over journal delivered to another database; False where its worker lives. Raises OSError."""
    held = _try_lock(path)
    if held is None:
        return False
    try:
        destination.write(path)
        destination.flush(path)
        return True
    finally:
        held.close()


def _try_lock(path: Path) -> Descriptor | None:
    if not is_journal(path):
        return None
    with contextlib.suppress(OSError):
        _restore_lock(path)
    return try_lock(path)


def _remove_unfinished(path: Path) -> None:
    """Remove a journal whose worker died while it made the folder: no row was in it yet."""
    with contextlib.suppress(OSError):
        if _age(path) > UNLOCKED_FOR and ((held := try_lock(path)) is not None or not has_lock(path)):
            shutil.rmtree(path, ignore_errors=True)
            if held is not None:
                held.close()


def _age(path: Path) -> float:
    """Return the seconds since a folder has changed, by a clock that may have been set. Raises OSError."""
    return abs(SystemClock.time_ns() / 1e9 - path.stat().st_mtime)


def _restore_lock(path: Path) -> None:
    """Put the lock file back that somebody has removed, such as a cleaner of empty files. Raises OSError.

    Not where that may just have happened: a living worker puts it back itself, one who has delivered removes the rest.
    (But where nothing names a database, either: an operator has put back what was set aside.)
    """
    if not has_lock(path) and (_age(path) > UNLOCKED_FOR or not (path / DATABASE).exists()):
        make_way(path)
        os.close(os.open(path / "lock", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
