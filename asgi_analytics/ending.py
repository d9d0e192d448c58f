"""The end of a process: what its engines have left is delivered within one deadline for all of them."""

from __future__ import annotations

from collections.abc import Sequence
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
