"""The folder of a living worker's journal: the lock that it holds, and what tells others which database it is for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..folders import make_private
from .descriptors import GONE, Descriptor, has_lock, is_in, lock_new, try_lock
from .destination import ADDRESS, DATABASE, SERVER, Destination


class JournalFolder:
    """Made with its first segment; what somebody removes of it is made again.

    Not thread-safe but for `flush`: the journal changes `held` while it is locked.
    """

    def __init__(self, path: Path, destination: Destination) -> None:
        self.path = path
        self.held = GONE
        self.destination = destination
        self._is_named = False  # on disk: without what names it after a power cut, nobody would adopt it

    def make(self, create: Callable[[Path], int]) -> Descriptor:
        """Make it and return its first segment, which `create` makes. Raises OSError, and JournalError."""
        make_private(self.path.parent)
        # Made under a hidden name, locked, then renamed: nobody can adopt it in between.
        hidden = self.path.with_name(f".{self.path.name}")
        opened: list[Descriptor] = []
        try:
            hidden.mkdir(mode=0o700)
            hidden.chmod(0o700)  # whatever the umask
            opened.append(lock_new(hidden))
            opened.append(Descriptor.of(create(hidden)))
            self.destination.write(hidden)
            hidden.rename(self.path)
        except BaseException:
            # Each retry uses another name.
            for one in opened:
                one.close()
            shutil.rmtree(hidden, ignore_errors=True)
            raise
        self.held, first = opened
        return first

    def is_whole(self) -> bool:
        """Tell whether the files are there that let others find the journal, and keep them from it."""
        return has_lock(self.path) and (self.path / DATABASE).exists()

    def repair(self) -> None:
        """Make again what is missing. Raises OSError, and JournalError where others may write to where it is."""
        make_private(self.path.parent)
        self.path.mkdir(mode=0o700, exist_ok=True)
        self.path.chmod(0o700)
        if not has_lock(self.path):
            self._hold(lock_new(self.path))
        self.destination.write(self.path)
        self._is_named = False

    def relock(self) -> None:
        """Lock the lock file, if it was replaced by another, such as with a backup of the folder. Raises OSError.

        Whoever locked it could deliver the backup, and advance our position past newer rows.
        """
        if not is_in(self.path, self.held) and (fresh := try_lock(self.path)) is not None:
            self._hold(fresh)

    def _hold(self, fresh: Descriptor) -> None:
        self.held.close()
        self.held = fresh

    def reopen(self) -> None:
        """Lock it again where other code has closed the lock file; a worker that took us for dead may have it."""
        if self.held == GONE or not self.held.is_ours():
            self.held = try_lock(self.path) or GONE

    def touch(self) -> None:
        """Refresh the files' times, so that cleaners of old files (systemd-tmpfiles) spare them. Raises OSError."""
        for name in ("lock", DATABASE, ADDRESS, SERVER):
            if (path := self.path / name).exists():
                os.utime(path)

    def name_server(self, server: str) -> None:
        """Record the server's identity: workers that know it by another host name may adopt this. Raises OSError."""
        if server != self.destination.server:
            destination = replace(self.destination, server=server)
            destination.write(self.path)
            self.destination, self._is_named = destination, False

    def flush(self) -> None:
        """Flush what names it to disk, if that is not there yet. Raises OSError."""
        if self._is_named:
            return
        self._is_named = True  # before: what is written meanwhile is flushed with the next call
        try:
            self.destination.flush(self.path)
        except OSError as error:
            self._is_named = False
            if not isinstance(error, (FileNotFoundError, NotADirectoryError)):  # else it is made again
                raise

    def let_go(self) -> None:
        """Close the lock file without unlocking it: after a fork the lock is the parent's."""
        self.held.close()
        self.held = GONE
