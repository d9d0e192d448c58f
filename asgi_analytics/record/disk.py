"""The disk that a journal is on: what is written to it and flushed. One that hangs must not hold up the app."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from ..clock import SystemClock

# Seconds of a flush, after which a disk hangs: the first writes to it return all the same, and later ones do not.
PATIENCE = 2.0
LOOK = 0.1  # seconds between two looks at a flush that is waited for


def _write_with_gil() -> Callable[[int, bytes, int], int]:
    """Return write(2) as a call that does not release the GIL; it returns -1 or a short count when it fails.

    os.write releases the GIL for these 2 µs, and a busy thread (mostly our writer's) may then keep it for 5 ms.
    """
    write = ctypes.PyDLL(None).write
    write.restype = ctypes.c_ssize_t  # without argtypes, which take a third of the time: no row has 2 GB
    return write


write = _write_with_gil()


def write_whole(descriptor: int, size: int, data: bytes) -> None:
    """Write all or nothing behind the first `size` bytes of a file; what follows them is cut off. Raises OSError."""
    os.ftruncate(descriptor, size)
    try:
        written = os.write(descriptor, data)
        # After a short write, writing the rest raises the error that explains it.
        if written != len(data) and os.write(descriptor, data[written:]) != len(data) - written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def read_tail(descriptor: int, size: int) -> bytes:
    """Return the last `size` bytes of a file, all of a shorter one. Raises OSError."""
    return os.pread(descriptor, size, max(0, os.fstat(descriptor).st_size - size))


def flush(descriptor: int) -> None:
    """Have the system write to the disk what a file holds. Raises OSError."""
    os.fdatasync(descriptor) if hasattr(os, "fdatasync") else os.fsync(descriptor)


class Disk:
    """Lets one thread flush at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = threading.Lock()
        self.busy_since: float | None = None  # monotonic seconds: a flush goes on
        self.error: OSError | None = None  # of a flush that took long, until somebody tells it

    def hangs(self) -> bool:
        """Tell whether a flush has gone on for longer than PATIENCE."""
        since = self.busy_since
        return since is not None and SystemClock.monotonic() - since > PATIENCE

    @contextlib.contextmanager
    def flushing(self) -> Iterator[None]:
        """Wait for a flush that goes on: rows of this caller may be among them. Raises OSError where the disk hangs."""
        while not self._turn.acquire(timeout=0.0 if self.hangs() else LOOK):
            if self.hangs():
                raise OSError(errno.ETIMEDOUT, "does not answer", str(self._path))
        self.busy_since = began = SystemClock.monotonic()
        try:
            yield
        finally:
            self.busy_since = None
            self._turn.release()
            if (took := SystemClock.monotonic() - began) > PATIENCE:
                text = f"took {took:.1f} s for a flush: hits were kept in memory meanwhile"
                self.error = OSError(errno.ETIMEDOUT, text, str(self._path))
