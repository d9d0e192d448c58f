"""Where what outlives a process is kept, unless somebody says otherwise, and how a file gets there as a whole."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path

from .errors import JournalError


def named(text: str | Path) -> Path:
    """Return the folder or file that an option or the environment names; "~" is a home.

    In full: an app that changes its working directory later would leave journals in several places.
    """
    path = Path(os.path.expanduser(text))
    try:
        return path.absolute()
    except FileNotFoundError:  # where we are was deleted
        return path


def default_folder(variable: str, name: str, of_root: str = "/var/tmp/asgi-analytics") -> Path:  # noqa: S108 - see below
    """Return the folder that an environment variable names, else root's, else `name` in this user's state_folder."""
    if chosen := os.environ.get(variable):
        return named(chosen)
    return Path(of_root if os.geteuid() == 0 else state_folder()) / name


def state_folder() -> Path:
    """Return our folder in this user's place for state; in /var/tmp for a user without a home, as containers run."""
    if place := os.environ.get("XDG_STATE_HOME"):
        return named(place) / "asgi-analytics"
    home = os.path.expanduser("~")  # "/" under Docker, /nonexistent of nobody, "~" of a number that nobody has
    folder = Path(home) / ".local/state/asgi-analytics"
    there = next((place for place in (folder, *folder.parents) if os.path.exists(place)), folder)
    effective = os.access in os.supports_effective_ids
    if not os.path.isabs(home) or not os.access(there, os.W_OK, effective_ids=effective):
        return Path(f"/var/tmp/asgi-analytics-{os.geteuid()}")  # noqa: S108 - its folders are private and owner-checked
    return folder


def foreign_part(folder: Path) -> Path | None:
    """Return which part of a path belongs to another user who could make it, where anybody may make entries.

    He could put another folder in the place of ours. None where there is none.
    """
    for part in (folder, *folder.parents[:-1]):
        if part.parent.stat().st_mode & stat.S_IWOTH and part.lstat().st_uid not in (os.geteuid(), 0):
            return part
    return None


def make_private(folder: Path) -> None:
    """Make a folder that is ours alone. Raises OSError, and JournalError where it belongs to another user."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
        folder.chmod(0o700)  # whatever the umask
    found = folder.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    part = folder if found.st_uid != os.geteuid() else foreign_part(folder)
    if part is not None:
        raise JournalError(f"The journal folder {part} belongs to another user.")


def put_whole(path: Path, data: bytes, mode: int, at: float | None = None) -> None:
    """Put a file in place in one step: a reader sees the old one or the new one, and what fails leaves the old.

    `at`: seconds since 1970 that it is dated back to. Raises OSError.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        if at is not None:
            os.utime(temporary, (at, at))
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
