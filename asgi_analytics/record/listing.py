"""The journals in a folder, looked at from outside: what each holds, and whether its worker lives."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..columns import counted
from .descriptors import has_lock
from .destination import Destination, read_destination

_NAME = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class JournalState:
    """One journal on disk: its size, and whether the process that writes it lives."""

    name: str  # 32 hex digits
    bytes: int
    newest: int  # number of the newest segment; 0 when there is none
    newest_bytes: int
    alive: bool
    destination: Destination
    written: float  # wall seconds of the last row


def journals(root: Path) -> list[JournalState]:
    """Return the journals in a folder by name, but those closed to us; none where it is missing.

    Raises PermissionError.
    """
    with contextlib.suppress(FileNotFoundError):
        folders = sorted(path for path in root.iterdir() if is_journal(path))
        return [state for folder in folders if (state := _journal_state(folder)) is not None]
    return []


def closed(root: Path) -> dict[str, int]:
    """Return the owners (user ids), by name, of journals that we may not enter. Raises OSError."""
    effective = os.access in os.supports_effective_ids
    with contextlib.suppress(FileNotFoundError):
        found = [path for path in sorted(root.iterdir()) if is_journal(path)]
        shut = [path for path in found if not os.access(path, os.R_OK | os.X_OK, effective_ids=effective)]
        return {path.name: path.stat().st_uid for path in shut}
    return {}


def closed_text(found: Mapping[str, int]) -> str:
    """Return what is closed to us, and whose it is."""
    owners = ", ".join(map(str, sorted(set(found.values()))))
    return f"{counted(len(found), 'journal')} of user {owners}, such as {min(found)}"


def is_journal(folder: Path) -> bool:
    """Tell by its name whether a folder is a journal, rather than one in the making or somebody else's.

    One that was moved elsewhere may be linked to; under another name a link is a second name of the journal.
    """
    if _NAME.fullmatch(folder.name) is None:
        return False
    return not folder.is_symlink() or os.path.basename(os.path.realpath(folder)) == folder.name


def strays(folder: Path, destination: Destination) -> list[JournalState]:
    """Return the journals of dead workers that are for a database of another key. Raises PermissionError."""
    return [one for one in journals(folder) if not one.alive and one.destination.key != destination.key]


def _journal_state(folder: Path) -> JournalState | None:
    try:
        found = {int(file.stem): file.stat() for file in folder.glob("*.journal") if _is_segment(file)}
        sizes = {number: file.st_size for number, file in found.items()}
        written = max((file.st_mtime for file in found.values()), default=folder.stat().st_mtime)
        alive = has_lock(folder) and _is_held(folder / "lock")
    except (FileNotFoundError, PermissionError):
        return None  # delivered and removed while we looked, or another user's
    newest = max(sizes, default=0)
    destination = read_destination(folder) or Destination("")
    return JournalState(folder.name, sum(sizes.values()), newest, sizes.get(newest, 0), alive, destination, written)


def _is_segment(file: Path) -> bool:
    return file.stem.isdecimal() and file.is_file()


def _is_held(lock: Path) -> bool:
    handle = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Held for microseconds at most: an adopter that it gets in the way of tries again.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def bytes_in(root: Path) -> int:
    """Return the bytes in all journals below a folder."""
    total = 0
    with contextlib.suppress(OSError):
        for file in root.glob("*/*.journal"):
            with contextlib.suppress(OSError):  # delivered and removed while we looked
                total += file.stat().st_size
    return total
