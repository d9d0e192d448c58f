"""Default folders for what outlives a process, checks of their ownership, and atomic writes of files."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path

from .errors import JournalError

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def named(text: str | Path) -> Path:
    """Return the folder or file that an option or the environment names; "~" is a home.

    Absolute: an app that changes its working directory later would leave journals in several places.
    """
    path = Path(os.path.expanduser(text))
    try:
        return path.absolute()
    except FileNotFoundError:  # the working directory was deleted
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
    home = os.path.expanduser("~")  # "/" under Docker, /nonexistent of nobody, "~" of a uid without a user
    folder = Path(home) / ".local/state/asgi-analytics"
    there = next((place for place in (folder, *folder.parents) if os.path.exists(place)), folder)
    effective = os.access in os.supports_effective_ids
    if not os.path.isabs(home) or not os.access(there, os.W_OK, effective_ids=effective):
        return Path(f"/var/tmp/asgi-analytics-{os.geteuid()}")  # noqa: S108 - its folders are private and owner-checked
    return folder


def foreign_part(folder: Path) -> Path | None:
    """Return the part of a path that belongs to another user, in a folder where anybody may create entries.

    That user could put another folder in the place of ours. None where there is none.
    """
    for part in (folder, *folder.parents[:-1]):
        if part.parent.stat().st_mode & stat.S_IWOTH and part.lstat().st_uid not in (os.geteuid(), 0):
            return part
    return None


def whose(folder: Path) -> str | None:
    """Say who else may put journals into a folder; None where only we, or whom root lets, as into a volume that we got.

    Raises OSError.
    """
    found = folder.stat()
    if found.st_uid == os.geteuid() or (found.st_uid == 0 and not found.st_mode & stat.S_IWOTH):
        return None
    return "belongs to another user" if found.st_uid else "is root's, and anybody may write to it"


def make_folder(folder: Path, mode: int) -> None:
    """Create a folder and those it is in, where only we may create entries, whatever the umask. Raises OSError."""
    missing = [part for part in folder.parents if not part.exists()]
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode, parents=True)
        folder.chmod(mode)
        for part in missing:
            if (found := part.stat().st_mode) & OTHERS_WRITE:
                part.chmod(found & ~OTHERS_WRITE)


def make_private(folder: Path) -> None:
    """Create a folder that only we may enter. Raises OSError, and JournalError where others may write to it."""
    make_folder(folder, 0o700)
    if not stat.S_ISDIR(folder.stat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    if others := whose(folder):
        raise JournalError(f"The journal folder {folder} {others}: name another, or one in it.")
    if (part := foreign_part(folder)) is not None:
        raise JournalError(f"The journal folder {part} belongs to another user.")


def fsync_path(path: Path) -> None:
    """Flush a file or the entries of a folder, without which a power cut loses even flushed files. Raises OSError."""
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a pipe would block
    try:
        os.fsync(opened)
    except OSError as error:
        # As Postgres does: some file systems flush no folders, such as those that VirtualBox shares.
        if error.errno not in (errno.EINVAL, errno.EBADF) or not stat.S_ISDIR(os.fstat(opened).st_mode):
            raise
    finally:
        os.close(opened)


def write_atomically(path: Path, data: bytes, mode: int, at: float | None = None) -> None:
    """Write a file atomically: a reader sees the old or the new one, and a failure leaves the old.

    `at`: its modification time, in seconds since 1970. Raises OSError.
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
