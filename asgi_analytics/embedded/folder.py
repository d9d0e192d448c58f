"""The folder of an embedded Postgres: private, locked, with the address and password of its server."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ..clock import SystemClock
from ..errors import EmbeddedPostgresError
from ..folders import foreign_part, fsync_path
from .process import runs, shell

if sys.platform != "win32":
    import fcntl
    import pwd

NOT_WANTED = "The embedded Postgres is no longer wanted: the app has ended."


def prepare(folder: Path, account: pwd.struct_passwd | None) -> None:
    """Make the folder private; refuse one that is another user's, or that holds other things."""
    for part in (*reversed(folder.parents), folder):
        if not part.exists():
            _make(part, 0o700 if account is None else 0o711)
    if strange := foreign_part(folder) or (folder if folder.lstat().st_uid != os.geteuid() else None):
        raise EmbeddedPostgresError(f"{strange} belongs to another user: choose a folder by ASGI_ANALYTICS_DATA_DIR.")
    # In this order: another process that begins here makes the lock first.
    if any(folder.iterdir()) and not (folder / "lock").exists():
        raise EmbeddedPostgresError(f"{folder} holds other things: choose a folder by ASGI_ANALYTICS_DATA_DIR.")
    if account is None:
        folder.chmod(0o700)
        return
    os.chown(folder, -1, account.pw_gid)
    folder.chmod(0o710)
    if not runs(shell('cd "$1"', str(folder)), account):
        raise EmbeddedPostgresError(
            f"As root, Postgres runs as the user {account.pw_name}, who cannot enter {folder}: "
            "choose a folder by ASGI_ANALYTICS_DATA_DIR."
        )


def _make(folder: Path, mode: int) -> None:
    try:
        folder.mkdir(mode)
    except FileExistsError:
        return  # another process was faster
    folder.chmod(mode)  # whatever the umask took


def flock(file: Path) -> int | None:
    """Take the lock and return its file descriptor, None when another process has it."""
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


class Patience:
    """How long a start may take: `seconds`, and only as long as somebody wants it."""

    def __init__(self, seconds: float, is_wanted: Callable[[], bool]) -> None:
        self._deadline = SystemClock.monotonic() + seconds
        self._is_wanted = is_wanted

    def renewed(self, seconds: float) -> Patience:
        """Return one with the same user that begins now."""
        return Patience(seconds, self._is_wanted)

    def pause(self, complaint: str) -> None:
        """Wait a moment. Raises EmbeddedPostgresError with the complaint when time is up, or nobody wants it now."""
        if not self._is_wanted():
            raise EmbeddedPostgresError(NOT_WANTED)
        if SystemClock.monotonic() > self._deadline:
            raise EmbeddedPostgresError(complaint)
        time.sleep(0.02)


def address(password: str, port: int) -> str:
    """Return the DSN of the server."""
    return f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres?sslmode=disable"


def read_dsn(folder: Path) -> str | None:
    """Return the DSN that was written last, None where there is none."""
    try:
        return (folder / "dsn").read_text("utf-8").strip() or None
    except FileNotFoundError:
        return None


def write_dsn(folder: Path, dsn: str) -> None:
    """Write the DSN, readable by us alone, so that a power cut leaves the old one or this."""
    handle, name = tempfile.mkstemp(prefix="new-", dir=folder)
    with open(handle, "w", encoding="utf-8") as file:
        file.write(dsn + "\n")
        file.flush()
        os.fsync(handle)
    os.replace(name, folder / "dsn")
    fsync_path(folder)
