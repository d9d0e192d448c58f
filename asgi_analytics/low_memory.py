"""Where memory runs out, MemoryError is the least: here is what keeps the rest from us.

Compiled Rust aborts the process; threading.Thread.start waits for ever for a thread that dies as it begins; and locks
that are taken and given back in Python, as by threading.Condition and logging, stay taken.
"""

from __future__ import annotations

from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from threading import Lock

A_THREAD = 24 << 20  # bytes: its stack, and what it begins with
A_LINE = 1 << 20  # bytes: of a log


def ensure_memory(size: int) -> None:
    """Raise MemoryError where there are fewer bytes left. Takes a microsecond: none of them is touched."""
    try:
        mmap(-1, size, MAP_PRIVATE | MAP_ANONYMOUS).close()
    except OSError as error:
        raise MemoryError(str(error)) from error


class SafeEvent:
    """As threading.Event, which is a Condition: here the lock is one of C's, free while the event is set."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._lock.acquire()
        self._is_set = False

    def is_set(self) -> bool:
        """Tell whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Wake all who wait."""
        self._is_set = True
        self._free()

    def clear(self) -> None:
        """Have others wait again; for the one thread that waits."""
        self._is_set = False
        self._lock.acquire(blocking=False)

    def wait(self, timeout: float) -> bool:
        """Wait until it is set, at most `timeout` seconds; return whether it is."""
        if not self._is_set and self._lock.acquire(timeout=max(0.0, timeout)):
            self._free()  # for the next
        return self._is_set

    def _free(self) -> None:
        try:
            self._lock.release()
        except RuntimeError:  # it is free
            pass
