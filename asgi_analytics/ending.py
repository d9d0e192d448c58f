"""The end of engines: what they have left is delivered within one deadline for all of them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .clock import SystemClock
from .embedded import EmbeddedPostgres
from .record.writer import LAST_WAIT, Writer
from .shared.sharer import Sharer

RETURN_PATIENCE = 0.5  # seconds that returning what was lent may take at the end


@dataclass(frozen=True, slots=True)
class Leaving:
    """What of an engine that stops is still at work; `timeout` in seconds."""

    writer: Writer
    sharer: Sharer | None
    database: EmbeddedPostgres | None
    timeout: float


def end(leaving: Sequence[Leaving], began: float, timeout: float | None) -> bool:
    """Wait for all of them, `timeout` or each its own seconds from `began` on. Return whether all was delivered."""
    clock = SystemClock.monotonic
    for one in leaving:
        if one.sharer is not None:
            one.sharer.stop(max(0.0, began + RETURN_PATIENCE - clock()))
    for one in leaving:
        patience = one.timeout if timeout is None else timeout
        one.writer.wait(max(0.0, began + patience - clock()))
        one.writer.cut()
    until = clock() + LAST_WAIT
    delivered = [one.writer.finish(max(0.0, until - clock())) for one in leaving]
    for one in leaving:
        if one.database is not None:
            one.database.stop()
    return all(delivered)


class Owners:
    """Those that an engine works for. Once all are gone nobody else would stop it: its threads keep it alive."""

    def __init__(self, stop: Callable[[], object]) -> None:
        self._stop = stop
        self._alive: weakref.WeakSet[object] = weakref.WeakSet()
        self._known = False
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._alive)

    def add(self, owner: object) -> None:
        """Work for somebody, who is not kept alive."""
        self._alive.add(owner)
        self._known = True

    def look(self) -> None:
        """Stop, in a thread of its own, when all are gone. Called now and then by a thread that may not wait."""
        # Not by a finaliser: the garbage collector calls those in the middle of anything, with any lock held.
        if not self._known or self._alive or (self._thread is not None and self._thread.is_alive()):
            return
        thread = threading.Thread(target=self._stop, name="asgi-analytics-end", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system gives no thread: we look again
            return
        self._thread = thread

    def wait(self) -> None:
        """Wait for the thread that stops, if there is one: for no longer than the engine's own time-out."""
        if self._thread is not None:
            self._thread.join()
