"""Descriptors that are ours for long, in a process where others close what they do not know, as daemons do.

The number of one that was closed goes to the next file or socket that anybody opens: what we write would go into it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

HIGH = 512  # the lowest free number is given away first: those from here on are seldom reached


class Opened(NamedTuple):
    """A descriptor, and which file it was given for."""

    number: int
    device: int = 0
    inode: int = 0

    @classmethod
    def of(cls, number: int) -> Opened:
        """Take over a descriptor, under a high number where there is one. Raises OSError, and has closed it."""
        high = _high(number)
        try:
            found = os.fstat(high)
        except OSError:
            close([high])
            raise
        return cls(high, found.st_dev, found.st_ino)

    def is_ours(self) -> bool:
        """Tell whether it is still of that file. Raises OSError where the disk fails."""
        try:
            return self.is_of(os.fstat(self.number))
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            return False

    def is_of(self, found: os.stat_result) -> bool:
        """Tell whether a file is that one."""
        return (found.st_dev, found.st_ino) == (self.device, self.inode)

    def again(self, path: Path) -> Opened:
        """Return itself, or where somebody has closed it the file opened again; GONE where it is not there any more.

        Raises OSError, such as for want of descriptors.
        """
        if self.is_ours():
            return self
        try:
            opened = Opened.of(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC))
        except FileNotFoundError:
            return GONE
        if opened[1:] == self[1:]:
            return opened
        opened.close()
        return GONE

    def close(self) -> None:
        """Close it, unless it is somebody else's by now."""
        with contextlib.suppress(OSError):  # such as of a network's disk
            if self.is_ours():
                os.close(self.number)


GONE = Opened(-1)


def _high(number: int) -> int:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    least = HIGH if most == resource.RLIM_INFINITY else min(HIGH, most // 2)
    try:
        high = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, least)
    except OSError:  # none is left there
        return number
    os.close(number)
    return high


def close(numbers: Iterable[int]) -> None:
    """Close descriptors, each whatever becomes of the others."""
    for number in numbers:
        with contextlib.suppress(OSError):
            os.close(number)


def duplicates(opened: Iterable[Opened]) -> list[int]:
    """Return descriptors of one's own; where there are not enough left, none stays open. Raises OSError."""
    own: list[int] = []
    try:
        for one in opened:
            own.append(os.dup(one.number))
    except OSError:
        close(own)
        raise
    return own


def lock_new(folder: Path) -> Opened:
    """Make the lock of a journal, and hold it. Raises OSError."""
    held = Opened.of(os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    try:
        os.fchmod(held.number, 0o600)  # whatever the umask
        fcntl.flock(held.number, fcntl.LOCK_EX)
    except OSError:  # such as a file system without locks
        held.close()
        raise
    return held


def is_in(folder: Path, held: Opened) -> bool:
    """Tell whether the lock in a folder is the one that is held; also where there is none. Raises OSError."""
    try:
        return held.is_of((folder / "lock").stat())
    except FileNotFoundError:
        return True


def try_lock(folder: Path) -> Opened | None:
    """Take the lock of a journal that nobody holds; None where somebody does, or there is none."""
    try:
        held = Opened.of(os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return None
    try:
        fcntl.flock(held.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The one who had the lock before may have delivered and removed it meanwhile.
        if held.is_of((folder / "lock").stat()):
            return held
    except OSError:
        pass
    held.close()
    return None
