"""Which database a journal is for, in files beside its segments: others adopt only what is for theirs."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from ..folders import fsync_path

DATABASE = "database"  # the digest of host, port and name
ADDRESS = "address"  # the same in clear, for people
SERVER = "server"  # identity that the database reports; not there before it was reached
MAX_BYTES = 65_536  # of each file


@dataclass(frozen=True, slots=True)
class Destination:
    """A database: its key, its address without user and password, the identity it reports; "": not known."""

    key: str
    address: str = ""
    server: str = ""

    def is_same(self, other: Destination) -> bool:
        """Tell whether both are one database: by key, or by its identity, under whatever host name."""
        return self.key == other.key or (self.server != "" and self.server == other.server)

    def write(self, folder: Path) -> None:
        """Write what is known of it into the folder of a journal. Raises OSError, and then what was there stays."""
        # The key last: without it nobody adopts the journal.
        for name, text in ((ADDRESS, self.address), (SERVER, self.server), (DATABASE, self.key)):
            if not text and name != DATABASE:
                (folder / name).unlink(missing_ok=True)  # it was of another
            elif _text(folder / name) != text:
                fresh = folder / f".{name}"
                fresh.touch()
                fresh.chmod(0o600)  # whatever the umask
                fresh.write_text(text, "utf-8")
                fresh.replace(folder / name)

    def flush(self, folder: Path) -> None:
        """Flush what `write` has written, and the name of the folder. Raises OSError."""
        for path in (*(folder / name for name in (ADDRESS, SERVER) if (folder / name).exists()), folder / DATABASE):
            fsync_path(path)
        for path in (folder, folder.parent):
            fsync_path(path)


NOWHERE = Destination("")


def read_destination(folder: Path) -> Destination | None:
    """Return where a journal goes, None where that cannot be read."""
    key = _text(folder / DATABASE)
    return None if key is None else Destination(key, _text(folder / ADDRESS) or "", _text(folder / SERVER) or "")


def remove(folder: Path) -> None:
    """Remove the folder of a delivered journal; if we are killed meanwhile, what is left can be adopted and removed.

    The oldest segment goes first: one that ends before the position would have all of it looked up again.
    """
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(folder), key=lambda name: (name == DATABASE, name)):
            os.unlink(folder / name)
    shutil.rmtree(folder, ignore_errors=True)  # also what somebody else has put there


def _text(path: Path) -> str | None:
    """Return what a regular file holds, else None: a pipe would block, a device may fill memory."""
    with contextlib.suppress(OSError, UnicodeError):
        opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if stat.S_ISREG(os.fstat(opened).st_mode):
                return os.read(opened, MAX_BYTES).decode()
        finally:
            os.close(opened)
    return None
