"""How engines stop: what they still hold is delivered within one deadline for all of them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .clock import SystemClock
from .embedded import EmbeddedPostgres
from .low_memory import start_thread
from .record.writer import LAST_WAIT, Writer
from .shared.sharer import Sharer

RETURN_PATIENCE = 0.5  # seconds to give back the quota units that were lent


@dataclass(frozen=True, slots=True)
class Stopping:
    """The parts of an engine that was told to stop and may still be at work; `timeout` in seconds."""

    writer: Writer
    sharer: Sharer | None
    database: EmbeddedPostgres | None
    timeout: float


def finish(stopping: Sequence[Stopping], began: float, timeout: float | None) -> bool:
    """Wait for all of them, `timeout` or each its own seconds from `began` on. Return whether all was delivered."""
    clock = SystemClock.monotonic
    for one in stopping:
        if one.sharer is not None:
            one.sharer.stop(max(0.0, began + RETURN_PATIENCE - clock()))
    for one in stopping:
        patience = one.timeout if timeout is None else timeout
        one.writer.wait(max(0.0, began + patience - clock()))
        one.writer.cut()
    until = clock() + LAST_WAIT
    delivered = [one.writer.finish(max(0.0, until - clock())) for one in stopping]
    for one in stopping:
        if one.database is not None:
            one.database.leave()
    return all(delivered)


class Owners:
    """The middlewares that an engine works for. Once all are gone, its threads alone would keep it alive."""

    def __init__(self, stop: Callable[[], object]) -> None:
        self._stop = stop
        self._alive: weakref.WeakSet[object] = weakref.WeakSet()
        self._known = False
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._alive)

    def add(self, owner: object) -> None:
        """Add a middleware, without keeping it alive."""
        self._alive.add(owner)
        self._known = True

    def stop_if_none_left(self) -> None:
        """Stop the engine, in a thread of its own, once all are gone: the calling thread must not block."""
        # Not by a finaliser: the garbage collector may call those anywhere, with any lock held.
        if not self._known or self._alive or (self._thread is not None and self._thread.is_alive()):
            return
        thread = threading.Thread(target=self._stop, name="asgi-analytics-end", daemon=True)
        try:
            start_thread(thread)
        except (RuntimeError, MemoryError):  # the system starts no thread: tried again with the next call
            return
        self._thread = thread

    def wait(self) -> None:
        """Wait for that thread, if there is one; it ends within the engine's own time-out."""
        if self._thread is not None:
            self._thread.join()
