"""Journals whose workers are dead: found, locked, and read by whoever delivers them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..errors import JournalFormatError
from ..protocols import Batch
from .journal import DATABASE
from .segment import path_of, read, read_header


class LeftOver:
    """The journal of a dead worker, adopted: the lock says that nobody else delivers it."""

    def __init__(self, path: Path, held: int) -> None:
        self.path = path
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
        self.segments = _segments(self.path)

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


def _segments(path: Path) -> list[int]:
    """Return the numbers of the segments in a folder; what others have put there is no segment."""
    return sorted(int(file.stem) for file in path.glob("*.journal") if re.fullmatch(r"\d{8,12}", file.stem, re.ASCII))


def _is_for(path: Path, database: str) -> bool:
    """Tell whether a journal was written for the database: two apps with one folder must not swap their rows."""
    try:
        return (path / DATABASE).read_text("utf-8") == database
    except OSError:
        return False


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
