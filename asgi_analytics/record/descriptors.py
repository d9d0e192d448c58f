"""Long-lived file descriptors, in a process where other code may close all it does not know, as daemons do.

The number of a closed one is reused for the next file or socket that is opened: our writes would go there.
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

from ..clock import release_gil

TRIES = 100  # to open a lock file while nobody forks
HIGH = 512  # the system hands out the lowest free number: those from here on are seldom reused


class Descriptor(NamedTuple):
    """A descriptor, and which file it was opened for."""

    number: int
    device: int = 0
    inode: int = 0

    @classmethod
    def of(cls, number: int) -> Descriptor:
        """Take over a descriptor, under a high number if one is free. If that fails, closes it and raises OSError."""
        high = _to_high_number(number)
        try:
            found = os.fstat(high)
        except OSError:
            close([high])
            raise
        return cls(high, found.st_dev, found.st_ino)

    def is_ours(self) -> bool:
        """Tell whether it still refers to that file. Raises OSError where the disk fails."""
        try:
            return self.is_of(os.fstat(self.number))
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            return False

    def is_of(self, found: os.stat_result) -> bool:
        """Tell whether a stat result is that file's."""
        return (found.st_dev, found.st_ino) == (self.device, self.inode)

    def reopened(self, path: Path) -> Descriptor:
        """Return itself if it is still ours, else the file reopened, or GONE if the path is no longer that file.

        Raises OSError, such as for lack of descriptors.
        """
        if self.is_ours():
            return self
        try:
            opened = Descriptor.of(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC))
        except FileNotFoundError:
            return GONE
        if opened[1:] == self[1:]:
            return opened
        opened.close()
        return GONE

    def close(self) -> None:
        """Close it, unless its number is another file's by now."""
        with contextlib.suppress(OSError):  # such as of a network file system
            if self.is_ours():
                os.close(self.number)
        if _locks.get(self.number) is self:
            del _locks[self.number]


GONE = Descriptor(-1)
_locks: dict[int, Descriptor] = {}  # open lock files of this process, by number
_begun = _over = 0  # forks of this process


def _to_high_number(number: int) -> int:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    least = HIGH if most == resource.RLIM_INFINITY else min(HIGH, most // 2)
    try:
        high = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, least)
    except OSError:  # none is free there
        return number
    os.close(number)
    return high


def close(numbers: Iterable[int]) -> None:
    """Close descriptors, each even if others fail."""
    for number in numbers:
        with contextlib.suppress(OSError):
            os.close(number)


def duplicates(opened: Iterable[Descriptor]) -> list[int]:
    """Duplicate descriptors; if they run out, closes those made. Raises OSError."""
    own: list[int] = []
    try:
        for one in opened:
            own.append(os.dup(one.number))
    except OSError:
        close(own)
        raise
    return own


def has_lock(folder: Path) -> bool:
    """Tell whether a journal has a lock file; a folder of that name, or a link that leads nowhere, is none."""
    return (folder / "lock").is_file()


def lock_new(folder: Path) -> Descriptor:
    """Create the lock file of a journal, and lock it. Raises OSError."""
    make_way(folder)
    held = _open_lock(folder, os.O_CREAT)
    try:
        os.fchmod(held.number, 0o600)  # whatever the umask
        fcntl.flock(held.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # such as a file system without locks
        held.close()
        raise
    return held


def make_way(folder: Path) -> None:
    """Keep what has the name of the lock file, and is none, under a name that nobody reads. Raises OSError."""
    if not has_lock(folder) and os.path.lexists(folder / "lock"):
        (folder / "lock").rename(folder / "lock.strange")


def is_in(folder: Path, held: Descriptor) -> bool:
    """Tell whether the lock file in a folder is the one held; True if there is none. Raises OSError."""
    try:
        return held.is_of((folder / "lock").stat())
    except FileNotFoundError:
        return True


def try_lock(folder: Path) -> Descriptor | None:
    """Take the lock of a journal that nobody holds; None where somebody does, or there is none."""
    try:
        held = _open_lock(folder)
    except OSError:
        return None
    try:
        fcntl.flock(held.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its last holder may have delivered and removed the journal meanwhile.
        if held.is_of((folder / "lock").stat()):
            return held
    except OSError:
        pass
    held.close()
    return None


def _open_lock(folder: Path, flags: int = 0) -> Descriptor:
    """Open a lock file and note it, not while another thread forks: the child would not know of it. Raises OSError."""
    tries = TRIES
    while True:
        tries -= 1
        begun = _begun
        if tries and begun != _over:
            release_gil()
            continue
        held = Descriptor.of(os.open(folder / "lock", flags | os.O_RDWR | os.O_CLOEXEC, 0o600))
        _locks[held.number] = held
        if not tries or begun == _begun:
            return held
        held.close()


def _begin_fork() -> None:
    global _begun
    _begun += 1


def _end_fork() -> None:
    global _over
    _over += 1


def _let_go() -> None:
    """In a forked child, close the lock files: a lock would outlive the parent for as long as they are open here."""
    global _over
    _over = _begun
    for held in list(_locks.values()):
        held.close()


os.register_at_fork(before=_begin_fork, after_in_parent=_end_fork, after_in_child=_let_go)
