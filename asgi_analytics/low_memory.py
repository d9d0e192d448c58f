"""Guards against what running out of memory does besides MemoryError.

Compiled Rust aborts the process; threading.Thread.start waits for ever for a thread that dies as it begins (as it does
while the interpreter ends); and locks that are acquired and released in Python code, as in threading.Condition and
logging, stay locked.
"""

from __future__ import annotations

import sys
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from threading import Lock, Thread

A_THREAD = 24 << 20  # bytes: its stack, and its first allocations
A_LINE = 1 << 20  # bytes: to format and write a line of a log


def ensure_memory(size: int) -> None:
    """Raise MemoryError if fewer bytes are left. Takes a microsecond: they are mapped, not touched."""
    try:
        mmap(-1, size, MAP_PRIVATE | MAP_ANONYMOUS).close()
    except OSError as error:
        raise MemoryError(str(error)) from error


def start_thread(thread: Thread) -> None:
    """Start a thread. Raises RuntimeError or MemoryError where none can begin."""
    if sys.is_finalizing():  # a finaliser makes a request
        raise RuntimeError("the interpreter ends")
    ensure_memory(A_THREAD)
    thread.start()


class SafeEvent:
    """A threading.Event made of one C-level lock instead of a Condition: unlocked while the event is set."""

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
        """Reset it. Only for the one thread that waits on it."""
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
